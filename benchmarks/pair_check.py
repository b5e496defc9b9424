"""Which pairs does preparing report as none? `python -m benchmarks.pair_check phantoms=200 draws=3 seed=7`

Film-like pairs, as `benchmarks.film_pairs` makes them: phantoms, and each real chest of ../shared/data (where there is
one) `draws` times. Each is looked at as `prepare_data.py` does, as it is, with its film spoilt in one way (each in
turn), and with the CT of another patient. The last line is one JSON object, for each block: pairs; share of good pairs
that are reported; of spoilt ones, by how, and of exchanged ones the share reported, and of spoilt ones that of which it
is told rightly how; processor seconds a pair for the camera that preparing finds anyway, and for the check besides; and
what thinning takes of 512 x 512 x 604 voxels, which both need.
"""

import logging
import time
from collections.abc import Iterable
from itertools import cycle
from typing import Any

import numpy as np

from benchmarks.command import benchmark
from benchmarks.film_pairs import Pair, chest_pairs, phantom_pairs
from benchmarks.registration import scans, spoilt
from dataset.prepare.conversion import OFF, REPORT, Conversion
from dataset.prepare.registered import fit_of, thinned_for_films
from dataset.scans.pair_check import CHANGES, NEGATIVE

FULL, FULL_MM = (604, 512, 512), (0.7, 0.7, 0.7)

log = logging.getLogger(__name__)


def told(film: np.ndarray, pair: Pair, check: str = REPORT) -> tuple[bool, str | None, float]:
    """Whether a film beside the pair's CT is reported, what it is taken for, and the processor seconds."""
    started = time.process_time()
    conversion = Conversion(register_films=True, pair_check=check)
    fit = fit_of(pair.name, "film", film, pair.hu, pair.spacing, pair.declared, False, conversion)
    return bool(fit.problems), fit.better, time.process_time() - started


def block(pairs: Iterable[Pair], apart: int) -> dict[str, Any]:
    """Each pair; its film also beside the CT of the one `apart` places before it, if there is."""
    false, exchanged, right, seconds, before = [], [], [], [], []
    reported: dict[str, list[bool]] = {name: [] for name in [*CHANGES, NEGATIVE][1:]}
    for change, pair in zip(cycle(reported), pairs, strict=False):
        found, _, both_s = told(pair.film, pair)
        false.append(found)
        bad, better, _ = told(spoilt(pair.film, change), pair)
        reported[change].append(bad)
        right.append(better == change)
        seconds.append((told(pair.film, pair, OFF)[2], both_s))
        before.append(pair)
        if len(before) > apart:
            other = before.pop(0)
            exchanged.append(told(pair.film, Pair(**vars(other) | {"declared": pair.declared}))[0])
        log.info("%s: %s, %s %s (%s), %s", pair.name, found, change, bad, better, exchanged[-1:])
    alone, both = np.mean(seconds, axis=0)
    return {
        "pairs": len(false),
        "false_reports": round(float(np.mean(false)), 4),
        "spoilt_reported": {name: round(float(np.mean(all_)), 4) for name, all_ in reported.items() if all_},
        "spoilt_told_rightly": round(float(np.mean(right)), 4),
        "exchanged": len(exchanged),
        "exchanged_reported": round(float(np.mean(exchanged)), 4) if exchanged else None,
        "camera_seconds": round(float(alone), 3),
        "check_seconds": round(float(both - alone), 3),
    }


@benchmark()
def main(phantoms: int = 200, draws: int = 3, seed: int = 7) -> dict[str, Any]:
    result: dict[str, Any] = {}
    hu = np.zeros(FULL, np.int16)
    started = time.process_time()
    thinned_for_films(hu, FULL_MM)
    result["thinning_seconds"] = round(time.process_time() - started, 2)
    if phantoms:
        result["phantom"] = block(phantom_pairs(range(phantoms), seed), 1)
    found = scans()
    if found and draws:
        result["real"] = block(chest_pairs(found, range(draws), seed), draws)
    return result


if __name__ == "__main__":
    main()
