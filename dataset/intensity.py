"""Hounsfield units <-> the networks' unit intensity."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from common.errors import UserError

if TYPE_CHECKING:  # preparation workers start without torch
    from torch import Tensor

Array = TypeVar("Array", np.ndarray, "Tensor")


def check_window(hu_window: Sequence[float]) -> None:
    if not isinstance(hu_window, Sequence) or len(hu_window) != 2 or not hu_window[0] < hu_window[1]:
        raise UserError(f"hu_window must be two numbers [lowest, highest] in HU, lowest < highest, got {hu_window}")


def hu_to_unit(hu: Array, hu_window: tuple[float, float]) -> Array:
    """HU of any number type -> float32 in [-1, 1], clipped to `hu_window` (lo, hi)."""
    check_window(hu_window)
    lo, hi = hu_window
    if isinstance(hu, np.ndarray):
        unit = hu.astype(np.float32)
        np.clip(unit, lo, hi, out=unit)
    else:
        unit = hu.clone() if hu.is_floating_point() else hu  # all in place below: fresh memory is what takes time
        unit = unit.float().clip_(lo, hi)
    unit -= lo
    unit *= 2 / (hi - lo)
    unit -= 1
    return unit


def unit_to_hu(unit: Array, hu_window: tuple[float, float]) -> Array:
    """Unit intensity -> HU, float, clipped to `hu_window` (lo, hi)."""
    check_window(hu_window)
    lo, hi = hu_window
    return (unit.clip(-1, 1) + 1) * ((hi - lo) / 2) + lo
