"""What does MONAI's MAISI take for a CT? `python -m benchmarks.against_maisi shape=[604,512,512] device=auto steps=30`

Networks, scheduler and decoding as in MONAI's tutorial generation/maisi (configs/config_maisi3d-rflow.json and
config_infer_80g_512x512x768.json; scripts/sample.py without its ControlNet, which needs a mask): four latent channels
at a quarter of the resolution, the whole latent at once, decoded in windows of 80×80×96 latent voxels that overlap by
0.4 and are blended on the CPU. In half precision, as there, on a GPU. Weights are random, nothing is written. The last
line is one JSON object: voxels drawn, seconds of both stages, peak memory (of the GPU, else of the process), `own_gb`,
that without what the process held before it made the networks.
"""

import logging
from typing import Any

import torch
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi
from monai.apps.generation.maisi.networks.diffusion_model_unet_maisi import DiffusionModelUNetMaisi
from monai.inferers.inferer import SlidingWindowInferer
from monai.networks.schedulers import RFlowScheduler
from torch import Tensor, nn

from benchmarks.command import benchmark
from benchmarks.measure import CpuClock, now, parameters, stamp
from common.geometry import STEP, Triple, sizes, triple
from common.memory import forget_peak, peak_bytes, resident_bytes
from pipeline.devices import fast_float32, pick_device

STEPS = 30
CHANNELS = 4
DIVISIBLE = 8  # latent voxels, since its UNet halves three times
WINDOW, OVERLAP = (80, 80, 96), 0.4
CT = 1  # the class of its modality

log = logging.getLogger(__name__)


def unet(flash: bool) -> nn.Module:
    """`flash` as in its config; MONAI refuses it on a CPU."""
    return DiffusionModelUNetMaisi(
        spatial_dims=3,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_channels=[64, 128, 256, 512],
        attention_levels=[False, False, True, True],
        num_head_channels=[0, 0, 32, 32],
        num_res_blocks=2,
        use_flash_attention=flash,
        include_spacing_input=True,
        num_class_embeds=128,
        resblock_updown=True,
        include_fc=True,
    )


def autoencoder(norm_float16: bool) -> Any:
    """`norm_float16` as in its config; no kernel of a CPU takes the result."""
    logging.getLogger(AutoencoderKlMaisi.__module__).setLevel(logging.WARNING)
    return AutoencoderKlMaisi(
        spatial_dims=3,
        in_channels=1,
        out_channels=1,
        latent_channels=CHANNELS,
        num_channels=[64, 128, 256],
        num_res_blocks=[2, 2, 2],
        norm_num_groups=32,
        norm_eps=1e-6,
        attention_levels=[False, False, False],
        with_encoder_nonlocal_attn=False,
        with_decoder_nonlocal_attn=False,
        use_checkpointing=False,
        use_convtranspose=False,
        norm_float16=norm_float16,
        num_splits=4,
        dim_split=1,
    )


def latent_size(shape: Triple) -> Triple:
    """(d, h, w) of the latent that covers a CT of `shape` voxels."""
    return triple([-(-n // (STEP * DIVISIBLE)) * DIVISIBLE for n in shape])


@torch.no_grad()
def draw(shape: Triple, device: torch.device, steps: int = STEPS) -> dict[str, Any]:
    """Draw and decode one CT that covers `shape`; making the networks is not timed."""
    half = device.type == "cuda"
    denoiser, codec = unet(flash=half).to(device).eval(), autoencoder(norm_float16=half).to(device).eval()
    scheduler = RFlowScheduler(use_discrete_timesteps=False, use_timestep_transform=True, scale=1.4)
    size = latent_size(shape)
    windows = SlidingWindowInferer(WINDOW, mode="gaussian", overlap=OVERLAP, sw_device=device, device="cpu")
    one = all(n <= w for n, w in zip(size, WINDOW, strict=True))  # then its `dynamic_infer` uses no windows
    begun = now(device)
    with CpuClock() as busy, torch.autocast(device.type, torch.float16, enabled=half):
        latent = diffuse(denoiser, scheduler, torch.randn(1, CHANNELS, *size, device=device), steps)
        drawn = now(device)
        ct: Any = codec.decode_stage_2_outputs(latent) if one else windows(latent, codec.decode_stage_2_outputs)
        ct = ct.clip(0, 1).cpu()
    decoded = now(device)
    return {
        "voxels": ct.numel(),
        "seconds_diffusion": round(drawn - begun, 2),
        "seconds_decode": round(decoded - drawn, 2),
        "cpu_seconds": round(busy.seconds, 2),
        "parameters": parameters(denoiser, codec),
    }


def diffuse(denoiser: nn.Module, scheduler: RFlowScheduler, latent: Tensor, steps: int) -> Tensor:
    scheduler.set_timesteps(steps, input_img_size_numel=latent[0, 0].numel())
    times = [*scheduler.timesteps.tolist(), 0.0]
    spacing = 100 * torch.ones(1, 3, device=latent.device)  # 1 mm
    for i, t in enumerate(times[:-1]):
        log.info("MAISI: step %d of %d", i + 1, steps)
        at, modality = torch.tensor([t], device=latent.device), torch.tensor([CT], device=latent.device)
        velocity = denoiser(latent, at, class_labels=modality, spacing_tensor=spacing)
        latent, _ = scheduler.step(velocity, t, latent, times[i + 1])
    return latent


@benchmark()
def main(shape: tuple[int, ...] = (604, 512, 512), device: str = "auto", steps: int = STEPS) -> dict[str, Any]:
    where = pick_device(device)
    fast_float32()
    if where.type == "cpu":
        forget_peak()
    before = resident_bytes() if where.type == "cpu" else 0
    found = draw(sizes(shape, "shape"), where, steps)
    peak = peak_bytes(where) / 1e9
    return found | {"peak_gb": round(peak, 2), "own_gb": round(peak - before / 1e9, 2)} | stamp()


if __name__ == "__main__":
    main()
