"""Hounsfield units and the networks' unit intensity."""

import numpy as np
import pytest
import torch

from dataset.intensity import hu_to_unit, unit_to_hu

WINDOW = (-1000.0, 400.0)
MAKE = {"numpy": lambda v: np.array(v, dtype=np.float32), "torch": torch.tensor}


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_units_are_linear_in_the_window(make):
    hu = make([-1000.0, -300.0, 50.0, 400.0])
    unit = hu_to_unit(hu, WINDOW)
    assert unit.tolist() == pytest.approx([-1, 0, 0.5, 1], abs=1e-6)
    assert unit_to_hu(unit, WINDOW).tolist() == pytest.approx(hu.tolist(), abs=1e-3)


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_what_lies_outside_the_window_is_clipped_both_ways(make):
    """A decoder's values reach beyond [-1, 1]; a drawn CT must not reach beyond the window."""
    assert hu_to_unit(make([-3000.0, 3000.0]), WINDOW).tolist() == [-1, 1]
    assert unit_to_hu(make([-1.5, 1.001, 7.0]), WINDOW).tolist() == [-1000, 400, 400]
