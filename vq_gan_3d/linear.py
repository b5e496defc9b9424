"""The linear part of the autoencoder: best linear codecs of 4x4x4 blocks, overlapping ones or not.

Without overlap a latent voxel holds principal components of its own block. With overlap its basis functions reach two
voxels into each neighbouring block and fade out there (lapped orthogonal transform; Malvar & Staelin 1989), so that an
error in a latent does not end at a block's face, where it would be seen.
"""

from __future__ import annotations

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import pad

from common.geometry import STEP
from vq_gan_3d.layers import ChannelsToSpace, SpaceToChannels, crop

LAP = STEP // 2  # voxels by which a basis function reaches into the neighbouring blocks
_CORRELATION = 0.95  # of neighbouring voxels, for which the transform is made


class LinearEncoder(nn.Conv3d):
    """CT (B, 1, 4d, 4h, 4w) -> latent (B, C, d, h, w): a convolution of blocks. `halo`: latent voxels that it sees
    on every side.
    """

    def __init__(self, embedding_dim: int, lapped: bool) -> None:
        super().__init__(STEP**3, embedding_dim, 2 if lapped else 1)
        self.lapped, self.lap, self.halo = lapped, LAP * lapped, int(lapped)
        self.to_blocks = SpaceToChannels(STEP)

    def forward(self, x: Tensor) -> Tensor:
        """Beyond its faces `x` goes on with its outermost voxels."""
        return super().forward(self.to_blocks(_extended(x, self.lap)))


class LinearDecoder(nn.Conv3d):
    """Latent (B, C, d, h, w) -> CT (B, 1, 4d, 4h, 4w): a convolution to blocks. `halo`: latent voxels that a voxel
    needs on every side.
    """

    def __init__(self, embedding_dim: int, lapped: bool) -> None:
        super().__init__(embedding_dim, STEP**3, 2 if lapped else 1)
        self.lap, self.halo = LAP * lapped, int(lapped)
        self.from_blocks = ChannelsToSpace(STEP)

    def forward(self, z: Tensor, context: int = 0) -> Tensor:
        """`context`: latent voxels on every side of `z` that are only context; beyond them `z` goes on as it ends."""
        halo = min(context, self.halo)
        z = _extended(crop(z, context - halo), self.halo - halo)
        return crop(self.from_blocks(super().forward(z)), self.lap)


def _extended(x: Tensor, margin: int) -> Tensor:
    return pad(x, [margin] * 6, mode="replicate") if margin else x


def basis_functions(lapped: bool) -> Tensor:
    """An orthonormal basis of volumes: float64 (64, s, s, s), to be moved in steps of 4; s is 8 if lapped, else 4."""
    line = torch.from_numpy(lapped_transform()) if lapped else torch.eye(STEP, dtype=torch.float64)
    return rearrange(torch.einsum("ai,bj,ck->abcijk", line, line, line), "a b c i j k -> (a b c) i j k")


def lapped_transform() -> np.ndarray:
    """The lapped orthogonal transform of 4 channels, (4, 8); rows are orthonormal, also to those moved by 4.

    Even and odd cosines of a block and of its mirror image are paired and turned to the principal axes of a signal
    whose neighbours are correlated by 0.95 (Malvar & Staelin 1989, eq. 11 to 17).
    """
    k, n = np.arange(STEP)[:, None], np.arange(STEP)
    cosines = np.sqrt(2 / STEP) * np.where(k == 0, np.sqrt(0.5), 1) * np.cos((2 * n + 1) * k * np.pi / (2 * STEP))
    difference = cosines[0::2] - cosines[1::2]
    mirrored = difference[:, ::-1]
    pairs = 0.5 * np.block([[difference, mirrored], [difference, -mirrored]])
    places = np.arange(2 * STEP)
    covariance = pairs @ _CORRELATION ** np.abs(places[:, None] - places) @ pairs.T
    half = STEP // 2
    turned = [np.linalg.eigh(covariance[s, s])[1][:, ::-1].T @ pairs[s] for s in (slice(half), slice(half, STEP))]
    return np.concatenate(turned)


def fit(patches: Tensor, num_components: int, lapped: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The best linear codec of this kind for `patches` (B, 1, D, H, W): their principal components in the basis.

    Returns:
        basis (C, s, s, s): components, largest variance first; those beyond the 64th are zero. mean (): of the voxels.
        scale (): root mean square of the scores over the components.
    """
    functions = basis_functions(lapped)
    x = patches.double()
    mean = x.mean()
    lap = LAP if lapped else 0
    scores = torch.nn.functional.conv3d(_extended(x - mean, lap), functions.to(x.device)[:, None], stride=STEP)
    rows = rearrange(scores, "b c d h w -> (b d h w) c")
    variance, vectors = torch.linalg.eigh(rows.T @ rows / len(rows))
    kept = min(num_components, STEP**3)
    basis = x.new_zeros(num_components, *functions.shape[1:])
    basis[:kept] = torch.einsum("cn,cijk->nijk", vectors.flip(1)[:, :kept], functions.to(x.device))
    scale = variance.flip(0)[:kept].clamp_min(0).mean().sqrt().clamp_min(1e-3)
    return tuple(v.to(patches.dtype) for v in (basis, mean, scale))  # type: ignore[return-value]


@torch.no_grad()
def set_maps(encoder: LinearEncoder, decoder: LinearDecoder, basis: Tensor, mean: Tensor, scale: Tensor) -> None:
    """Give both maps a codec of `fit`: scores over `scale`, and back."""
    taps = rearrange(basis, "c (a p) (b q) (e r) -> c (p q r) a b e", p=STEP, q=STEP, r=STEP)
    encoder.weight.copy_(taps / scale)
    encoder.bias.copy_(-mean * basis.flatten(1).sum(1) / scale)  # type: ignore[union-attr]
    # a block is made of the far half of the latent voxel before it and the near half of the one after it
    decoder.weight.copy_(taps.flip(2, 3, 4).transpose(0, 1) * scale)
    decoder.bias.fill_(mean)  # type: ignore[union-attr]
