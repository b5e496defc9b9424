"""Training steps and drawings of the configured sizes on a GPU on paper (`benchmarks.fake_gpu`)."""

import itertools
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from omegaconf import DictConfig
from pytorch_lightning.plugins.precision import MixedPrecision, Precision
from torch import Tensor

from benchmarks.fake_gpu import CUDA, FakeGPU
from benchmarks.networks import META, XRAY_SIDE, on_paper, partner, without_files
from common.geometry import STEP, Triple, latent_shape, triple
from common.layers import use_channels_last
from ddpm.denoiser import PatchDenoiser
from ddpm.generator import VolumeGenerator
from ddpm.graph import Replayed
from ddpm.latent_scale import LatentScale
from ddpm.plan import Grid, SamplingPlan, XrayInput
from pipeline.sampling.slabs import hu_tiles, slabs_of
from pipeline.settings import instantiated, plain
from vq_gan_3d.codec import FrozenCodec

HOST = torch.device("cpu")


def stage1_of(cfg: DictConfig, overrides: Sequence[str] = ()) -> DictConfig:
    """Stage 1's settings that go with these of stage 2."""
    return partner(cfg, [f"model.embedding_dim={cfg.model.diffusion_num_channels}", "model.disc_start=0", *overrides])


def train_ddpm(gpu: FakeGPU, cfg: DictConfig, stage1: DictConfig) -> None:
    """Steps of stage 2 on cached latents."""
    codec, encoder, scale = _frozen(cfg, stage1)
    widths = {"pooled_dim": encoder.pooled_dim, "token_dim": encoder.token_dim}
    with META:
        parts = {"codec": codec, "xray_encoder": encoder, "latent_scale": scale}
        module = instantiated(cfg.module, denoiser=widths, meta={}, **parts)
    for network in (codec, encoder):
        gpu.put(network, HOST)
    sizes = {
        "latent": (codec.channels, *(n // STEP for n in cfg.model.patch_size)),
        "xray_tokens": (encoder.grid[0] * encoder.grid[1], encoder.token_dim),
        "xray_pooled": (encoder.pooled_dim,),
        "xray": (1, XRAY_SIDE, XRAY_SIDE),
        "xray_camera": (3, 4),
        "spacing": (3,),
    }
    batch = cfg.model.batch_size
    items = {name: torch.zeros(batch, *size, device=CUDA) for name, size in sizes.items()}
    places = {name: torch.zeros(batch, 3, dtype=torch.int64, device=CUDA) for name in ("patch_coord", "volume_shape")}
    _train(gpu, cfg, module, items | places)


def train_vqgan(gpu: FakeGPU, cfg: DictConfig) -> None:
    """Steps of stage 1."""
    with META:
        module = instantiated(cfg.module, meta={})
    _train(gpu, cfg, module, {"ct": torch.zeros(cfg.model.batch_size, 1, *cfg.model.patch_size, device=CUDA)})


def _train(gpu: FakeGPU, cfg: DictConfig, module: Any, batch: dict[str, Tensor]) -> None:
    """Steps in Lightning's order, without its bookkeeping."""
    precision = cfg.trainer.precision
    plugin = MixedPrecision(precision, "cuda") if "mixed" in precision else Precision()
    scaler = getattr(plugin, "scaler", None)
    module.to(CUDA)
    module.train()
    module.on_fit_start()
    with mock.patch.object(module, "_trainer", SimpleNamespace(estimated_stepping_batches=1000)):
        optimizer = module.configure_optimizers()["optimizer"]
    average = instantiated(cfg.callbacks.average) if "average" in cfg.callbacks else None
    batch["sample_key"] = torch.arange(cfg.model.batch_size)
    for parameter in (p for group in optimizer.param_groups for p in group["params"]):
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # makes the optimizer's state; these gradients are there until the step has its own
    if average is not None:
        average.update(module)
    with plugin.forward_context(), torch.no_grad():
        module.training_step(batch, 0)  # what the host reads once
    gpu.begin()
    with plugin.forward_context():
        loss = module.training_step(batch, 0)
    module.optimizer_zero_grad(0, 0, optimizer)
    if scaler is not None:
        loss = scaler.scale(loss)
    loss.backward()
    if scaler is not None:
        scaler.unscale_(optimizer)
    if cfg.trainer.get("gradient_clip_val"):
        plugin.clip_gradients(optimizer, cfg.trainer.gradient_clip_val)
    else:
        module.configure_gradient_clipping(optimizer)
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)
        scaler.update()
    if average is not None:
        average.update(module)


def sample(gpu: FakeGPU, cfg: DictConfig, stage1: DictConfig, shape: Triple, **plan: Any) -> None:
    """Draw a latent in two steps."""
    codec, encoder, scale = _frozen(cfg, stage1)
    denoiser = on_paper(cfg.module.denoiser, pooled_dim=encoder.pooled_dim, token_dim=encoder.token_dim)
    sizes = (triple([n // STEP for n in some]) for some in (cfg.model.patch_size, cfg.model.stride))
    use_channels_last(denoiser)
    generator = gpu.put(VolumeGenerator(denoiser, on_paper(cfg.diffusion), scale, codec, encoder, *sizes))
    gpu.begin()
    image, view = torch.zeros(1, XRAY_SIDE, XRAY_SIDE), torch.zeros(3, encoder.size, encoder.size)
    xray = XrayInput(image, view, torch.zeros(3, 4))
    settled: dict[str, Any] = {"steps": 2, "bf16": True, "latent_device": "cuda", "window_batch": 1} | plan
    trained = mock.patch.object(PatchDenoiser, "knows_no_xray", True)  # weights on paper cannot tell
    with trained, mock.patch.object(Replayed, "_record", _recorded_by(gpu)):
        generator.latent(xray, Grid(shape, (0.7, 0.7, 0.7)), SamplingPlan(**settled), seed=0)


def _recorded_by(gpu: FakeGPU) -> Callable[..., Any]:
    """`Replayed._record` on paper: what a CUDA graph computes with stays its own."""

    def record(_: Replayed, function: Any, inputs: Sequence[Tensor]) -> tuple[Any, list[Tensor], Tensor]:
        given = [tensor.clone() for tensor in inputs]
        earlier, before = gpu.peak, gpu.live
        gpu.peak = before
        answer = function(*given)
        own = torch.empty(gpu.peak - gpu.live, dtype=torch.uint8, device=CUDA)
        gpu.peak = max(earlier, gpu.peak)
        return SimpleNamespace(replay=lambda: own), given, answer

    return record


def decode(gpu: FakeGPU, stage1: DictConfig, shape: Triple, tile: int, half: bool = True) -> None:
    """Decode the first slab of a latent that lies on the GPU."""
    codec = _codec(stage1)
    use_channels_last(codec)
    gpu.put(codec)
    whole = latent_shape(shape, (STEP, STEP, STEP))
    latent = torch.zeros(codec.channels, *whole, device=CUDA)
    gpu.begin()
    next(slabs_of(hu_tiles(codec.decode_tiles(latent, tile, half), (-1000.0, 1000.0)), shape))


def encode(gpu: FakeGPU, stage1: DictConfig, shape: Triple, tile: int) -> None:
    """Encode two tiles of a volume, as `encode_latents.py` does."""
    codec = gpu.put(_codec(stage1))
    gpu.begin()

    def read(start: Triple, size: Triple) -> Tensor:
        return torch.zeros(1, *size)

    for _, latent in itertools.islice(codec.encode_tiles(read, shape, tile), 2):
        latent.cpu()


def _codec(stage1: DictConfig) -> FrozenCodec:
    vqgan = on_paper(stage1.module.vqgan)
    with META:
        return FrozenCodec(vqgan)


def _frozen(cfg: DictConfig, stage1: DictConfig) -> tuple[FrozenCodec, Any, LatentScale]:
    codec, encoder = _codec(stage1), on_paper(without_files(plain(cfg.xray_encoder)))
    with META:
        return codec, encoder, LatentScale(torch.zeros(codec.channels), torch.ones(codec.channels))
