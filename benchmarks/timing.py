"""Real training, for some steps, with a clock beside it."""

import gc
from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig

from benchmarks.measure import now
from benchmarks.workbench import Workbench
from common.memory import peak_bytes
from pipeline.devices import fast_float32
from pipeline.settings import instantiated
from pipeline.training.throughput import FetchClock

KEPT = ("average", "guard", "stop", "throughput")  # callbacks that take part in every step


class StepClock(pl.Callback):
    """Times the steps after `warmup`; its `clock` must be the Trainer's profiler.

    It waits for the GPU at the first and at the last of them only.
    """

    def __init__(self, warmup: int) -> None:
        self.warmup, self.clock = warmup, FetchClock()
        self.ends: list[float] = []
        self.waited: list[float] = []  # seconds in all

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        step, device = trainer.global_step, trainer.strategy.root_device
        if step < self.warmup:
            return
        waits = step in (self.warmup, trainer.max_steps)
        self.ends.append(now(device if waits else torch.device("cpu")))
        self.waited.append(self.clock.waited_s)
        if device.type == "cuda" and step == self.warmup:  # what cuDNN took to try its algorithms does not count
            torch.cuda.reset_peak_memory_stats(device)

    def speed(self, batch_size: int, device: torch.device) -> dict[str, Any]:
        """What training did, from the end of the warm-up to its last step.

        step_ms: median. data_wait: share of the time. peak_gb: of tensors on a GPU, without what CUDA graphs keep, else
        of the process since it began; reserved_gb: what torch took of the GPU, graphs and all, None on a CPU.
        """
        seconds, steps = self.ends[-1] - self.ends[0], len(self.ends) - 1
        return {
            "samples_per_s": steps * batch_size / seconds,
            "it_per_s": steps / seconds,
            "step_ms": 1000 * median(later - earlier for earlier, later in pairwise(self.ends)),
            "data_wait": (self.waited[-1] - self.waited[0]) / seconds,
            "peak_gb": peak_bytes(device) / 1e9,
            "reserved_gb": torch.cuda.max_memory_reserved(device) / 1e9 if device.type == "cuda" else None,
        }


def train(
    bench: Workbench,
    device: torch.device,
    warmup: int,
    steps: int,
    settings: Sequence[str] = (),
    watchers: Sequence[pl.Callback] = (),
) -> dict[str, Any]:
    """Train with the script's own Trainer, callbacks and loader; nothing is validated, logged or saved."""
    cfg = bench.settings(f"model.max_steps={warmup + steps}", *settings)
    cfg.model.patches_per_volume = (warmup + steps) * cfg.model.batch_size  # one epoch
    fast_float32()
    free_memory(device)
    module, data = bench.build(cfg)
    clock = StepClock(warmup)
    quiet_trainer(cfg, device, clock, watchers).fit(module, data)
    return clock.speed(cfg.model.batch_size, device)


def free_memory(device: torch.device) -> None:
    """Let go of networks measured before, which point at one another, and forget the GPU's peak."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def quiet_trainer(
    cfg: DictConfig, device: torch.device, clock: StepClock, watchers: Sequence[pl.Callback] = ()
) -> pl.Trainer:
    """The configured Trainer on one device, with the callbacks that take part in every step."""
    trainer = instantiated(cfg.trainer, _partial_=True, callbacks=None, profiler=None)
    return trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        num_nodes=1,
        strategy="auto",
        accumulate_grad_batches=1,
        limit_val_batches=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[*(instantiated(cfg.callbacks[name]) for name in KEPT if name in cfg.callbacks), clock, *watchers],
        profiler=clock.clock,
    )
