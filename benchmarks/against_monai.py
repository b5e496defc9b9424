"""Our denoiser beside MONAI's, step by step in turn: time of a training step, and what it keeps for backward."""

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch
from monai.networks.nets import DiffusionModelUNet
from torch import Tensor, nn
from torch.nn.functional import mse_loss, pad

from benchmarks.measure import gflop, now, parameters, saved_bytes
from benchmarks.networks import META
from ddpm.diffusion import draw_like
from ddpm.module import PatchDDPM

CHANNELS = (64, 128, 256, 416)  # 149 M parameters: the nearest to ours that is not far slower
CROSS_ATTENTION_DIM = 512
HEAD_CHANNELS = 32
HALVES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def monai_unet(
    in_channels: int,
    out_channels: int,
    channels: Sequence[int] = CHANNELS,
    cross_attention_dim: int = CROSS_ATTENTION_DIM,
    num_res_blocks: int = 2,
    norm_num_groups: int = 32,
) -> nn.Module:
    """MONAI's UNet; `forward(x (B, C, d, h, w), timesteps (B,), context=(B, N, cross_attention_dim))`.

    Attention on the two coarsest levels, as ours. Group normalisation needs `channels` that `norm_num_groups` divides.
    """
    return DiffusionModelUNet(
        spatial_dims=3,
        in_channels=in_channels,
        out_channels=out_channels,
        num_res_blocks=num_res_blocks,
        channels=channels,
        attention_levels=[i >= len(channels) - 2 for i in range(len(channels))],
        num_head_channels=HEAD_CHANNELS,
        norm_num_groups=norm_num_groups,
        with_conditioning=True,
        cross_attention_dim=cross_attention_dim,
    )


def compare(
    module: PatchDDPM, batch: dict[str, Any], device: torch.device, steps: int, precision: str = "32-true"
) -> dict[str, float]:
    """Time, memory, parameters and GFLOP of both, in the Trainer's `precision`.

    Ours takes the whole of its training loss, with the pyramid over the X-ray, lifting and positions. MONAI's takes
    the same noisy latents, and tokens of the width that it wants, ready-made.

    Args:
        batch: with cached features.
        steps: timed of each, in turn, after one that is not.
    """
    channels = module.denoiser.latent_channels
    theirs = monai_unet(channels, channels).to(device)
    module.to(device).train()
    batch = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}
    networks = {"ours": module.denoiser, "monai": theirs}
    half = torch.autocast(device.type, HALVES.get(precision), enabled=precision in HALVES)
    losses = {"ours": half(lambda: module.loss(batch)), "monai": half(lambda: monai_loss(module, theirs, batch))}
    saved = {name: saved_bytes(losses[name], network) for name, network in networks.items()}
    optimizers = {name: torch.optim.AdamW(network.parameters(), lr=1e-4) for name, network in networks.items()}
    rounds = [
        {name: seconds_of_step(losses[name], optimizers[name], device) for name in losses} for _ in range(1 + steps)
    ]
    seconds = {name: median(times[name] for times in rounds[1:]) for name in losses}
    return {
        **{f"ms_{name}": 1000 * s for name, s in seconds.items()},
        "ratio_time_monai_over_ours": seconds["monai"] / seconds["ours"],
        **{f"saved_gb_{name}": n / 1e9 for name, n in saved.items()},
        "ratio_memory_monai_over_ours": saved["monai"] / saved["ours"],
        **{f"params_{name}": parameters(network) for name, network in networks.items()},
        "gflop_monai": monai_gflop(channels, batch["latent"].shape[2:], batch["xray_tokens"].shape[1]),
    }


def seconds_of_step(loss: Callable[[], Tensor], optimizer: torch.optim.Optimizer, device: torch.device) -> float:
    started = now(device)
    loss().backward()
    optimizer.step()
    optimizer.zero_grad()
    return now(device) - started


def monai_loss(module: PatchDDPM, network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """The same noise levels and target; X-ray tokens cut or filled up to the width of its cross-attention."""
    x0 = module.latent_scale.normalize(batch["latent"])
    u, _, noise = draw_like(x0, batch["sample_key"])
    t = module.diffusion.training_time(u)
    tokens = batch["xray_tokens"]
    context = pad(tokens, (0, CROSS_ATTENTION_DIM - tokens.shape[-1]))  # a negative width cuts
    predicted = network(module.diffusion.add_noise(x0, noise, t), 1000 * t, context=context)
    return mse_loss(predicted, module.diffusion.target(x0, noise, t))


def monai_gflop(channels: int, size: Sequence[int], tokens: int) -> float:
    """One forward pass of one patch."""
    with META:
        network = monai_unet(channels, channels)
        x, t, context = torch.empty(1, channels, *size), torch.empty(1), torch.empty(1, tokens, CROSS_ATTENTION_DIM)
    return gflop(lambda: network(x, t, context=context))
