"""Where patches sit in a volume. Pure geometry on tensors: no files, no models.

Sizes, starts and spacings are ordered (d, h, w) throughout.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import product

import torch
from torch import Tensor

STEP = 4  # voxels per latent voxel and axis, fixed by the codec's layout
Triple = tuple[int, int, int]
Box = tuple[slice, slice, slice]


def triple(values: Sequence[int], name: str = "size") -> Triple:
    """Three integers as a tuple; ValueError if there are not three."""
    found = list(values) if isinstance(values, Iterable) else values
    if not isinstance(found, list) or len(found) != 3:
        raise ValueError(f"{name} needs three numbers (d, h, w), got {found}")
    d, h, w = (int(v) for v in found)
    return d, h, w


def axis_starts(size: int, patch: int, stride: int) -> list[int]:
    """First voxels of patches that cover an axis; the last patch is anchored at its end."""
    if not 0 < patch <= size:
        raise ValueError(
            f"need 0 < patch <= size (voxels), got patch {patch} and size {size}; pad volumes smaller than a patch"
        )
    if not 0 < stride <= patch:
        raise ValueError(f"need 0 < stride <= patch (voxels), got stride {stride} and patch {patch}")
    last = size - patch
    return [*range(0, last, stride), last]


def grid_coords(shape: Triple, patch: Triple, stride: Triple) -> Tensor:
    """First voxels of patches that together cover a volume: int64 (N, 3)."""
    return torch.tensor(list(product(*map(axis_starts, shape, patch, stride))), dtype=torch.int64)


def box(start: Iterable[int], size: Triple) -> Box:
    """Slices of the box that begins at voxel `start`."""
    d, h, w = (slice(int(s), int(s) + n) for s, n in zip(start, size, strict=True))
    return d, h, w


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
    return torch.stack([volume[(slice(None), *box(c, patch))] for c in coords.tolist()]), coords


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
        where = box(start, size)
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


def padded_shape(shape: Triple, patch: Triple, multiple: int) -> Triple:
    """The volume's shape after padding at the high end to at least a patch and to a multiple of the codec's step."""
    d, h, w = (-(-max(n, p) // multiple) * multiple for n, p in zip(shape, patch, strict=True))
    return d, h, w
