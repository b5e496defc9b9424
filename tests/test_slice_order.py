import numpy as np
import pytest

from dataset.phantom.thorax import make_phantom
from dataset.scans.slice_order import odd_slices


@pytest.fixture(scope="module")
def hu():
    return make_phantom(3, (40, 32, 36), (7, 10, 10)).hu


def test_slices_in_order_are_none_of_them_odd(hu):
    assert odd_slices(hu) == []
    assert odd_slices(hu[::-1]) == []
    noise = np.random.default_rng(0).normal(0, 30, (40, 64, 64)).astype(np.int16)
    assert odd_slices(noise) == []
    assert odd_slices(hu[:2]) == []


def test_exchanged_slices_are_found(hu):
    swapped = hu.copy()
    swapped[[8, 30]] = swapped[[30, 8]]
    assert odd_slices(swapped) == [8, 30]


def test_a_blank_slice_is_found(hu):
    blank = hu.copy()
    blank[17] = -1024
    assert odd_slices(blank) == [17]
