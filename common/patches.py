"""Where patches sit in a volume. Pure geometry on tensors: no files, no models.

Sizes, starts and spacings are ordered (d, h, w) throughout.
"""

from collections.abc import Callable, Sequence
from itertools import product

import torch
from torch import Tensor

from common.geometry import Triple, axis_starts, slices, triple


def grid_coords(shape: Triple, patch: Triple, stride: Triple) -> Tensor:
    """First voxels of patches that together cover a volume: int64 (N, 3)."""
    return torch.tensor(list(product(*map(axis_starts, shape, patch, stride))), dtype=torch.int64)


def extract_patches_3d(volume: Tensor, patch_size: Sequence[int], stride: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Cut a volume into overlapping patches that cover it.

    Args:
        volume: (C, D, H, W).
        patch_size: (d, h, w) in voxels, none larger than the volume.
        stride: (d, h, w) in voxels, 1 to patch size.

    Returns:
        patches (N, C, d, h, w) and the first voxel of each, int64 (N, 3).

    Raises:
        ValueError: the volume is not 4-dimensional or smaller than a patch, or a stride is out of range.
    """
    if volume.ndim != 4:
        raise ValueError(f"volume needs the axes (C, D, H, W), got shape {tuple(volume.shape)}")
    patch = triple(patch_size, "patch_size")
    coords = grid_coords(triple(volume.shape[1:]), patch, triple(stride, "stride"))
    return torch.stack([volume[(slice(None), *slices(c, patch))] for c in coords.tolist()]), coords


def _flat(n: int) -> Tensor:
    return torch.ones(n)


def _hann(n: int) -> Tensor:
    # Without its zero end points: every voxel of a window keeps a positive weight.
    return torch.hann_window(n + 2, periodic=False)[1:-1]


BLENDS: dict[str, Callable[[int], Tensor]] = {"average": _flat, "hann": _hann}


def blend_window(size: Triple, blend: str) -> Tensor:
    """Separable weights (d, h, w), all positive, with which overlapping patches are averaged."""
    if blend not in BLENDS:
        raise ValueError(f"blend must be one of {sorted(BLENDS)}, got {blend!r}")
    d, h, w = map(BLENDS[blend], size)
    return d[:, None, None] * h[:, None] * w


def stitch_patches(
    patches: Tensor | Sequence[Tensor], coords: Tensor, volume_shape: Sequence[int], blend: str = "average"
) -> Tensor:
    """Blend overlapping patches into a volume; the inverse of `extract_patches_3d`.

    Args:
        patches: (N, C, d, h, w).
        coords: first voxel of each patch, integers (N, 3).
        volume_shape: (D, H, W).
        blend: "average" weighs all voxels of a patch alike, "hann" falls off towards its faces.

    Returns:
        (C, D, H, W).

    Raises:
        ValueError: voxels that no patch covers, patches beyond the volume, counts that differ, unknown blend.
    """
    shape = triple(volume_shape, "volume_shape")
    if len(patches) != len(coords) or len(patches) == 0:
        raise ValueError(f"need one coordinate per patch, got {len(patches)} patches and {len(coords)} coordinates")
    first = patches[0]
    size = triple(first.shape[1:], "patch")
    weights = blend_window(size, blend).to(first)
    total, weight = first.new_zeros(first.shape[0], *shape), first.new_zeros(shape)
    for patch, start in zip(patches, coords.tolist(), strict=True):
        if any(c < 0 or c + n > m for c, n, m in zip(start, size, shape, strict=True)):
            raise ValueError(f"patch {size} at {tuple(start)} reaches beyond the volume {shape}")
        where = slices(start, size)
        total[(slice(None), *where)] += patch * weights
        weight[where] += weights
    if not bool((weight > 0).all()):
        raise ValueError(f"{int((weight == 0).sum())} voxels of the volume {shape} lie in no patch")
    return total / weight


def positions_mm(coord: Tensor, spacing: Tensor, volume_shape: Tensor, size: Triple, step: int = 1) -> Tensor:
    """Where the blocks of a patch lie in the patient.

    Args:
        coord: (B, 3), first voxel of the patch in the volume.
        spacing: (B, 3) in mm.
        volume_shape: (B, 3), voxels of the volume without padding.
        size: blocks of the patch along (d, h, w).
        step: voxels per block and axis (1 for voxels, 4 for the codec's latents).

    Returns:
        float32 (B, 3, d, h, w): mm from the volume's centre to the centres of the blocks, along
        foot→head, front→back, patient right→left.
    """
    axes = []
    for axis, n in enumerate(size):
        offsets = torch.arange(n, device=coord.device, dtype=torch.float32) * step + (step - 1) / 2
        first = coord[:, axis].float() - (volume_shape[:, axis].float() - 1) / 2
        mm = (first[:, None] + offsets) * spacing[:, axis].float()[:, None]  # (B, n)
        view = [len(coord), 1, 1, 1]
        view[axis + 1] = n
        axes.append(mm.view(view).expand(len(coord), *size))
    return torch.stack(axes, dim=1)
