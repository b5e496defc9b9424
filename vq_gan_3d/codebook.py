"""Codebooks that follow the vectors they encode. Same state on all ranks of a distributed run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from common.collectives import from_rank_zero, sum_over_ranks
from common.errors import UserError

_DISTANCES_AT_ONCE = 2**26  # 256 MiB in float32


class Codebooks(nn.Module):
    """`groups` independent codebooks of `n_codes` vectors (dim,), fitted by moving averages.

    All state is in buffers: `codes` (G, K, dim), the averages `counts` (G, K) and `sums` (G, K, dim), and
    the flag `initialized`, so that a loaded codebook is never drawn again. Codes that encode fewer than
    `DEAD_BELOW` of the average share are replaced by random vectors of the batch. The host reads the flag and the
    number of updates once, and again after loading: in every step it would wait for the GPU.
    """

    codes: Tensor
    counts: Tensor
    sums: Tensor
    updates: Tensor
    initialized: Tensor

    DEAD_BELOW = 0.25
    REBORN_AT = 0.5  # of the average share: unused again, a new code lives for 70 steps at decay 0.99
    INITIAL_ITERATIONS = 4
    INITIAL_VECTORS_PER_CODE = 16

    def __init__(self, groups: int, n_codes: int, dim: int, decay: float) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise UserError(f"need 0 <= decay < 1, got {decay}")
        self.decay = decay
        self.register_buffer("codes", torch.randn(groups, n_codes, dim))
        self.register_buffer("counts", torch.ones(groups, n_codes))
        self.register_buffer("sums", self.codes.clone())
        self.register_buffer("updates", torch.tensor(0))
        self.register_buffer("initialized", torch.tensor(False))
        self._known_initialized = False
        self._known_updates: int | None = None

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._known_initialized, self._known_updates = False, None

    def nearest(self, vectors: Tensor) -> Tensor:
        """Index (G, N) of the code nearest to each vector (G, N, dim), in chunks that bound the memory."""
        rows = max(1, _DISTANCES_AT_ONCE // self.codes.shape[1])
        index = [
            torch.cat([_nearest(part, codes) for part in group.split(rows)])
            for group, codes in zip(vectors, self.codes, strict=True)
        ]
        return torch.stack(index)

    def look_up(self, index: Tensor) -> Tensor:
        """Codes (G, N, dim) of the indices (G, N)."""
        return torch.stack([codes[i] for codes, i in zip(self.codes, index, strict=True)])

    def count(self, index: Tensor) -> Tensor:
        """How often each code occurs, float (G, K)."""
        counts = self.counts.new_zeros(self.counts.shape)
        return counts.scatter_add_(1, index, torch.ones_like(index, dtype=counts.dtype))

    def initialize_once(self, vectors: Tensor) -> None:
        if not self._known_initialized and not self.initialized:
            self.initialize(vectors)
        self._known_initialized = True

    @torch.no_grad()
    def initialize(self, vectors: Tensor) -> None:
        """Random training vectors (G, N, dim) refined by a few steps of k-means."""
        wanted = self.INITIAL_VECTORS_PER_CODE * self.codes.shape[1]
        vectors = self._draw(vectors, min(wanted, vectors.shape[1]))
        self.codes.copy_(from_rank_zero(self._draw(vectors, self.codes.shape[1])))
        for _ in range(self.INITIAL_ITERATIONS):
            self._move(vectors, self.nearest(vectors), decay=0.0)
        self.initialized.fill_(True)

    @torch.no_grad()
    def update(self, vectors: Tensor, index: Tensor) -> Tensor:
        """One step of the moving averages; returns the counts (G, K) of this batch over all ranks."""
        return self._move(vectors, index, self.decay)

    def _move(self, vectors: Tensor, index: Tensor, decay: float) -> Tensor:
        sums = torch.zeros_like(self.sums)
        sums.scatter_add_(1, index[..., None].expand_as(vectors), vectors)
        counts, sums = sum_over_ranks(self.count(index)), sum_over_ranks(sums)
        self.counts.lerp_(counts, 1 - decay)
        self.sums.lerp_(sums, 1 - decay)
        self._replace_dead(vectors, counts.sum(1, keepdim=True) / counts.shape[1])
        self.codes.copy_(self.sums / self.counts[..., None])
        self.updates += 1
        if self._known_updates is not None:
            self._known_updates += 1
        return counts

    def _replace_dead(self, vectors: Tensor, average: Tensor) -> None:
        dead = self.counts < self.DEAD_BELOW * average  # a selection, not a branch, which the host would have to know
        fresh = from_rank_zero(self._draw(vectors, dead.shape[1]))
        reborn = (self.REBORN_AT * average).expand_as(self.counts)
        self.counts.copy_(torch.where(dead, reborn, self.counts))
        self.sums.copy_(torch.where(dead[..., None], fresh * reborn[..., None], self.sums))

    def _draw(self, vectors: Tensor, count: int) -> Tensor:
        """`count` random vectors of each group, (G, count, dim), without repetition where there are enough.

        The draw depends on the number of updates alone, so that a resumed run repeats it.
        """
        if self._known_updates is None:
            self._known_updates = int(self.updates)
        stream = torch.Generator().manual_seed(self._known_updates)
        available = vectors.shape[1]
        if available >= count:
            rows = torch.randperm(available, generator=stream)[:count]
        else:
            rows = torch.randint(available, (count,), generator=stream)
        return vectors[:, rows.to(vectors.device, non_blocking=True)]


def perplexity(counts: Tensor) -> Tensor:
    """Effective number of codes in use, exp of the entropy of the counts (G, K), averaged over groups."""
    share = counts / counts.sum(1, keepdim=True)
    return torch.special.entr(share).sum(1).exp().mean()


def _nearest(vectors: Tensor, codes: Tensor) -> Tensor:
    # |v - c|² without |v|², which is the same for all codes
    return torch.addmm(codes.square().sum(1), vectors, codes.T, alpha=-2).argmin(1)
