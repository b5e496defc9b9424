"""Names and sizes of VQ-GAN checkpoints of the medicaldiffusion layout, and what they are called here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from common.errors import UserError
from common.weights import rename
from vq_gan_3d.group_norm_vqgan import LEVELS

OUR_AXES = "zyx"  # foot-head, front-back, right-left
LEFT_OUT = ("image_discriminator.", "video_discriminator.", "perceptual_model.")  # of training
RENAMED = (  # in this order
    (r"\.(conv|convt)\.(weight|bias)$", r".\2"),
    (r"^(encoder|decoder)\.conv_blocks\.(\d+)\.(\w+)\.", r"\1.\3_\2."),
    (r"\.(norm\d|conv\d)\.", r".body.\1."),
    (r"^(encoder|decoder)\.final_block\.0\.", r"\1.norm."),
    (r"\.(up_\d)\.", r".\1.conv."),
    (r"^pre_vq_conv\.", "encoder.to_latent."),
    (r"^post_vq_conv\.", "decoder.from_latent."),
    (r"^codebook\.embeddings$", "quantizer.books.codes"),
    (r"^codebook\.N$", "quantizer.books.counts"),
    (r"^codebook\.z_avg$", "quantizer.books.sums"),
)


@dataclass(frozen=True)
class Layout:
    """Sizes of the network of a checkpoint."""

    n_hiddens: int
    embedding_dim: int
    n_codes: int
    groups: int


def layout(state: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Layout:
    """Sizes from the tensors' shapes, and from the checkpoint's settings what no shape shows.

    Raises:
        ValueError: another layout, or a kind of network that is not known here; says which.
    """
    needed = ("encoder.conv_first.conv.weight", "codebook.embeddings", "pre_vq_conv.conv.weight")
    missing = [name for name in needed if name not in state]
    if missing:
        raise UserError(f"no VQ-GAN of the medicaldiffusion layout: it lacks {missing}")
    first, codes = state[needed[0]], state[needed[1]]
    levels = 1 + max(
        (int(m[1]) for name in state if (m := re.match(r"encoder\.conv_blocks\.(\d+)\.", name))), default=-1
    )
    wanted = {
        "downsample": ([2**LEVELS] * 3, list(settings.get("downsample") or [2**levels] * 3)),
        "norm_type": ("group", settings.get("norm_type") or "group"),
        "padding_type": ("replicate", settings.get("padding_type") or "replicate"),
        "image_channels": (1, first.shape[1]),
    }
    other = [f"{name}={found} (need {need})" for name, (need, found) in wanted.items() if need != found]
    if other:
        raise UserError(
            f"a VQ-GAN with {', '.join(other)} cannot be used here; train one with train_vqgan_patches_4gpu.py"
        )
    return Layout(first.shape[0], codes.shape[1], codes.shape[0], int(settings.get("num_groups") or 32))


def find_settings(hyper_parameters: Any) -> Mapping[str, Any]:
    """The mapping among nested hyper-parameters that describes the network: the one with `n_hiddens`; empty if none."""
    if not isinstance(hyper_parameters, Mapping):
        return {}
    if "n_hiddens" in hyper_parameters:
        return hyper_parameters
    return next((found for value in hyper_parameters.values() if (found := find_settings(value))), {})


def renamed(state: Mapping[str, Tensor], axes: str = OUR_AXES) -> dict[str, Tensor]:
    """The state of a `GroupNormVQGAN` but for its recorded statistics; the codebook as trained, never to be redrawn.

    Args:
        axes: order of the spatial axes of the tensors that the network was trained on. The kernels are turned to ours.

    Raises:
        ValueError: `axes` is no order of x, y and z.
    """
    if sorted(axes) != sorted(OUR_AXES):
        raise UserError(f"axes must be an order of the letters x, y and z, such as zyx or zxy, got {axes!r}")
    turn = (0, 1, *(2 + axes.index(axis) for axis in OUR_AXES))
    ours = {
        rename(name, RENAMED): tensor.permute(turn) if tensor.ndim == len(turn) else tensor
        for name, tensor in state.items()
        if not name.startswith(LEFT_OUT)
    }
    for name in [name for name in ours if name.startswith("quantizer.books.")]:
        ours[name] = ours[name][None]  # one codebook of possibly several
    return ours | {"quantizer.books.initialized": torch.tensor(True), "quantizer.books.updates": torch.tensor(0)}


def codebook_range(state: Mapping[str, Tensor]) -> Sequence[float]:
    """Lowest and highest value of all codes: that layout's stage 2 maps this range to [-1, 1]."""
    codes = state["codebook.embeddings"]
    return float(codes.min()), float(codes.max())
