import re

import numpy as np
import pytest
import torch

from common.errors import UserError
from common.geometry import (
    axis_weights,
    box_around,
    centres,
    latent_shape,
    lengths,
    overlap,
    padded_shape,
    sizes,
    slices,
    triple,
)


def test_padding_reaches_a_patch_and_the_codecs_step():
    assert padded_shape((30, 233, 512), (128, 128, 128)) == (128, 236, 512)
    assert padded_shape((30, 233, 512)) == (32, 236, 512)
    assert latent_shape((30, 233, 512), (128, 128, 128)) == (32, 59, 128)


@pytest.mark.parametrize("values", [[1, 2, 3], (1, 2, 3), np.array([1, 2, 3]), torch.Size([1, 2, 3])])
def test_three_whole_numbers_come_in_any_list(values):
    assert triple(values) == (1, 2, 3)


@pytest.mark.parametrize(
    "values", ["128", [16.9, 16, 16], [16.0, 16, 16], ["16", 16, 16], [True, 16, 16], [16, 16], 16, None, "abc", b"abc"]
)
def test_what_is_not_three_whole_numbers_is_refused(values):
    with pytest.raises(UserError, match="model.patch_size needs three whole numbers in the order d, h, w, got"):
        triple(values, "model.patch_size")


@pytest.mark.parametrize("values", [[0, 1, 1], [-4, 8, 8]])
def test_sizes_are_above_zero(values):
    with pytest.raises(UserError, match="whole numbers > 0"):
        sizes(values, "shape")


def test_one_length_stands_for_all_axes():
    assert lengths(2) == (2.0, 2.0, 2.0)
    assert lengths([1, 0.5, 0.75]) == (1.0, 0.5, 0.75)


@pytest.mark.parametrize("values", [-1, 0, [1, 1, 0], [1, float("nan"), 1], [1, float("inf"), 1], "1", [1, 2], True])
def test_what_is_no_length_is_refused(values):
    with pytest.raises(UserError, match=rf"spacing needs three lengths.*got {re.escape(repr(values))}"):
        lengths(values)


@pytest.mark.parametrize(
    ("start", "size"),
    [((0, 0, 0), (5, 6, 7)), ((-2, 3, 5), (4, 5, 6)), ((3, -1, -9), (4, 9, 20)), ((2, 2, 2), (1, 1, 1))],
)
def test_the_overlap_of_a_box_fills_what_the_padded_volume_has(start, size):
    volume = np.arange(1, 211).reshape(5, 6, 7)
    expected = np.pad(volume, 20)[slices([s + 20 for s in start], size)]
    first, length, where = overlap(start, size, volume.shape)
    found = np.zeros(size, dtype=int)
    found[where] = volume[slices(first, length)]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("start", [(5, 0, 0), (0, -4, 0), (0, 0, 99)])
def test_a_box_beside_the_volume_has_no_overlap(start):
    assert overlap(start, (4, 4, 4), (5, 6, 7)) is None


@pytest.mark.parametrize(("size", "step", "new_size", "new_step"), [(5, 1.0, 9, 1.3), (50, 0.7, 9, 4.0), (7, 3, 7, 3)])
def test_weights_sum_to_one_or_nothing(size, step, new_size, new_step):
    at = centres(new_size, new_step)
    sums = axis_weights(size, step, at).sum(axis=1)
    np.testing.assert_allclose(sums, np.abs(at) <= size * step / 2 + 1e-6, atol=1e-5)
    assert sums.any()


def test_places_between_voxels_are_interpolated_and_wide_ones_averaged():
    values = np.array([0.0, 1.0, 4.0, 9.0])
    np.testing.assert_allclose(axis_weights(4, 2.0, np.array([-2.0, 0.0]), width=2.0) @ values, [0.5, 2.5])
    coarse = axis_weights(4, 1.0, centres(2, 2.0))
    assert (coarse > 0).sum(1).tolist() == [3, 3]


def test_a_box_around_what_is_true_holds_it_and_no_more():
    mask = np.zeros((9, 8, 7), bool)
    assert mask[box_around(mask, 2)].size == 0
    mask[4, 1, 6] = mask[6, 3, 5] = True
    assert box_around(mask) == (slice(4, 7), slice(1, 4), slice(5, 7))
    assert box_around(mask, 2) == (slice(2, 9), slice(0, 6), slice(3, 7))
