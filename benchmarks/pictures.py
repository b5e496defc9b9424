"""What do the pictures cost that stage 2 draws as it trains? `python -m benchmarks.pictures [device=cuda] [overrides]`

Trains on phantom volumes made on the spot, `rounds` times in turn without and with callbacks.pictures, none of which
falls due, and once more with two times that pictures are drawn. Options: `steps` timed after `warmup`. The last line is
one JSON object:

ratio_armed: time of a step with the callback over without it, median over the rounds.
first_s, again_s: a time of pictures, of all patients; the first also shows real CTs and those through the codec.
pause_s: from one to the next at the preset's pace.
ratio: of the time of a step, with pictures at that pace over without: ratio_armed × (1 + again_s / pause_s).
"""

import time
from statistics import median
from typing import Any

import pytorch_lightning as pl

from benchmarks.command import benchmark
from benchmarks.measure import now, stamp
from benchmarks.timing import train
from benchmarks.train_step import CACHED, ON_CPU
from benchmarks.workbench import workbench
from ddpm.module import PatchDDPM
from pipeline.devices import pick_device
from pipeline.settings import instantiated
from pipeline.training.pictures import SHARE, Pictures


class Timed(Pictures):
    """Draws at the first two steps at which it may."""

    def __init__(self, patients: int, steps: int) -> None:
        super().__init__(1e-9, patients, steps)
        self.took: list[float] = []

    def _show(self, trainer: pl.Trainer, module: PatchDDPM) -> None:
        if len(self.took) < 2:
            began = now(module.device)
            super()._show(trainer, module)
            self.took.append(now(module.device) - began)
            self._due_at = time.monotonic()


@benchmark("train_ddpm")
def main(
    overrides: list[str], device: str = "auto", steps: int = 40, warmup: int = 5, rounds: int = 3
) -> dict[str, Any]:
    where = pick_device(device)
    with workbench("ddpm", [*([] if where.type == "cuda" else ON_CPU), *overrides]) as bench:
        cfg = bench.settings(CACHED)
        armed: Pictures = instantiated(cfg.callbacks.pictures)
        ratios = []
        for _ in range(rounds):
            without, with_it = (
                train(bench, where, warmup, steps, [CACHED], watchers)["step_ms"] for watchers in ([], [armed])
            )
            ratios.append(with_it / without)
        timed = Timed(armed.patients, armed.steps)
        train(bench, where, 0, 2 * cfg.trainer.log_every_n_steps, [CACHED], [timed])
        shape = [n + 16 for n in cfg.model.patch_size]
    first, again = timed.took
    pause = max(armed.every_s, again / SHARE)
    return {
        "ratio": median(ratios) * (1 + again / pause),
        "ratio_armed": median(ratios),
        "first_s": first,
        "again_s": again,
        "pause_s": pause,
        "volume": shape,
        "device": str(where),
    } | stamp()


if __name__ == "__main__":
    main()
