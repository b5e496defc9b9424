"""Does it hold on patients who are no phantoms? `python -m benchmarks.real_patients block=film`

Trains the demo's networks on phantoms only, on real chests only, and on both, and draws the chests of patients whom
that training has not seen, at 4.8 mm: each patient is left out once, in `folds` parts. Of each patient in a training it
sees `variants` CTs, scaled, turned and bent anew, each with an X-ray of its own: block=clean, the projection of that
CT; block=film, a film of another breath and stance (`benchmarks.film_pairs`). The chests are those of ../shared/data,
or `scans=a.nii.gz,b.nii.gz`; scans named *_partial are never left out. No film of these patients exists: all are
projected.

Options: block=, rows=phantoms,real,both, scans=, variants=, phantoms=, folds=, steps=, codec_steps= (of stages 2 and 1;
default the demo's), jobs= (trainings at once), out=. Other settings go to run_demo.py. What is done is not done again.
`out` gets table.md; the last line is one JSON object: for each row n, means and differences with 95 % intervals over
patients, as evaluate_ddpm_patches.py has them; minus_phantoms: psnr_right less that of the row `phantoms`, patient by
patient. Pictures of each patient lie in the rows' folders, in `evaluation`.
"""

import csv
import json
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import run_demo
from benchmarks.codec_quality import TEST, TRAIN
from benchmarks.command import benchmark
from benchmarks.conditioning import BLOCKS, minus, summary, table
from benchmarks.demo_model import stages
from benchmarks.measure import run
from benchmarks.real_pairs import name_of, write_pair
from common.atomic import write_text
from common.errors import UserError
from common.memory import PeakMemory
from dataset.prepare.processes import results_of

ROWS = ("phantoms", "real", "both")
COLUMNS = ("patient_id", "ct", "xray", "split")


def pairs_of(row: str, fold: int | None, scans: Sequence[Path], folds: int, variants: int) -> Iterator[tuple[str, str]]:
    """(name, split) of the real pairs of a training; fold None leaves all patients out."""
    whole = sorted(name_of(scan) for scan in scans if "_partial" not in scan.name)
    for name in sorted(map(name_of, scans)):
        if name in whole and (fold is None or whole.index(name) % folds == fold):
            yield f"{name}_00", "val"
        elif row != "phantoms":
            yield from ((f"{name}_{i:02d}", "train") for i in range(variants))


def write_table(data: Path, real: Sequence[tuple[str, str]], made: Path, with_phantoms: bool) -> None:
    """data/pairs.csv, which names files in the folder `made`."""
    rows = [[name, f"{made}/pairs/{name}.nii.gz", f"{made}/pairs/{name}.png", split] for name, split in real]
    if with_phantoms:
        with (made / "phantoms" / "pairs.csv").open(newline="") as file:
            found = list(csv.DictReader(file))
        rows += [[r["patient_id"], *(f"{made}/phantoms/{r[key]}" for key in ("ct", "xray")), "train"] for r in found]
    data.mkdir(parents=True, exist_ok=True)
    with (data / "pairs.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])


def prepare_all(
    scans: Sequence[Path], variants: int, phantoms: int, block: str, jobs: int, made: Path, settings: Sequence[str]
) -> None:
    """Every pair of every training, prepared once: made/pairs, made/phantoms, made/data/store."""
    (made / "pairs").mkdir(parents=True, exist_ok=True)
    wanted = [(scan, i) for scan in scans for i in range(variants)]
    for _ in results_of(partial(write_pair, folder=made / "pairs", block=block), wanted, jobs, "pairs: %d of %d"):
        pass
    phantom, prepare, *_ = stages([*settings, f"dir={made}"]).values()
    number = [f"dataset.phantom.num_cases={phantoms}", f"dataset.root={made}/phantoms"]
    run(phantom.script, [*phantom.command[1:], *number])
    write_table(made / "data", [(f"{name_of(s)}_{i:02d}", "train") for s, i in wanted], made, with_phantoms=True)
    run(prepare.script, prepare.command[1:])


def train_and_evaluate(settings: Sequence[str], amount: Sequence[str], store: Path, folder: Path) -> dict[str, Any]:
    """The metrics of the demo's stages on the pairs of folder/data, whose cases `store` holds prepared."""
    made = list(stages([*settings, f"dir={folder}", *amount]).values())
    own = folder / "data" / "store"
    if not own.exists():
        shutil.copytree(store, own, ignore=shutil.ignore_patterns("splits.json", "shares.json", "report*"))
    run_demo.run_all(made[1:], folder / "stages", PeakMemory())  # the first one makes phantoms
    found: dict[str, Any] = json.loads((folder / "evaluation" / "metrics.json").read_text())
    return found


def figures(parts: Sequence[dict[str, Any]], phantoms: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """Over the patients of all parts, each of whom is in one of them; beside those of the row `phantoms`."""
    return {"n": sum(len(part["cases"]) for part in parts)} | summary(parts) | minus("phantoms", parts, phantoms)


@benchmark("demo")
def main(
    overrides: list[str],
    block: str = "clean",
    rows: tuple[str, ...] = ROWS,
    scans: tuple[str, ...] = (),
    variants: int = 10,
    phantoms: int = 96,
    folds: int = 4,
    steps: int = 1330,
    codec_steps: int = 2280,
    jobs: int = 1,
    out: str = "outputs/real_patients",
) -> dict[str, Any]:
    if block not in BLOCKS or not set(rows) <= set(ROWS):
        raise UserError(f"block takes {' or '.join(BLOCKS)}, rows any of {','.join(ROWS)}; got {block}, {rows}")
    files = [Path(scan).absolute() for scan in scans] or [*TRAIN, *TEST]
    folder = Path(out).absolute() / block
    settings = [f"experiment={BLOCKS[block]}", *overrides]
    prepare_all(files, variants, phantoms, block, max(1, jobs), folder / "all", settings)
    amount = [f"+ddpm.model.max_steps={steps}", f"+vqgan.model.max_steps={codec_steps}"]
    amount += ["ddpm.model.max_epochs=-1", "vqgan.model.max_epochs=-1"]
    parts = {row: [None] if row == "phantoms" else list(range(folds)) for row in rows}
    places = {(row, fold): folder / f"{row}{'' if fold is None else fold}" for row in parts for fold in parts[row]}
    for (row, fold), place in places.items():
        chosen = list(pairs_of(row, fold, files, folds, variants))
        write_table(place / "data", chosen, folder / "all", with_phantoms=row != "real")
    with ThreadPoolExecutor(jobs) as pool:
        work = partial(train_and_evaluate, settings, amount, folder / "all" / "data" / "store")
        found = dict(zip(places, pool.map(work, places.values()), strict=True))
    by_row = {row: [found[row, fold] for fold in parts[row]] for row in rows}
    results = {row: figures(by_row[row], by_row.get("phantoms", ())) for row in rows}
    write_text(folder / "table.md", table(results))
    return results


if __name__ == "__main__":
    main()
