"""Does a training repeat itself? `python -m benchmarks.reproduce RUN [steps=30]`

Repeats the first steps of the training whose run folder is RUN, from the settings and the seed that it was started
with, and compares the losses with those that TensorBoard holds, one every `trainer.log_every_n_steps`. Nothing is
written to RUN or to the checkpoints. Start it where the training was started, with as many processes: `torchrun
--nproc_per_node=4 -m benchmarks.reproduce RUN`. Progress goes to stderr, the last line is one JSON object:

steps, then, now: the steps compared, with their losses. equal: to the last bit, as on a CPU they should be; on a GPU
    rounding may differ. largest_difference: of the losses, relative.
differs: what is not as it was at the start of that training: code, packages, GPUs, data.
"""

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig, ListConfig, OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks.command import benchmark
from benchmarks.measure import stamp
from common.errors import UserError
from common.launcher import rank_and_world
from pipeline.cli import CONFIG_DIR
from pipeline.resolvers import register_resolvers
from pipeline.run_record import CHANGES, CONFIG, RUN, facts, start_folder
from pipeline.schema import check
from pipeline.settings import instantiated
from pipeline.training.data import NotPrepared
from pipeline.training.run import prepared
from pipeline.training.stages import build_ddpm, build_vqgan
from pipeline.versions import changes

LOSS = "train/loss"
HOW = "python -m benchmarks.reproduce RUN [steps=30], RUN being the folder of a training (its run_dir)"


class StopAfter(pl.Callback):
    """Ends a training after some steps, whose schedule is that of the whole one."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        trainer.should_stop = trainer.global_step >= self.steps


def stored_settings(start: Path) -> DictConfig:
    """The settings that a training was started with.

    Raises:
        UserError: there are none, they are none of this version, or they name a class that our own config does not.
    """
    if not (start / CONFIG).is_file() or not (start / RUN).is_file():
        raise UserError(f"no record of a training's start in {start}; {HOW}")
    cfg = OmegaConf.load(start / CONFIG)
    if not isinstance(cfg, DictConfig) or "module" not in cfg:
        raise UserError(f"{start / CONFIG} does not hold the settings of a training")
    ours = {name for path in CONFIG_DIR.rglob("*.yaml") for name in targets(OmegaConf.load(path))}
    if others := sorted(targets(cfg) - ours):
        raise UserError(f"{start / CONFIG} names {', '.join(others)}, which no config of this project does")
    cfg.resume, cfg.check = "never", True  # a check prepares no data
    check(command(cfg), cfg)
    return cfg


def command(cfg: DictConfig) -> str:
    return "train_ddpm" if "diffusion" in cfg else "train_vqgan"


def targets(values: Any) -> set[str]:
    """The classes and functions that a config names."""
    if isinstance(values, DictConfig | ListConfig):
        return targets(OmegaConf.to_container(values, resolve=False))
    if isinstance(values, dict):
        own = {str(values["_target_"])} if "_target_" in values else set()
        return own.union(*(targets(value) for value in values.values()))
    return set().union(*map(targets, values)) if isinstance(values, list) else set()


def losses(run: Path, steps: int) -> dict[int, float]:
    """The first losses of a run folder by their steps."""
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    found = events.Scalars(LOSS) if LOSS in events.Tags()["scalars"] else []
    return {event.step: event.value for event in found if event.step < steps}


def repeat(cfg: DictConfig, steps: int, folder: Path) -> None:
    """Train anew for some steps; TensorBoard's files lie in `folder`."""
    try:
        module, data, _ = prepared(cfg, build_ddpm if command(cfg) == "train_ddpm" else build_vqgan)
    except NotPrepared as reason:
        raise UserError(str(reason)) from None
    trainer = instantiated(cfg.trainer, _partial_=True, callbacks=None, profiler=None, logger=None)
    logger = instantiated(cfg.trainer.logger, save_dir=str(folder))
    trainer(
        callbacks=[StopAfter(steps)],
        logger=logger,
        default_root_dir=str(folder),
        limit_val_batches=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(module, data)


def differing(start: Path, then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What is not as it was."""
    diff = start / CHANGES
    changed = diff.read_text(encoding="utf-8") if diff.is_file() else ""
    found = [
        f"{name}: {then['versions'].get(name)}, now {v}"
        for name, v in now["versions"].items()
        if then["versions"].get(name) != v
    ]
    found += [f"{key}: {then[key]}, now {now[key]}" for key in ("gpus", "manifest_sha256") if then[key] != now[key]]
    return found + (["changes of the code since its commit"] if changed != changes()[0] else [])


@benchmark("train_ddpm")
def main(words: list[str], steps: int = 30) -> dict[str, Any]:
    if len(words) != 1 or not Path(words[0]).is_dir():
        raise UserError(f"{' '.join(words)!r} is no run folder; {HOW}")
    run = Path(words[0])
    start = start_folder(run, 0)
    register_resolvers()
    cfg = stored_settings(start)
    then = json.loads((start / RUN).read_text(encoding="utf-8"))
    rank, world = rank_and_world()
    if then["processes"] != world:
        raise UserError(
            f"that training had {then['processes']} processes, here are {world}: torchrun"
            f" --nproc_per_node={then['processes']} -m benchmarks.reproduce {run}"
        )
    stored = losses(run, steps)
    if not stored:
        raise UserError(f"{run}/tensorboard holds no {LOSS} of the first {steps} steps; a larger steps= may find one")
    with TemporaryDirectory(prefix="reproduce_") as folder:
        repeat(cfg, steps, Path(folder))
        if rank:
            sys.exit(0)
        now = losses(Path(folder), steps)
    both = sorted(stored.keys() & now.keys())
    pairs = [(stored[step], now[step]) for step in both]
    return {
        "run": str(run),
        "steps": both,
        "then": [a for a, _ in pairs],
        "now": [b for _, b in pairs],
        "equal": bool(pairs) and all(a == b for a, b in pairs),
        "largest_difference": max((abs(a - b) / max(abs(a), 1e-12) for a, b in pairs), default=None),
        "differs": differing(start, then, facts(cfg)),
    } | stamp()


if __name__ == "__main__":
    main()
