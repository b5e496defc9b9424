"""What lies between encoder and decoder: one interface, three kinds.

`VectorQuantizer` (one codebook, or several over channel groups), `FiniteScalarQuantizer` and
`KLBottleneck`. All work on latents (B, C, d, h, w) voxel by voxel and compute in float32 under any
autocast. Latents outside are always those *before* quantisation; `quantize` gives what the decoder
receives.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from common.collectives import from_rank_zero
from common.errors import UserError
from common.keyed import KeyedRandom
from vq_gan_3d.codebook import Codebooks, perplexity


@dataclass(frozen=True)
class QuantizerOutput:
    """What a quantiser reports besides its result.

    Attributes:
        loss: scalar with gradient, to be added to the reconstruction loss.
        perplexity: scalar, effective number of codes in use in this batch; None where nothing is discrete.
    """

    loss: Tensor
    perplexity: Tensor | None


class Quantizer(nn.Module, ABC):
    """dim: latent channels. bits: information per latent voxel, inf where nothing is discrete."""

    dim: int
    bits: float

    def forward(self, z: Tensor, random: KeyedRandom | None = None) -> tuple[Tensor, QuantizerOutput]:
        """Latent (B, C, d, h, w) -> the decoder's input with a gradient to z, and the loss.

        `random`: of the batch's samples; without it nothing is drawn.
        """
        with torch.autocast(z.device.type, enabled=False):
            return self._forward(z.float(), random)

    @torch.no_grad()
    def quantize(self, z: Tensor) -> Tensor:
        """The decoder's input for a latent (B, C, d, h, w); float32, deterministic, changes no state."""
        with torch.autocast(z.device.type, enabled=False):
            return self._quantize(z.float())

    @abstractmethod
    def _forward(self, z: Tensor, random: KeyedRandom | None) -> tuple[Tensor, QuantizerOutput]: ...

    @abstractmethod
    def _quantize(self, z: Tensor) -> Tensor: ...

    @abstractmethod
    def init_from(self, z: Tensor) -> None:
        """Fits the initial state to latents (B, C, d, h, w) of training data; the same on all ranks."""


class FiniteScalarQuantizer(Quantizer):
    """Rounds every channel to a fixed number of levels (FSQ; Mentzer et al. 2023): no codebook that could
    collapse.

    A channel is bounded by tanh, its range cut into equal bins, and bin centres are mapped back through the
    inverse, so that the output lives on the scale of the input. The bounding function's centre and width
    are fitted once to data.

    Args:
        levels: levels per latent channel; their count is the latent's channel count.
    """

    levels: Tensor
    centre: Tensor
    width: Tensor

    # tanh with 1.7 standard deviations puts 5 to 16 levels near the best places for a normal distribution
    WIDTH_IN_STD = 1.7

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        if not levels or min(levels) < 2:
            raise UserError(f"levels needs one number >= 2 per latent channel, got {list(levels)}")
        self.dim = len(levels)
        self.bits = sum(math.log2(level) for level in levels)
        shape = (1, self.dim, 1, 1, 1)
        self.register_buffer("levels", torch.tensor(levels, dtype=torch.float32).view(shape), persistent=False)
        self.register_buffer("centre", torch.zeros(shape))
        self.register_buffer("width", torch.full(shape, self.WIDTH_IN_STD))

    def _forward(self, z: Tensor, random: KeyedRandom | None) -> tuple[Tensor, QuantizerOutput]:
        bounded = self._bound(z)
        index = self._index(bounded)
        z_q = self._unbound(bounded + (self._level(index) - bounded).detach())  # the gradient goes straight through
        return z_q, QuantizerOutput(z_q.new_zeros(()), self._perplexity(index))

    def _quantize(self, z: Tensor) -> Tensor:
        return self._unbound(self._level(self._index(self._bound(z))))

    @torch.no_grad()
    def init_from(self, z: Tensor) -> None:
        values = z.float().movedim(1, 0).flatten(1)
        self.centre.copy_(from_rank_zero(values.mean(1)).view_as(self.centre))
        width = self.WIDTH_IN_STD * values.std(1).clamp_min(1e-4)
        self.width.copy_(from_rank_zero(width).view_as(self.width))

    def _bound(self, z: Tensor) -> Tensor:
        return torch.tanh((z - self.centre) / self.width)

    def _unbound(self, bounded: Tensor) -> Tensor:
        return self.centre + self.width * torch.atanh(bounded)

    def _index(self, bounded: Tensor) -> Tensor:
        return ((bounded + 1) / 2 * self.levels).floor().clamp_min(0).minimum(self.levels - 1)

    def _level(self, index: Tensor) -> Tensor:
        return (2 * index + 1 - self.levels) / self.levels

    def _perplexity(self, index: Tensor) -> Tensor:
        """Effective number of levels in use, averaged over channels."""
        rows = index.detach().movedim(1, 0).flatten(1).long()
        counts = rows.new_zeros(self.dim, int(self.levels.max())).scatter_add_(1, rows, torch.ones_like(rows))
        return perplexity(counts)


class KLBottleneck(Quantizer):
    """A normal posterior around z, drawn from where there is randomness, else its mean (Kingma & Welling 2014).

    Args:
        dim: latent channels.
        weight: of the Kullback-Leibler term, per latent value.
    """

    def __init__(self, dim: int, weight: float = 1e-4, initial_std: float = 0.05) -> None:
        super().__init__()
        self.dim, self.weight, self.bits = dim, weight, math.inf
        self.log_variance = nn.Conv3d(dim, dim, 1)
        nn.init.zeros_(self.log_variance.weight)
        nn.init.constant_(self.log_variance.bias, 2 * math.log(initial_std))  # type: ignore[arg-type]

    def _forward(self, z: Tensor, random: KeyedRandom | None) -> tuple[Tensor, QuantizerOutput]:
        log_variance = self.log_variance(z).clamp(-30, 20)
        kl = 0.5 * (z.square() + log_variance.exp() - 1 - log_variance)
        noisy = z if random is None else z + random.normal(*z.shape[1:]) * (0.5 * log_variance).exp()
        return noisy, QuantizerOutput(self.weight * kl.mean(), None)

    def _quantize(self, z: Tensor) -> Tensor:
        return z

    def init_from(self, z: Tensor) -> None:
        """Nothing to fit."""


class VectorQuantizer(Quantizer):
    """Nearest code of a codebook that follows the latents by moving averages (van den Oord et al. 2017,
    appendix A).

    With `groups` > 1 the channels are split into that many equal runs, each with its own codebook. The
    codebook, its averages and whether it has been initialised are buffers: saved, loaded and never redrawn
    after loading. Training state is the same on all ranks.

    Args:
        n_codes: codes per codebook.
        dim: latent channels.
        groups: codebooks.
        commitment: weight of the pull of z towards its code.
        decay: of the moving averages per step.
    """

    def __init__(self, n_codes: int, dim: int, groups: int = 1, commitment: float = 0.25, decay: float = 0.99) -> None:
        super().__init__()
        if dim % groups:
            raise UserError(f"groups must divide the latent channels, got {groups} groups and {dim} channels")
        self.dim, self.groups, self.bits = dim, groups, groups * math.log2(n_codes)
        self.commitment = commitment
        self.books = Codebooks(groups, n_codes, dim // groups, decay)

    def _forward(self, z: Tensor, random: KeyedRandom | None) -> tuple[Tensor, QuantizerOutput]:
        vectors = self._vectors(z.detach())
        if self.training:
            self.books.initialize_once(vectors)
        index = self.books.nearest(vectors)
        z_q = self._latent(self.books.look_up(index), z)
        counts = self.books.update(vectors, index) if self.training else self.books.count(index)
        loss = self.commitment * mse_loss(z, z_q)
        return z + (z_q - z).detach(), QuantizerOutput(loss, perplexity(counts))

    def _quantize(self, z: Tensor) -> Tensor:
        return self._latent(self.books.look_up(self.books.nearest(self._vectors(z))), z)

    def init_from(self, z: Tensor) -> None:
        self.books.initialize(self._vectors(z.detach().float()))

    def _vectors(self, z: Tensor) -> Tensor:
        return rearrange(z, "b (g c) d h w -> g (b d h w) c", g=self.groups)

    def _latent(self, vectors: Tensor, like: Tensor) -> Tensor:
        """Inverse of `_vectors` for a latent of the shape of `like`."""
        b, _, d, h, w = like.shape
        return rearrange(vectors, "g (b d h w) c -> b (g c) d h w", b=b, d=d, h=h, w=w)
