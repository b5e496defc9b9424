"""How close a generated CT is to the real one. Arrays in, numbers out.

Every score depends on the HU window, the data range, the way of averaging and the voxel size, and published
figures differ in all four; `Scores` therefore carries them along.
"""

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from common.errors import UserError

Window = tuple[float, float]  # lowest and highest HU kept
Float = NDArray[np.float32]

SSIM_SIZES = {"uniform": 7, "gaussian": 11}  # voxels along each side of the local window
SSIM_SIZE = SSIM_SIZES["uniform"]
SSIM_SIGMA = 1.5  # voxels, of the gaussian window (Wang et al. 2004), which ends 5 voxels from its middle
SLAB = 32  # rows of a volume handled at a time: SSIM holds ten float32 copies of what it is given
_SLABS_AT_ONCE = 4  # of SSIM's, for memory's sake
SLICE_PSNR_CEILING = 100.0  # dB given to an identical slice by X2CT-GAN's evaluation


@dataclass(frozen=True)
class Preset:
    """One published way to score.

    `mode` "3d" scores the whole volume at once, "slices" averages the scores of all slices along each axis,
    then over the axes. `data_range` is the peak of the PSNR in HU; SSIM always uses [0, 1] data and range 1.
    `ssim_window`: a name of `SSIM_SIZES`; of slices always "uniform".
    """

    name: str
    window: Window
    data_range: float
    mode: str
    ssim_window: str = "uniform"


PRESETS = {  # those of published figures
    preset.name: preset
    for preset in (
        Preset("hu2000", (-1000.0, 1000.0), 2000.0, "3d"),
        Preset("hu2000_gaussian", (-1000.0, 1000.0), 2000.0, "3d", "gaussian"),
        Preset("ctpa700", (-200.0, 500.0), 700.0, "3d"),
        # X2CT-GAN's test.py: CT 0..2500 = HU + 1000, but PIXEL_MAX 4095, which adds 4.29 dB
        Preset("x2ct_compat", (-1000.0, 1500.0), 4095.0, "slices"),
    )
}


@dataclass(frozen=True)
class Scores:
    """Scores of one volume and what they depend on; psnr in dB, infinite for equal volumes, hu_mae in HU.

    spacing: (d, h, w) in mm. ssim_window: "uniform" (7 voxels wide) or "gaussian" (sigma 1.5 voxels).
    """

    psnr: float
    ssim: float
    hu_mae: float
    preset: str
    window: Window
    data_range: float
    mode: str
    spacing: tuple[float, float, float]
    shape: tuple[int, int, int]
    ssim_window: str = "uniform"


def psnr(generated: NDArray, real: NDArray, window: Window, data_range: float | None = None) -> float:
    """Peak signal-to-noise ratio in dB over the whole volume; infinite for equal volumes.

    Args:
        generated, real: HU (D, H, W); both are clipped to `window` first.
        data_range: peak in HU, the window's width unless given.
    """
    squares = sum(float(np.square(a - b).sum(dtype=np.float64)) for a, b in _slabs(generated, real, window))
    return _decibel(squares / generated.size, _width(window) if data_range is None else data_range)


def hu_mae(generated: NDArray, real: NDArray, window: Window) -> float:
    """Mean absolute error in HU, both volumes clipped to `window`."""
    errors = sum(float(np.abs(a - b).sum(dtype=np.float64)) for a, b in _slabs(generated, real, window))
    return errors / generated.size


def ssim(generated: NDArray, real: NDArray, window: Window, weights: str = "uniform") -> float:
    """Structural similarity (Wang et al. 2004) with 3D neighbourhoods.

    One definition for the whole project: HU clipped to `window` and scaled to [0, 1], data range 1, a uniform
    7x7x7 neighbourhood, sample covariance, K1 = 0.01, K2 = 0.03, mean over voxels whose neighbourhood lies
    inside. The offset matters: the same pair in raw HU scores differently.

    Args:
        weights: "gaussian": 11x11x11 neighbourhoods weighted by a gaussian of `SSIM_SIGMA`, population covariance, as
            Wang et al. have it.
    """
    size = SSIM_SIZES[weights]
    how: dict[str, Any] = {"win_size": size}
    if weights == "gaussian":
        how = {"gaussian_weights": True, "sigma": SSIM_SIGMA, "use_sample_covariance": False}
    _check_ssim_size(generated.shape, size)
    _check_pair(generated, real)

    def of_slab(start: int) -> float:
        a, b = (_unit(_clipped(hu[start : start + SLAB + size - 1], window), window) for hu in (generated, real))
        rows = len(a) - size + 1  # structural_similarity leaves half a neighbourhood out at each border
        return rows * float(structural_similarity(a, b, data_range=1.0, **how))

    with ThreadPoolExecutor(min(torch.get_num_threads(), _SLABS_AT_ONCE)) as pool:
        total = sum(pool.map(of_slab, range(0, len(generated) - size + 1, SLAB)))
    return total / (len(generated) - size + 1)


def slice_psnr(generated: NDArray, real: NDArray, window: Window, data_range: float) -> float:
    """PSNR in dB per slice, averaged along each axis, then over the axes; 100 for an equal slice."""
    parts = [np.square(a - b) for a, b in _slabs(generated, real, window)]
    means = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        sums = [part.sum(axis=others, dtype=np.float64) for part in parts]
        squares = np.concatenate(sums) if axis == 0 else np.sum(sums, axis=0)
        errors = squares * generated.shape[axis] / generated.size
        means.append(np.mean([_decibel(e, data_range) if e > 0 else SLICE_PSNR_CEILING for e in errors]))
    return float(np.mean(means))


def slice_ssim(generated: NDArray, real: NDArray, window: Window) -> float:
    """SSIM on [0, 1] with 7x7 neighbourhoods in each slice, averaged along each axis, then over the axes."""
    _check_ssim_size(generated.shape)
    _check_pair(generated, real)
    a, b = (_unit(_clipped(hu, window), window) for hu in (generated, real))
    means = [structural_similarity(a, b, win_size=SSIM_SIZE, data_range=1.0, channel_axis=k) for k in range(3)]
    return float(np.mean(means))


def score(generated: NDArray, real: NDArray, spacing: Sequence[float], preset: Preset) -> Scores:
    """All scores of one volume (D, H, W) in HU under a preset; `spacing` (d, h, w) in mm is recorded."""
    d, h, w = (float(s) for s in spacing)
    if preset.mode == "slices":
        decibel = slice_psnr(generated, real, preset.window, preset.data_range)
        similarity = slice_ssim(generated, real, preset.window)
    else:
        decibel = psnr(generated, real, preset.window, preset.data_range)
        similarity = ssim(generated, real, preset.window, preset.ssim_window)
    return Scores(
        psnr=decibel,
        ssim=similarity,
        hu_mae=hu_mae(generated, real, preset.window),
        preset=preset.name,
        window=preset.window,
        data_range=preset.data_range,
        mode=preset.mode,
        spacing=(d, h, w),
        shape=(generated.shape[0], generated.shape[1], generated.shape[2]),
        ssim_window=preset.ssim_window,
    )


def find_presets(names: Sequence[str] | str) -> list[Preset]:
    """The presets of these names, or of one; ValueError lists those there are."""
    names = [names] if isinstance(names, str) else names
    unknown = [name for name in names if name not in PRESETS]
    if unknown:
        raise UserError(f"presets must be some of {list(PRESETS)}, got {unknown}")
    return [PRESETS[name] for name in names]


def widest(window: Window) -> Window:
    """What holds a window and those of all presets: to it CTs are clipped that are resampled before they are scored."""
    lows, highs = zip(window, *(preset.window for preset in PRESETS.values()), strict=True)
    return min(lows), max(highs)


def window_preset(window: Window) -> Preset:
    """The plain preset of a HU window: whole-volume scores, data range = the window's width."""
    return Preset(f"hu[{window[0]:g},{window[1]:g}]", window, _width(window), "3d")


def _width(window: Window) -> float:
    low, high = window
    if not low < high:
        raise ValueError(f"the HU window needs low < high, got {low} and {high}")
    return high - low


def _check_pair(generated: NDArray, real: NDArray) -> None:
    if generated.ndim != 3 or generated.shape != real.shape:
        raise ValueError(
            f"two volumes (D, H, W) of one shape can be compared, got {generated.shape} and {real.shape};"
            " bring both onto one grid with evaluation.common_grid.to_grid"
        )


def _check_ssim_size(shape: tuple[int, ...], size: int = SSIM_SIZE) -> None:
    if min(shape) < size:
        raise UserError(
            f"SSIM needs at least {size} voxels along each axis, got shape {shape};"
            " resample to a finer grid or leave SSIM out"
        )


def _slabs(generated: NDArray, real: NDArray, window: Window) -> Iterator[tuple[Float, Float]]:
    """Both volumes clipped, a few rows at a time."""
    _check_pair(generated, real)
    _width(window)
    for start in range(0, len(generated), SLAB):
        rows = slice(start, start + SLAB)
        yield _clipped(generated[rows], window), _clipped(real[rows], window)


def _clipped(hu: NDArray, window: Window) -> Float:
    return np.clip(hu.astype(np.float32), *window)


def _unit(hu: Float, window: Window) -> Float:
    return (hu - np.float32(window[0])) / np.float32(_width(window))


def _decibel(mean_square: float, data_range: float) -> float:
    return math.inf if mean_square == 0 else 10 * math.log10(data_range**2 / mean_square)
