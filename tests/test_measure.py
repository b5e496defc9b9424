import numpy as np
import pytest

from dataset.phantom.anatomy import draw_anatomy
from dataset.phantom.thorax import render
from dataset.scans.measure import body_box, fingerprint, hu_percentiles, lungs_of, thin_strides, thinned


def test_the_body_box_leaves_out_the_table():
    thin = np.full((30, 40, 40), -1000, np.int16)
    thin[:, 8:28, 6:34] = 0
    thin[:, 33:35, :] = 0  # a table
    box = body_box(thin, (2, 5, 5), (60, 200, 200))
    assert box == ((0, 35, 25), (60, 145, 175))
    assert body_box(np.full_like(thin, -1000), (1, 1, 1), (30, 40, 40)) == ((0, 0, 0), (30, 40, 40))


def test_thinning_leaves_a_voxel_about_every_four_millimetres():
    assert thin_strides((2.5, 0.7, 5.0)) == (1, 5, 1)
    assert thinned(np.zeros((10, 11, 12)), (1, 5, 3)).shape == (10, 3, 4)


def test_percentiles_of_a_known_ramp():
    assert hu_percentiles(np.arange(1001) - 500) == (-495, -450, -250, 0, 250, 450, 495)


def test_equal_arrays_have_equal_fingerprints_and_others_do_not():
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    assert fingerprint(array) == fingerprint(np.asfortranarray(array))
    changed = array.copy()
    changed[1, 2, 3] += 1
    others: list[np.ndarray] = [changed, array.reshape(2, 4, 3), array.astype(np.int32)]
    assert len({fingerprint(other) for other in [array, *others]}) == 4


def test_the_lungs_stay_where_they_are_when_the_field_of_view_moves():
    hu, spacing = render(draw_anatomy(np.random.default_rng(0)), (64, 60, 70), (4.8, 4.8, 4.8)).hu, (4.8, 4.8, 4.8)
    hu = np.pad(hu, ((6, 6), (6, 6), (6, 6)), mode="edge")
    whole, part = lungs_of(hu, spacing), lungs_of(hu[7:, 2:, :-5], spacing)
    assert whole is not None
    assert part == pytest.approx(np.add(whole, np.multiply((-3.5, -1, 2.5), 4.8)), abs=1e-6)


def test_thinning_does_not_move_the_lungs():
    hu = np.full((37, 90, 130), -1000, np.int16)
    hu[:, 10:-10, 5:-5] = 40
    hu[8:30, 25:65, 20:50] = hu[8:30, 25:65, 80:115] = -850
    middle = [
        ((low + high - 1) / 2 - (n - 1) / 2) * 1.5 for low, high, n in ((8, 30, 37), (25, 65, 90), (20, 115, 130))
    ]
    assert lungs_of(hu, (1.5, 1.5, 1.5)) == pytest.approx(middle, abs=3)  # voxels of 3 mm remain
