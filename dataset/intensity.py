"""Hounsfield units <-> the networks' unit intensity."""

from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:  # preparation workers start without torch
    from torch import Tensor

Array = TypeVar("Array", np.ndarray, "Tensor")


def check_window(hu_window: tuple[float, float]) -> None:
    lo, hi = hu_window
    if not lo < hi:
        raise ValueError(f"hu_window must be (lowest, highest) HU with lowest < highest, got ({lo}, {hi})")


def hu_to_unit(hu: Array, hu_window: tuple[float, float]) -> Array:
    """HU of any number type -> float32 in [-1, 1], clipped to `hu_window` (lo, hi)."""
    if isinstance(hu, np.ndarray):
        unit = np.empty(hu.shape, dtype=np.float32)
        write_unit(hu, hu_window, unit)
        return unit
    check_window(hu_window)
    lo, hi = hu_window
    return (hu.float().clip(lo, hi) - lo) * (2 / (hi - lo)) - 1


def write_unit(hu: np.ndarray, hu_window: tuple[float, float], out: np.ndarray) -> None:
    """`hu_to_unit` into a float32 array of the same shape, in place: no memory is taken but `out`."""
    check_window(hu_window)
    lo, hi = hu_window
    out[...] = hu
    np.clip(out, lo, hi, out=out)
    out -= lo
    out *= 2 / (hi - lo)
    out -= 1


def unit_to_hu(unit: Array, hu_window: tuple[float, float]) -> Array:
    """Unit intensity -> HU, float, clipped to `hu_window` (lo, hi)."""
    check_window(hu_window)
    lo, hi = hu_window
    return (unit.clip(-1, 1) + 1) * ((hi - lo) / 2) + lo
