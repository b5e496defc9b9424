"""Folders of slices with a scan whose every voxel is known, for tests of what lies beside it."""

import numpy as np

from tests.dicom_files import COLUMN_MM, ROW_MM, STEP, dataset, slice_tags

HU = np.random.default_rng(3).integers(-1000, 1500, (14, 9, 7)).astype(np.int16)
ORIGIN = np.array([-10.0, -20.0, 50.0])  # LPS, as `slice_tags` has it
OTHER = HU[::-1]


def items(hu=HU, series="1.2.3", **tags):
    return [dataset(plane + 1024, **(slice_tags(i, series) | tags)) for i, plane in enumerate(hu)]


def save(folder, made, name="IM{}"):
    folder.mkdir(parents=True, exist_ok=True)
    for index, item in enumerate(made):
        item.save_as(folder / name.format(index), enforce_file_format=True)
    return folder


def without(made, *tags):
    for item in made:
        for tag in tags:
            delattr(item, tag)
    return made


def assert_is_the_scan(volume, hu=HU):
    """Every voxel has the value of its place in the world."""
    d, h, w = np.indices(volume.hu.shape).reshape(3, -1)
    x, y, z = (volume.affine @ np.stack([w, h, d, np.ones_like(d)]))[:3]
    index = (np.stack([-x, -y, z], 1) - ORIGIN) / (COLUMN_MM, ROW_MM, STEP)
    np.testing.assert_allclose(index, index.round(), atol=0.01)
    x, y, z = index.round().astype(int).T
    assert volume.hu.shape == hu.shape
    np.testing.assert_array_equal(volume.hu[d, h, w], hu[z, y, x])


def told(volume):
    return "; ".join(note.found for note in volume.notes)
