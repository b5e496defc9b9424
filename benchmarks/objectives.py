"""What should stage 2 predict, and how is it trained? `python -m benchmarks.objectives rows=v,x0,flow`

Trains stage 2 of the demo for each row and seed, on the same patients, codec and latents, and judges what is drawn for
held-out patients: not the loss, which no two rows share. What is prepared is shared by all rows, and made by the first
that needs it. Rows may run in processes beside one another, each with some `rows=` and the same other options; a row
that is done is not done again.

A row is an objective, or v with other settings (see ROWS): even is v that sees all noise levels alike; adamw is v,
trained by that optimizer in place of the demo's; whole is v, trained on whole latents in the last quarter of its steps.

Options: rows=, seeds= (of the training), block=clean or film (experiment=demo_film), channels= (of the codec),
steps_per_row= or else minutes_per_row= (their speeds are measured first), cases= and draws= (per X-ray), device=, out=.
Other settings go to run_demo.py, e.g. vqgan.quantizer=vq ddpm.model.dim=64. `out` gets BLOCK_CHANNELSch/rows/, one JSON
file a row and seed, and table.md, results.json and plot.svg of all that are done; the last line is that JSON.

psnr_*: dB of the mean of the draws with the right, another's and no X-ray, of one draw (single), of sampler=mean
(expected), of the mean of the draws in mode=whole and of the mean training CT. gradient_energy, hu_histogram,
block_index, seam_index (at the windows' faces), lattice_index: of one draw, against the real CT's.
spread: of the draws, 1 where they are as uncertain as they should be. minus_v: psnr_right less that of row v, patient
by patient. evaluations: of one window of the network, for all draws. *_95: intervals over patients.
"""

import json
import logging
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

from omegaconf import DictConfig
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import run_demo
from benchmarks.command import benchmark
from benchmarks.conditioning import BLOCKS, TRAINING, steps_for, table
from benchmarks.decoded import Judge, found_of
from benchmarks.demo_model import stages
from benchmarks.measure import run, stamp
from benchmarks.scatter import scatter
from common.atomic import write_text
from common.errors import UserError
from common.locks import exclusive
from common.memory import PeakMemory
from dataset.store.store import VolumeStore
from evaluation.controls import Estimate, correlation, mean_of
from pipeline.cli import composed
from pipeline.sampling.ct_sampler import CTSampler, plan_of
from pipeline.training import run as training_run
from pipeline.training.stages import build_ddpm

ROWS: Mapping[str, Sequence[str]] = {
    "v": [],
    "x0": ["diffusion.prediction=x0"],
    "noise": ["diffusion.prediction=noise"],
    "flow": ["diffusion=flow"],
    "regression": ["diffusion=regression"],
    "even": ["model.training_shift=1"],
    "adamw": ["optimizer=adamw", "model.train_lr=0.002"],
    "whole": [],
}
WHOLE = ("model.use_patches=false", "model.patches_per_volume=1", "model.val_patches_per_volume=1")
LAST: Mapping[str, Sequence[str]] = {  # of the last quarter of a row's steps; of the demo two volumes are 8 patches
    "whole": [*WHOLE, "model.batch_size=2", "model.train_lr=0.003", "model.warmup_steps=20"],
}
MEANS: Sequence[str] = (
    *(f"psnr_{name}" for name in ("right", "wrong", "null", "mean_volume", "single", "expected", "whole")),
    *("ssim_right", "gradient_energy", "hu_histogram", "block_index", "lattice_index", "seam_index"),
    *("spread", "evaluations"),
)

log = logging.getLogger(__name__)


class Laboratory:
    """The demo's patients, codec and latents, in a folder that all rows share.

    Args:
        words: of run_demo.py. device: "auto", "cpu", "cuda".
    """

    def __init__(self, folder: Path, words: Sequence[str], device: str) -> None:
        self.folder, self.words, self.device = folder, words, device

    def stages(self, name: str) -> dict[str, run_demo.Stage]:
        return stages([f"dir={self.folder}", *self.words, f"variant={name}"])

    def prepare(self, rows: Sequence[str]) -> None:
        """Run what comes before stage 2, unless that is done; one process does it, others wait."""
        made = self.stages("any")
        before = [made[script] for script in list(made)[: list(made).index(TRAINING)]]
        with exclusive(self.folder / ".lock"):
            run_demo.run_all(before, self.folder / "stages", PeakMemory())
            if not LAST.keys().isdisjoint(rows):
                run("encode_latents.py", [*before[-1].command[1:], "overwrite=false", *WHOLE, self._whole_latents])

    @property
    def _whole_latents(self) -> str:
        """The setting that names the folder of latents which are all as large as the largest."""
        return f"dataset.latents_dir={self.folder}/whole_latents"

    def training(self, row: str, seed: int, part: str = "") -> list[str]:
        """Settings of train_ddpm_patches_4gpu.py."""
        words = self.stages(f"{row}{part}_s{seed}")[TRAINING].command[1:]
        on_cpu = ["trainer.accelerator=cpu"] if self.device == "cpu" else []
        return [*words, *ROWS[row], f"seed={seed}", *on_cpu]

    def train(self, row: str, seed: int, steps: int) -> dict[str, Any]:
        """Train a row; its steps, seconds and speed, of its last part if it has two."""
        words, last, started = self.training(row, seed), LAST.get(row), time.monotonic()
        if last is not None:
            first = _fit(self.training(row, seed, "_first"), steps - steps // 4)
            words += [*last, self._whole_latents, f"init_from={first.checkpoint_dir}/last.ckpt"]
        cfg = _fit(words, steps if last is None else steps // 4)
        seconds = round(time.monotonic() - started, 1)
        return {"steps": steps, "seconds": seconds, "steps_per_s": steps_per_second(cfg.run_dir, cfg.model.batch_size)}

    def judge(self, row: str, seed: int, cases: int, draws: int) -> list[dict[str, Any]]:
        made = self.stages(f"{row}_s{seed}")
        settings = composed("evaluate_ddpm", made["evaluate_ddpm_patches.py"].command[1:])
        model, store = CTSampler(settings.ckpt, device=self.device), VolumeStore(settings.dataset.store)
        judge = Judge(model, store, plan_of(settings), draws, settings.common_grid, self.folder)
        return judge.cases(cases, settings.seed)


def _fit(words: Sequence[str], steps: int) -> DictConfig:
    """Train; the settings of the training."""
    cfg = composed("train_ddpm", [*words, f"model.max_steps={steps}", "model.max_epochs=-1"])
    training_run.run(cfg, build_ddpm)
    return cfg


def steps_per_second(run_dir: str, batch_size: int) -> float:
    """The median that a training wrote down."""
    events = EventAccumulator(str(Path(run_dir) / "tensorboard"), {"scalars": 0})
    events.Reload()
    return round(median(event.value for event in events.Scalars("speed/samples_per_s")) / batch_size, 2)


def gathered(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows that are done, each with its seeds."""
    found = defaultdict(list)
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        found[content["row"]].append(content)
    return {row: found[row] for row in ROWS if row in found}


def summary(row: Sequence[Mapping[str, Any]], reference: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of a row, over patients and seeds; of `reference`, the seeds that both have are compared."""
    cases = [case for one in row for case in one["cases"]]
    patients = [case["patient"] for case in cases]
    found: dict[str, Any] = {"seeds": len(row), "steps": row[0]["training"]["steps"]}
    found["steps_per_s"] = mean(one["training"]["steps_per_s"] for one in row)
    for name in MEANS:
        values = found_of(cases, name)
        found[name] = round(mean(values), 4) if values else None
    found["psnr_right_95"] = _rounded(mean_of([case["psnr_right"] for case in cases], patients))[1]
    found["psnr_right_by_seed"] = [round(mean(found_of(one["cases"], "psnr_right")), 3) for one in row]
    found["right_minus_wrong"] = round(found["psnr_right"] - found["psnr_wrong"], 4)
    drawn, real = ([case[name] for case in cases] for name in ("lung_ml", "lung_ml_real"))
    found["lung_r"] = _rounded(correlation(drawn, real, patients))[0]
    by_seed = {one["seed"]: {case["patient"]: case["psnr_right"] for case in one["cases"]} for one in reference}
    pairs = [
        (case["psnr_right"] - by_seed[one["seed"]][case["patient"]], case["patient"])
        for one in row
        for case in one["cases"]
        if case["patient"] in by_seed.get(one["seed"], ())
    ]
    found["minus_v"], found["minus_v_95"] = None, None
    if pairs:
        differences, owners = zip(*pairs, strict=True)
        found["minus_v"], found["minus_v_95"] = _rounded(mean_of(differences, owners))
    return found


def _rounded(found: Estimate) -> tuple[float | None, list[float] | None]:
    """A value and its interval."""
    interval = None if found.low is None or found.high is None else [round(found.low, 4), round(found.high, 4)]
    return None if found.value is None else round(found.value, 4), interval


def write_all(folder: Path) -> dict[str, Any]:
    """Table, JSON and plot of the rows that are done."""
    rows = gathered(folder / "rows")
    results = {row: summary(seeds, rows.get("v", [])) for row, seeds in rows.items()}
    write_text(folder / "table.md", table(results))
    write_text(folder / "results.json", json.dumps(results, indent=1))
    dots = {row: (found["psnr_right"], found["gradient_energy"]) for row, found in results.items()}
    write_text(folder / "plot.svg", scatter(dots, "PSNR with the right X-ray (dB)", "gradients of one draw / real"))
    return results


@benchmark("demo")
def main(
    overrides: list[str],
    rows: tuple[str, ...] = tuple(ROWS),
    seeds: tuple[int, ...] = (42,),
    block: str = "clean",
    channels: int = 8,
    steps_per_row: int = 0,
    minutes_per_row: float = 8.0,
    cases: int = 16,
    draws: int = 4,
    device: str = "auto",
    out: str = "outputs/objectives",
) -> dict[str, Any]:
    if block not in BLOCKS or not set(rows) <= ROWS.keys():
        raise UserError(f"block takes {' or '.join(BLOCKS)}, rows any of {','.join(ROWS)}; got {block}, {rows}")
    folder = Path(out).absolute() / f"{block}_{channels}ch"
    words = [f"experiment={BLOCKS[block]}", f"vqgan.model.embedding_dim={channels}", *overrides]
    laboratory = Laboratory(folder, words, device)
    laboratory.prepare(rows)
    for seed in seeds:
        for row in rows:
            path, settings = folder / "rows" / f"{row}_s{seed}.json", laboratory.training(row, seed)
            asked = {"settings": settings, "cases": cases, "draws": draws}
            asked |= {"steps_per_row": steps_per_row} if steps_per_row else {"minutes_per_row": minutes_per_row}
            if path.is_file() and json.loads(path.read_text(encoding="utf-8"))["asked"] == asked:
                log.info("%s, seed %d: done before", row, seed)
                continue
            steps = steps_per_row or steps_for(minutes_per_row, settings, folder / "speed" / f"{row}_s{seed}")
            content = {"row": row, "seed": seed, "asked": asked, "training": laboratory.train(row, seed, steps)}
            content |= {"cases": laboratory.judge(row, seed, cases, draws)} | stamp()
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, json.dumps(content))
            log.info("%s, seed %d: %s", row, seed, write_all(folder)[row])
    return write_all(folder)


if __name__ == "__main__":
    main()
