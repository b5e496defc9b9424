import numpy as np

from dataset.scans.measure import body_box, fingerprint, hu_percentiles, thin_strides, thinned


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
