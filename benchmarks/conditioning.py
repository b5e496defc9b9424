"""What does each part of the X-ray's way into the network bring? `python -m benchmarks.conditioning block=film`

Trains stage 2 of the demo with the settings of each row below, all for `minutes` of training on this machine (their
speeds are measured first) or for as many `steps`, on the same patients, and evaluates each as the demo does.
block=clean: X-rays that are projections of the CT; block=film: films (experiment=demo_film). Rows that differ in stage
2 alone share one folder of data, codec and latents. What is done is not done again, so it goes on where it was ended.

Options: block=, rows=pooled,tokens,... (see ROWS), seeds= (of the training), minutes= or steps=, out=. Other settings
go to run_demo.py, e.g. ddpm.model.batch_size=4, seed=43. `out` gets table.md with COLUMNS, plot.svg and results.json;
the last line is that JSON: for each row what evaluate_ddpm_patches.py sums up, over all seeds. minus_lifted: psnr_right
less that of the row `lifted`, patient by patient. *_95: intervals over patients, who are redrawn with all their seeds.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import run_demo
from benchmarks.command import benchmark
from benchmarks.demo_model import stages
from benchmarks.measure import run
from benchmarks.scatter import scatter
from common.atomic import write_text
from common.errors import UserError
from common.memory import PeakMemory
from evaluation.controls import CONTROLS, compare_with_controls, correlation, mean_of

LATERAL = [
    "+phantom.dataset.phantom.xray.lateral=true",
    "+latents.model.views=[lateral]",
    "+ddpm.model.views=[lateral]",
]
AUGMENT = ["+latents.dataset.film_augment=true", "+ddpm.dataset.film_augment=true"]
ROWS: Mapping[str, Sequence[str]] = {
    "pooled": ["+ddpm.model.cond=[pooled]"],
    "tokens": ["+ddpm.model.cond=[pooled,tokens]"],
    "lifted": [],
    "declared": ["+prepare.dataset.register_films=false"],  # lifted by the cameras that the files tell
    "augmented": AUGMENT,
    "lateral": LATERAL,
}
BLOCKS = {"clean": "demo", "film": "demo_film"}
SHARED = "data"  # folder of the rows whose data, codec and latents are the same
REFERENCE = "lifted"
ONLY_FILMS = ("declared",)
COLUMNS = (
    *("seeds", "steps", "psnr_right", "minus_lifted", "minus_lifted_95", "right_minus_wrong", "right_minus_wrong_95"),
    *("right_minus_null", "right_minus_null_95", "right_minus_mean_volume", "right_minus_mean_volume_95"),
    *("psnr_mean_volume", "psnr_codec", "ssim_right", "lung_volume_correlation", "lung_volume_correlation_95"),
    *("volume_correlation_mediastinum", "volume_error_ml_lung", "volume_error_ml_mediastinum"),
    *("projection_right", "own_xray_found_right", "gradient_energy", "block_index"),
)
SHORT, LONG = 10, 40  # steps of the two trainings whose difference is the speed
TRAINING = "train_ddpm_patches_4gpu.py"


def folder_of(row: str, out: Path) -> Path:
    """Where a row's demo lies: rows that differ in stage 2 alone share one."""
    return out / (SHARED if all(word.startswith("+ddpm.") for word in ROWS[row]) else row)


def settings_of(row: str, block: str, out: Path, overrides: Sequence[str], seed: int = 42) -> list[str]:
    """Of run_demo.py; the seed is that of the training."""
    return [
        f"experiment={BLOCKS[block]}",
        f"dir={folder_of(row, out)}",
        f"variant={row}_s{seed}",
        f"+ddpm.seed={seed}",
        *overrides,
        *ROWS[row],
    ]


def steps_for(minutes: float, settings: Sequence[str], folder: Path) -> int:
    """How many steps a training of these settings takes in so many minutes; kept in a file of the folder."""
    known = folder / "seconds_per_step.json"
    if not known.is_file():
        seconds = []
        for steps in (SHORT, LONG):
            limit = [f"run_dir={folder}/speed{steps}", f"checkpoint_dir={folder}/speed{steps}", "resume=never"]
            amount = [f"model.max_steps={steps}", "model.max_epochs=-1", "model.val_every_n_epochs=1000"]
            seconds.append(run(TRAINING, [*without(settings, "run_dir", "checkpoint_dir"), *limit, *amount])[0])
        write_text(known, json.dumps((seconds[1] - seconds[0]) / (LONG - SHORT)))
    return max(1, round(60 * minutes / float(json.loads(known.read_text()))))


def without(settings: Sequence[str], *keys: str) -> list[str]:
    return [word for word in settings if word.partition("=")[0] not in (*keys, "resume")]


def measure(
    row: str, block: str, minutes: float, steps: int, out: Path, overrides: Sequence[str], seed: int
) -> dict[str, Any]:
    """What a row's evaluation wrote, and the steps of its training; `steps` of 0: as many as `minutes` allow."""
    settings, folder = settings_of(row, block, out, overrides, seed), folder_of(row, out)
    made = stages(settings)
    before = [made[script] for script in list(made)[: list(made).index(TRAINING)]]
    run_demo.run_all(before, folder / "stages", PeakMemory())
    steps = steps or steps_for(minutes, made[TRAINING].command[1:], out / "speed" / row)
    run("run_demo.py", [*settings, f"+ddpm.model.max_steps={steps}", "ddpm.model.max_epochs=-1"])
    metrics: dict[str, Any] = json.loads(made["evaluate_ddpm_patches.py"].product.read_text())
    return metrics | {"steps": steps}


def summaries(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """The figures of each row, from the metrics of its seeds."""
    results = {}
    for row, parts in found.items():
        known = [part["summary"] for part in parts]
        scalars = [name for name, value in known[0].items() if isinstance(value, float | int)]
        means = {name: mean(one[name] for one in known) for name in scalars if all(name in one for one in known)}
        results[row] = {"seeds": len(parts), "steps": parts[0]["steps"]} | means | summary(parts)
        results[row] |= minus(REFERENCE, parts, found.get(REFERENCE, ()))
    return results


def summary(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means, differences and the lungs' correlation over the cases of several evaluations."""
    cases = [case for part in parts for case in part["cases"]]
    patients = [name for part in parts for name in part["scores"]]
    keys = {"right": "psnr"} | {n: f"psnr_{n}" for n in (*CONTROLS, "codec")}
    keys = {n: key for n, key in keys.items() if all(key in case for case in cases)}  # one patient alone has no other
    scores = compare_with_controls({n: [c[key] for c in cases] for n, key in keys.items()}, patients)
    found: dict[str, Any] = {f"psnr_{name}": value for name, value in scores.means.items()}
    for name, estimate in scores.differences.items():
        found |= {f"right_minus_{name}": estimate.value, f"right_minus_{name}_95": [estimate.low, estimate.high]}
    drawn, real = ([case[key] for case in cases] for key in ("lung_ml", "lung_ml_real"))
    lungs = correlation(drawn, real, patients)
    return found | {"lung_volume_correlation": lungs.value, "lung_volume_correlation_95": [lungs.low, lungs.high]}


def minus(row: str, parts: Sequence[Mapping[str, Any]], reference: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """By how much patients' PSNR is above that in another row, patient by patient; nothing where none is in both."""
    there = defaultdict(list)
    for part in reference:
        for name, value in psnr_of(part).items():
            there[name].append(value)
    own = [pair for part in parts for pair in psnr_of(part).items() if pair[0] in there]
    if not own:
        return {}
    found = mean_of([value - mean(there[name]) for name, value in own], [name for name, _ in own])
    return {f"minus_{row}": found.value, f"minus_{row}_95": [found.low, found.high]}


def psnr_of(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Of each patient."""
    return {name: case["psnr"] for name, case in zip(metrics["scores"], metrics["cases"], strict=True)}


def write_all(folder: Path, results: Mapping[str, Mapping[str, Any]]) -> None:
    """Table, JSON and plot."""
    chosen = {row: {key: found[key] for key in COLUMNS if key in found} for row, found in results.items()}
    write_text(folder / "table.md", table(chosen))
    write_text(folder / "results.json", json.dumps(results, indent=1))
    dots = {row: (found["psnr_right"], found["right_minus_wrong"]) for row, found in results.items()}
    write_text(folder / "plot.svg", scatter(dots, "PSNR with the right X-ray (dB)", "less that with a wrong one (dB)"))


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: a row each, a column for every figure that all have."""
    first, *others = results.values()
    columns = [key for key in first if all(key in other for other in others)]
    lines = [["", *columns], ["---"] * (1 + len(columns))]
    lines += [[name, *(shown(found[key]) for key in columns)] for name, found in results.items()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def shown(value: Any) -> str:
    if isinstance(value, list):
        return " to ".join(map(shown, value))
    return f"{value:.3f}" if isinstance(value, float) else str(value)


@benchmark("demo")
def main(
    overrides: list[str],
    block: str = "clean",
    rows: tuple[str, ...] = tuple(ROWS),
    seeds: tuple[int, ...] = (42,),
    minutes: float = 8.0,
    steps: int = 0,
    out: str = "outputs/conditioning",
) -> dict[str, Any]:
    if block not in BLOCKS or not set(rows) <= ROWS.keys():
        raise UserError(
            f"block takes {' or '.join(BLOCKS)}, rows any of {','.join(ROWS)}; got {block}, {','.join(rows)}"
        )
    folder = Path(out).absolute() / block
    found: defaultdict[str, list[Any]] = defaultdict(list)
    for seed in seeds:
        for row in rows:
            if block == "film" or row not in ONLY_FILMS:
                found[row].append(measure(row, block, minutes, steps, folder, overrides, seed))
                write_all(folder, summaries(found))
    return summaries(found)


if __name__ == "__main__":
    main()
