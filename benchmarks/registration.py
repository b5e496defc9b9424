"""How well are films registered to their CT? `python -m benchmarks.registration phantoms=40 draws=3 seed=100`

Pairs with a known camera, as `benchmarks.film_pairs` makes them: phantoms, and each real chest of ../shared/data (where
there is one) `draws` times. The last line is one JSON object, for each block: pairs; median and 90th percentile of the
error of declared and registered cameras (mm in the patient, over the middle plane and 80 mm before and behind it;
failures count with the declared camera's); processor seconds per registration and per check; of true pairs the share
not registered; recall: of registrations that failed, by more than FAILED_MM or since the CT is another patient's, the
share that says so; of films mirrored, turned or inverted the share that the pair check names rightly, and of good ones
the share that it reports.
"""

import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from benchmarks.command import benchmark
from benchmarks.film_pairs import CT_MM, Pair, chest_pairs, phantom_pairs, thinned
from benchmarks.real_data import DATA, LIDC, TOTALSEG
from dataset.scans.pair_check import CHANGES, NEGATIVE, check_pair, fits_better
from dataset.scans.registration import register
from dataset.scans.volume_io import read_ct

FAILED_MM = 8.0

T = TypeVar("T")
log = logging.getLogger(__name__)


def scans() -> list[Path]:
    """The real chests that there are."""
    paths = [*sorted((DATA / "chests_2mm").glob("*.nii.gz")), LIDC, TOTALSEG]
    return [path for path in paths if path.is_file()]


def worked(work: Callable[[], T]) -> tuple[T, float]:
    """What it gives, and the processor seconds it took."""
    started = time.process_time()
    return work(), time.process_time() - started


def spoilt(film: np.ndarray, change: str) -> np.ndarray:
    """A film that CHANGES would mend."""
    if change == NEGATIVE:
        return 1 - film
    mirrored, quarters = CHANGES[change]
    turned = np.rot90(film, -quarters)
    return turned[:, ::-1] if mirrored else turned


def measure(pair: Pair, other: Pair, change: str) -> dict[str, Any]:
    """One pair registered, another patient's CT registered to its film, and the film checked as it is and spoilt."""
    found, seconds = worked(lambda: register(pair.film, pair.hu, pair.spacing, pair.declared))
    swapped = register(pair.film, other.hu, other.spacing, pair.declared)
    scores, check_s = worked(lambda: check_pair(pair.film, pair.hu, pair.spacing, pair.declared))
    bad = check_pair(spoilt(pair.film, change), pair.hu, pair.spacing, pair.declared)
    row = {
        "name": pair.name,
        "declared_mm": pair.error_mm(pair.declared),
        "error_mm": pair.error_mm(found.camera),
        "ok": found.ok,
        "score": found.score,
        "swapped_ok": swapped.ok,
        "swapped_score": swapped.score,
        "seconds": seconds,
        "check_seconds": check_s,
        "told": fits_better(bad) == change,
        "false_report": fits_better(scores) is not None,
    }
    log.info("%s", {key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()})
    return row


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    column = {key: np.array([row[key] for row in rows]) for key in rows[0]}
    failed = (column["error_mm"] > FAILED_MM) & column["ok"]  # not ok: the declared camera is kept, and said to be
    flagged = int((~column["ok"] & (column["declared_mm"] > FAILED_MM)).sum() + (~column["swapped_ok"]).sum())
    missed = int(failed.sum() + column["swapped_ok"].sum())
    errors = ("declared_mm", "error_mm")
    percentiles = {f"{key}_{q}": round(float(np.percentile(column[key], q)), 2) for key in errors for q in (50, 90)}
    means = ("seconds", "check_seconds", "told", "false_report")
    return {
        "pairs": len(rows),
        **percentiles,
        "error_mm_max": round(float(column["error_mm"].max()), 2),
        "not_registered": round(float((~column["ok"]).mean()), 4),
        "recall_of_failures": round(flagged / max(flagged + missed, 1), 4),
        "lowest_score": round(float(column["score"].min()), 4),
        "highest_swapped_score": round(float(column["swapped_score"].max()), 4),
        **{key: round(float(column[key].mean()), 3) for key in means},
    }


def block(pairs: Iterable[Pair], seed: int, apart: int) -> dict[str, Any]:
    """Each pair, and its film beside the CT of the pair `apart` places further on; of the last ones, the first CT."""
    rng, rows = np.random.default_rng(seed), []
    wrongs = [*CHANGES, NEGATIVE][1:]
    waiting: list[Pair] = []
    first: Pair | None = None
    for pair in pairs:
        first = first or pair
        waiting.append(pair)
        if len(waiting) > apart:
            rows.append(measure(waiting.pop(0), pair, str(rng.choice(wrongs))))
    rows += [measure(pair, first, str(rng.choice(wrongs))) for pair in waiting if first is not None]
    return summary(rows)


@benchmark()
def main(phantoms: int = 40, draws: int = 3, seed: int = 100) -> dict[str, Any]:
    found = scans()
    result: dict[str, Any] = {}
    if phantoms:
        result["phantom"] = block(phantom_pairs(range(phantoms), seed), seed, 1)
    if found and draws:
        result["real"] = block(chest_pairs(found, range(draws), seed), seed, draws)
        volume = read_ct(max(found, key=lambda path: path.stat().st_size))
        result["thinning_seconds"] = round(worked(lambda: thinned(volume, CT_MM))[1], 2)
        result["thinned_from"] = list(volume.hu.shape)
    return result


if __name__ == "__main__":
    main()
