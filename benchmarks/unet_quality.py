"""Does our UNet learn better than MONAI's in the same time? `python -m benchmarks.unet_quality [demo=DIR]`

Puts MONAI's DiffusionModelUNet in the place of our UNet3D: same noisy latents, coordinates and lifted X-ray features
in, X-ray tokens with their places as cross-attention context, pooled and patch vector added to its time embedding. Both
have as many parameters (within 5 %) and train for the same wall-clock `seconds` on the demo's latents of synthetic
patients, in float32, one process, one after the other. Learning rates rise for 5 % of the time and fall along a cosine;
the highest of each network is the best of one grid, `lrs`, on a seed that is used for nothing else.
The validation loss is that of training's validation (same patches, noise and times for all), of averaged weights.

Options: `demo` (a finished demo's folder), `seconds` per training, `seeds`, `lrs`, `channels` and `res_blocks` of
MONAI's UNet; and overrides of train_ddpm_patches_4gpu.py. The last line is one JSON object with val_loss_ours,
val_loss_monai, it_per_s_ours and it_per_s_monai (one figure per seed), lr_ours, lr_monai, grid_ours, grid_monai (the
validation loss of each learning rate), params_ours and params_monai.
"""

import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from benchmarks import demo_model
from benchmarks.against_monai import monai_unet
from benchmarks.command import benchmark
from benchmarks.measure import parameters
from common.errors import UserError
from dataset.datamodule import PatchDataModule
from ddpm.denoiser import PatchDenoiser
from ddpm.ema import WeightAverage
from ddpm.module import PatchDDPM
from ddpm.position import AXIS_FEATURES, axis_waves
from ddpm.unet3d import TIME_SCALE, two_linear
from pipeline.checkpoints.parts import build
from pipeline.cli import composed
from pipeline.training.stages import build_ddpm

# Ours, at MONAI's parameters: as fast as MONAI's with widths of 24, 48 and 96; and enough patches for a steady figure
OURS = "model.batch_size=4 model.dim=24 model.num_res_blocks=2 model.middle_blocks=2 model.val_patches_per_volume=8"
CHANNELS, RES_BLOCKS = (16, 32, 64), 2  # of MONAI's
WARMUP, FINAL = 0.05, 0.01  # share of the time; share of the learning rate at its end
TOLERANCE = 0.05  # between the parameters of both

log = logging.getLogger(__name__)


class ConditionedMonai(nn.Module):
    """MONAI's UNet with the interface of `UNet3D`: all that ours is told, it is told too."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        vector_dim: int,
        token_dim: int,
        channels: Sequence[int],
        num_res_blocks: int,
    ) -> None:
        super().__init__()
        context = token_dim + 2 * AXIS_FEATURES
        groups = channels[0] // 2  # as 32 at MONAI's full size; one channel a group would cancel the time's embedding
        unet: Any = monai_unet(in_channels, out_channels, channels, context, num_res_blocks, groups)
        unet.num_class_embeds = 1  # what it then adds to the time's embedding comes from our vector
        unet.class_embedding = two_linear(vector_dim, 4 * channels[0])
        self.unet = unet

    def forward(
        self, x: Tensor, t: Tensor, vector: Tensor, tokens: Tensor, token_positions: Tensor, positions: Tensor
    ) -> Tensor:
        """As `UNet3D.forward`; `positions` it knows from the coordinate channels of x."""
        context = torch.cat([tokens, axis_waves(token_positions)], -1)
        return self.unet(x, TIME_SCALE * t, context=context, class_labels=vector)


def demo_settings(folder: str, overrides: Sequence[str]) -> DictConfig:
    """The settings of the demo's diffusion training, of its finished data and codec, and these overrides.

    Raises:
        FileNotFoundError: no finished demo in the folder.
    """
    root = Path(folder).absolute()
    made = demo_model.stages([f'dir="{root}"'])
    needed = [made["encode_latents.py"].product / "latents.json", made["train_vqgan_patches_4gpu.py"].product]
    if not all(path.is_file() for path in needed):
        raise FileNotFoundError(f"no finished demo in {root}; python run_demo.py 'dir=\"{root}\"' makes one")
    return composed("train_ddpm", [*made["train_ddpm_patches_4gpu.py"].command[1:], *OURS.split(), *overrides])


def learning_rate(done: float) -> float:
    """Share of the highest learning rate after a share of the time."""
    if done < WARMUP:
        return done / WARMUP
    return FINAL + (1 - FINAL) * (1 + math.cos(math.pi * (done - WARMUP) / (1 - WARMUP))) / 2


def endless(data: PatchDataModule) -> Iterator[dict[str, Any]]:
    loader = data.train_dataloader()
    for epoch in itertools.count():
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        yield from loader


@torch.no_grad()
def validate(module: PatchDDPM, data: PatchDataModule) -> float:
    """Mean validation loss over the patches."""
    module.eval()
    total = sum(float(module.loss(batch, even_times=True)) * len(batch["draw"]) for batch in data.val_dataloader())
    return total / len(data.val)


def check_sizes(ours: int, monai: int) -> None:
    if abs(ours / monai - 1) > TOLERANCE:
        raise UserError(
            f"the two need equal parameters (within {TOLERANCE:.0%}), got {ours:,} (ours) and {monai:,} (MONAI);"
            " change channels=, res_blocks=, model.dim= or model.middle_blocks="
        )


@dataclass(frozen=True)
class Contest:
    """Trains denoisers, each in the place of the module's, on the same data, for `seconds` each."""

    module: PatchDDPM
    data: PatchDataModule
    makers: Mapping[str, Callable[[], PatchDenoiser]]
    seconds: float
    ema_decay: float

    def run(self, name: str, seed: int, lr: float) -> tuple[float, float]:
        """Train a denoiser from the start; its validation loss, and steps a second, loading of data included."""
        torch.manual_seed(seed)
        module, data = self.module, self.data
        module.denoiser, data.train.seed = self.makers[name](), seed
        optimizer = torch.optim.AdamW(module.denoiser.parameters(), lr=lr)
        average, batches, steps = WeightAverage(self.ema_decay), endless(data), 0
        module.train()
        started = time.monotonic()
        while (done := (time.monotonic() - started) / self.seconds) < 1:
            for group in optimizer.param_groups:
                group["lr"] = lr * learning_rate(done)
            module.loss(next(batches)).backward()
            clip_grad_norm_(module.denoiser.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            average.update(module)
            steps += 1
        speed = steps / (time.monotonic() - started)
        average.swap_in(module)
        loss = validate(module, data)
        log.info("%s, seed %d, learning rate %g: validation loss %.5f, %.2f it/s", name, seed, lr, loss, speed)
        return loss, speed


def compare(
    cfg: DictConfig, seconds: float, seeds: int, lrs: Sequence[float], channels: Sequence[int], res_blocks: int
) -> dict[str, Any]:
    module, data = build_ddpm(cfg)
    described = module.meta["parts"]["denoiser"]
    unet = partial(ConditionedMonai, channels=channels, num_res_blocks=res_blocks)
    makers = {"ours": partial(build, described), "monai": partial(build, described | {"unet": unet})}
    contest = Contest(module, data, makers, seconds, cfg.model.ema_decay)
    sizes = {name: parameters(make()) for name, make in makers.items()}
    check_sizes(**sizes)
    grids = {name: {lr: contest.run(name, seeds, lr)[0] for lr in lrs} for name in makers}
    best = {name: min(grid, key=grid.__getitem__) for name, grid in grids.items()}
    trained = [{name: contest.run(name, seed, best[name]) for name in makers} for seed in range(seeds)]
    result: dict[str, Any] = {}
    for name in makers:
        result |= {
            f"val_loss_{name}": [round(runs[name][0], 5) for runs in trained],
            f"it_per_s_{name}": [round(runs[name][1], 2) for runs in trained],
            f"lr_{name}": best[name],
            f"grid_{name}": {f"{lr:g}": round(loss, 5) for lr, loss in grids[name].items()},
            f"params_{name}": sizes[name],
        }
    return result | {"seconds": seconds, "threads": torch.get_num_threads(), "weights": "averaged"}


@benchmark("train_ddpm")
def main(
    overrides: list[str],
    demo: str = "outputs/demo",
    seconds: float = 180.0,
    seeds: int = 3,
    lrs: tuple[float, ...] = (1e-3, 2e-3, 4e-3, 8e-3),
    channels: tuple[int, ...] = CHANNELS,
    res_blocks: int = RES_BLOCKS,
) -> dict[str, Any]:
    return compare(demo_settings(demo, overrides), seconds, seeds, lrs, channels, res_blocks)


if __name__ == "__main__":
    main()
