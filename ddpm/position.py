"""Where a patch sits in the patient, as numbers a network can use. Pure functions, millimetres in.

Constants stay Python numbers: made into tensors on a GPU, each would be a copy that the CPU waits for.
"""

import math

import torch
from torch import Tensor

COORDINATE_SCALE_MM = 200.0  # half the width of a large adult's field of view
COORDINATE_OCTAVES = 2
COORDINATE_CHANNELS = 3 * (1 + 2 * COORDINATE_OCTAVES)

PATCH_OCTAVES = 4
PATCH_EMBEDDING_DIM = 9 * (1 + 2 * PATCH_OCTAVES)

WAVELENGTHS_MM = (1600.0, 800.0, 400.0, 200.0, 100.0)
AXIS_FEATURES = 2 * len(WAVELENGTHS_MM)


def with_octaves(values: Tensor, octaves: int, dim: int) -> Tensor:
    """Values, then sin and cos of pi * 2^k * values for k < octaves, concatenated along `dim`."""
    angles = [values * (math.pi * 2**k) for k in range(octaves)]
    return torch.cat([values, *(f(a) for a in angles for f in (torch.sin, torch.cos))], dim)


def coordinate_channels(positions: Tensor) -> Tensor:
    """Dense coordinates (B, COORDINATE_CHANNELS, d, h, w) of voxel centres (B, 3, d, h, w) in mm.

    A voxel's channels depend on its own position alone: those of a crop are the crop of those of the whole.
    """
    return with_octaves(positions / COORDINATE_SCALE_MM, COORDINATE_OCTAVES, dim=1)


def grid_extent(positions: Tensor) -> Tensor:
    """Millimetres (B, 3) from edge to edge of an axis-aligned grid of voxel centres (B, 3, d, h, w); 0 of one voxel."""
    extents = []
    for axis in range(3):
        line = positions[:, axis].movedim(axis + 1, 1)[:, :, 0, 0]  # (B, n)
        n = line.shape[1]
        extents.append((line[:, -1] - line[:, 0]) * (n / max(n - 1, 1)))
    return torch.stack(extents, 1)


def patch_embedding(positions: Tensor, spacing: Tensor) -> Tensor:
    """Fourier features (B, PATCH_EMBEDDING_DIM) of a patch's centre, extent and CT voxel spacing.

    Args:
        positions: (B, 3, d, h, w), voxel centres of the patch in mm from the volume's centre.
        spacing: (B, 3), size of a CT voxel in mm.
    """
    centre = (positions[:, :, 0, 0, 0] + positions[:, :, -1, -1, -1]) / 2
    extent = grid_extent(positions).abs().clamp_min(1.0)
    scaled = [centre / COORDINATE_SCALE_MM, (extent / COORDINATE_SCALE_MM).log2(), spacing.log2()]
    return with_octaves(torch.cat(scaled, 1), PATCH_OCTAVES, dim=1)


def axis_waves(positions: Tensor) -> Tensor:
    """Sines and cosines (B, N, A * AXIS_FEATURES) of N points with A coordinates in mm (B, N, A).

    The dot product of two such vectors is a sum of cosines of the distance along each axis: large where
    two points share a coordinate, whatever their place.
    """
    angles = torch.stack([positions * (2 * math.pi / wave) for wave in WAVELENGTHS_MM], -1)  # (B, N, A, waves)
    return torch.cat([angles.sin(), angles.cos()], -1).flatten(2)


def token_positions_mm(grid: tuple[int, int], xray_camera: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Where the rays of tokens cross the patient's middle plane y = 0: x and z in mm (B, N, 2).

    Args:
        grid: (rows, columns) of tokens, which tile the image row by row.
        xray_camera: (B, 3, 4), (x, y, z mm, 1) -> homogeneous (column, row), pixel centres at integers.
        image_size: (height, width) in pixels.
    """
    rows, columns = (
        (torch.arange(n, device=xray_camera.device) + 0.5) * (size / n) - 0.5
        for n, size in zip(grid, image_size, strict=True)
    )
    row, column = torch.meshgrid(rows, columns, indexing="ij")
    pixels = column.flatten(), row.flatten()
    to_x, _, to_z, origin = xray_camera[:, :, None].unbind(-1)  # each (B, 3, 1)
    (a, b, u), (c, d, v) = (
        (to_x[:, i] - at * to_x[:, 2], to_z[:, i] - at * to_z[:, 2], at * origin[:, 2] - origin[:, i])
        for i, at in enumerate(pixels)
    )  # a x + b z = u and c x + d z = v, each (B, N)
    # Cramer's rule: autocast would round a matrix product, and the CPU waits for the GPU in torch.linalg.inv
    return torch.stack([d * u - b * v, a * v - c * u], -1) / (a * d - b * c)[..., None]


def view_token_positions_mm(grid: tuple[int, int], xray_camera: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Where tokens of any view lie: x, z and y in mm (B, N, 3), NaN for the one along which their rays run.

    Frontal rays cross the plane y = 0, as in `token_positions_mm`; lateral ones, nearer to x than to y, x = 0.
    """
    x, y, z, origin = xray_camera.unbind(-1)  # columns, each (B, 3)
    frontal = token_positions_mm(grid, xray_camera, image_size)
    lateral = token_positions_mm(grid, torch.stack([y, x, z, origin], -1), image_size)  # y and z
    centre = origin / origin[:, 2:]  # the pixel that shows the origin
    (ax, bx), (ay, by), (az, bz) = ((axis[:, :2] - centre[:, :2] * axis[:, 2:]).unbind(1) for axis in (x, y, z))
    sideways = ((ay * bz - az * by).abs() > (ax * bz - az * bx).abs())[:, None, None]  # the ray through the origin
    unknown = torch.full_like(frontal[..., :1], math.nan)
    seen = torch.cat([frontal, unknown], -1), torch.cat([unknown, lateral[..., 1:], lateral[..., :1]], -1)
    return torch.where(sideways, seen[1], seen[0])
