"""Our denoiser beside MONAI's, step by step in turn: time of a training step, and what it keeps for backward."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss, pad

from benchmarks.model_card import META, gflop, parameters
from benchmarks.monai_unet import CROSS_ATTENTION_DIM, monai_unet
from ddpm.diffusion import draw_like
from ddpm.module import PatchDDPM


def saved_bytes(loss: Callable[[], Tensor], network: nn.Module) -> int:
    """Unique bytes that a loss keeps for its backward pass, parameters excluded."""
    own = {p.untyped_storage().data_ptr() for p in network.parameters()}
    kept: dict[int, Tensor] = {}  # the tensors, so that no storage is freed and its address used again

    def keep(tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in own:
            kept[address] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss().backward()
    network.zero_grad()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


class Contestant:
    """A network with its loss and optimizer, whose full steps are timed."""

    def __init__(self, network: nn.Module, loss: Callable[[], Tensor]) -> None:
        self.network, self.loss = network, loss
        self.optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
        self.seconds: list[float] = []

    def step(self, device: torch.device) -> None:
        started = _now(device)
        self.loss().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.seconds.append(_now(device) - started)


def compare(module: PatchDDPM, batch: dict[str, Any], device: torch.device, steps: int) -> dict[str, float]:
    """Time, memory, parameters and GFLOP of both, in float32.

    Ours takes the whole of its training loss, with the pyramid over the X-ray, lifting and positions. MONAI's takes
    the same noisy latents, and tokens of the width that it wants, ready-made.

    Args:
        batch: with cached features.
        steps: timed of each, in turn, after one that is not.
    """
    ours, theirs = module.denoiser, monai_unet(module.denoiser.latent_channels, module.denoiser.latent_channels)
    module.to(device).train()
    theirs.to(device)
    batch = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}
    pair = Contestant(ours, lambda: module.loss(batch)), Contestant(theirs, lambda: monai_loss(module, theirs, batch))
    memory = [saved_bytes(one.loss, one.network) for one in pair]
    for _ in range(1 + steps):
        for one in pair:
            one.step(device)
    our_time, their_time = (median(one.seconds[1:]) for one in pair)
    size = batch["latent"].shape[2:]
    return {
        "ms_ours": 1000 * our_time,
        "ms_monai": 1000 * their_time,
        "ratio_time_monai_over_ours": their_time / our_time,
        "saved_gb_ours": memory[0] / 1e9,
        "saved_gb_monai": memory[1] / 1e9,
        "ratio_memory_monai_over_ours": memory[1] / memory[0],
        "params_ours": parameters(ours),
        "params_monai": parameters(theirs),
        "gflop_monai": monai_gflop(module.denoiser.latent_channels, tuple(size), batch["xray_tokens"].shape[1]),
    }


def monai_loss(module: PatchDDPM, network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """The same noise levels and target; X-ray tokens cut or filled up to the width of its cross-attention."""
    x0 = module.latent_scale.normalize(batch["latent"])
    u, _, noise = draw_like(x0, batch["sample_key"])
    t = module.diffusion.training_time(u)
    tokens = batch["xray_tokens"]
    context = pad(tokens, (0, CROSS_ATTENTION_DIM - tokens.shape[-1]))  # a negative width cuts
    predicted = network(module.diffusion.add_noise(x0, noise, t), 1000 * t, context=context)
    return mse_loss(predicted, module.diffusion.target(x0, noise, t))


def monai_gflop(channels: int, size: tuple[int, ...], tokens: int) -> float:
    """One forward pass of one patch."""
    with META:
        network = monai_unet(channels, channels)
        inputs = torch.empty(1, channels, *size), torch.empty(1), torch.empty(1, tokens, CROSS_ATTENTION_DIM)
    return gflop(lambda: network(inputs[0], inputs[1], context=inputs[2]))


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
