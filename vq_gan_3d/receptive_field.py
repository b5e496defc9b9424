"""How far a chain of layers looks, computed from the layers themselves.

An interval [low, high] (inclusive, along one axis; all layers here are cubic) of a layer's output voxels
needs an interval of its input voxels. Walking a chain backwards from one output block gives the exact need,
rounding of strides and up-sampling included.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from common.layers import RMSNorm
from vq_gan_3d.group_norm import RecordedGroupNorm
from vq_gan_3d.layers import (
    ChannelsToSpace,
    RepeatVoxels,
    Residual,
    SpaceToChannels,
    TransposedConv3d,
)

Interval = tuple[int, int]


def input_interval(layer: nn.Module, output: Interval) -> Interval:
    """Input voxels that the voxels `output` of a layer depend on.

    Raises:
        TypeError: a layer whose reach is not known here.
    """
    low, high = output
    if isinstance(layer, nn.Sequential):
        for part in reversed(layer):
            low, high = input_interval(part, (low, high))
        return low, high
    if isinstance(layer, Residual):
        body = input_interval(layer.body, output)
        return min(low, body[0]), max(high, body[1])
    if isinstance(layer, nn.Conv3d):
        return _conv_interval(layer, output)
    if isinstance(layer, TransposedConv3d):  # output 2i and 2i + 1 see inputs i - 1 and i, i and i + 1
        return (low - 1) // 2, (high + 1) // 2
    if isinstance(layer, SpaceToChannels):
        return low * layer.factor, high * layer.factor + layer.factor - 1
    if isinstance(layer, ChannelsToSpace | RepeatVoxels):
        return low // layer.factor, high // layer.factor
    if isinstance(layer, RMSNorm | RecordedGroupNorm | nn.SiLU):
        return output
    raise TypeError(f"receptive field of {type(layer).__name__} is not known; add its rule to {__name__}")


def _conv_interval(conv: nn.Conv3d, output: Interval) -> Interval:
    kernel, stride, padding = conv.kernel_size[0], conv.stride[0], int(conv.padding[0])
    return output[0] * stride - padding, output[1] * stride - padding + kernel - 1


def margin(layers: Sequence[nn.Module], output_block: int, input_block: int) -> int:
    """Input voxels needed on each side of the aligned `input_block` to get `output_block` voxels right."""
    low, high = 0, output_block - 1
    for layer in reversed(layers):
        low, high = input_interval(layer, (low, high))
    return max(0, -low, high - (input_block - 1))
