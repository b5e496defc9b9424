"""How the denoiser computes, whatever it computes: switches for speed and memory that checkpoints do not record."""

from dataclasses import dataclass

import torch
from torch import nn

from common.layers import use_channels_last
from ddpm.attention import CrossAttention, SelfAttention
from ddpm.layers import ResBlock, UpMerge
from ddpm.unet3d import Stage, UNet3D

COMPILED = (ResBlock, UpMerge, SelfAttention, CrossAttention)
VARIANTS = 64  # of one block: widths, with and without gradients; torch gives up compiling beyond 8 by default


@dataclass(frozen=True)
class Execution:
    """Switches of a training run; the results agree up to rounding.

    Attributes:
        checkpointing: recompute blocks in the backward pass instead of keeping their activations.
        channels_last: memory layout of activations and kernels, channels_last_3d or contiguous.
        compile: compile each block by itself, in place, so that names of tensors stay; compiling the whole network
            takes minutes and gains little more, since its blocks repeat.
        graph: replay training steps as CUDA graphs, see `ddpm.graph`; without effect on a CPU, or beside `compile`.
    """

    checkpointing: bool = False
    channels_last: bool = True
    compile: bool = False
    graph: bool = True

    def apply(self, network: nn.Module) -> None:
        """Set the switches of every UNet within `network`; other networks are left alone."""
        if self.compile:
            torch._dynamo.config.recompile_limit = VARIANTS
            torch._dynamo.config.optimize_ddp = False  # it splits whole compiled networks; blocks are small already
        for part in network.modules():
            if isinstance(part, UNet3D):
                part.channels_last = self.channels_last
                if self.channels_last:  # kernels too, or every convolution would turn its own around
                    use_channels_last(part)
            elif isinstance(part, Stage):
                part.checkpointing = self.checkpointing
            elif self.compile and isinstance(part, COMPILED):
                part.compile(dynamic=False)
