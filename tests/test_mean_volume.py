"""The mean training CT: what it shows to whom, and when it is made anew."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from common.collectives import Team
from common.geometry import centres
from common.voxel_file import box_of
from dataset.store.store import VolumeStore
from evaluation.common_grid import CommonGrid, boxes_to_grid, choose_grid, to_grid
from evaluation.mean_volume import MeanOfCTs
from evaluation.metrics import psnr
from pipeline.sampling.mean_ct import mean_training_ct

WINDOW = (-1000.0, 1000.0)
FIELDS = [((24, 20, 30), (5.0, 4.0, 4.0)), ((40, 30, 20), (4.0, 3.5, 5.0)), ((30, 40, 34), (4.5, 3.0, 3.0))]


def ramp(shape, spacing, offset=0.0):
    """The same world seen by any field of view: HU that fall from front to back and rise from foot to head."""
    z, y, _ = np.meshgrid(*map(centres, shape, spacing), indexing="ij")
    return 3 * z - 4 * y + offset


def mean_of(cts):
    mean = MeanOfCTs(choose_grid([(hu.shape, spacing) for hu, spacing in cts]), WINDOW)
    for hu, spacing in cts:
        mean.add(box_of(hu), hu.shape, spacing)
    return mean.mean()


@pytest.mark.parametrize(
    ("shape", "spacing"), [*FIELDS, ((10, 12, 11), (6.0, 6.0, 6.0)), ((60, 70, 60), (2.0, 1.5, 1.5))]
)
def test_a_mean_that_equals_the_truth_is_perfect_on_any_grid(shape, spacing):
    flat = mean_of([(np.full(field[0], -400), field[1]) for field in FIELDS])
    assert psnr(flat.on(CommonGrid(shape, spacing)), np.full(shape, -400), WINDOW) > 100
    mean = mean_of([(ramp(*field), field[1]) for field in FIELDS])
    assert psnr(mean.on(CommonGrid(shape, spacing)), ramp(shape, spacing), WINDOW) > 45  # borders are resampled


def test_each_place_is_the_mean_of_the_cts_that_show_it():
    small, large = (np.full((8, 8, 8), 100), (4.0,) * 3), (np.full((16, 16, 16), 500), (4.0,) * 3)
    shown = mean_of([small, large]).on(CommonGrid((20, 16, 16), (4.0,) * 3))
    assert shown[9, 8, 8] == pytest.approx(300)
    assert shown[3, 1, 1] == pytest.approx(500)
    assert (shown[:2] == WINDOW[0]).all()  # nobody has been there


def test_a_volume_read_in_boxes_is_that_in_memory():
    hu = np.random.default_rng(0).normal(0, 900, (150, 9, 11)).astype(np.int16)
    grid, spacing = CommonGrid((31, 12, 7), (4.0, 2.0, 3.0)), (1.0, 2.5, 2.0)
    sizes = []

    def read(start, size):
        sizes.append(size)
        return box_of(hu)(start, size)

    np.testing.assert_array_equal(
        boxes_to_grid(read, hu.shape, spacing, grid, WINDOW), to_grid(hu, spacing, grid, WINDOW)
    )
    assert max(size[0] for size in sizes) <= 64


@pytest.fixture
def store(tiny_data):
    return VolumeStore(tiny_data.store)


def test_it_is_made_once_and_anew_when_the_training_cts_change(store, tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)  # the store is not ours to write
    others = set(store.folder.glob("mean_ct_*"))  # of evaluations before
    reads, read_hu = [], store.read_hu
    monkeypatch.setattr(store, "read_hu", lambda case, *box: reads.append(case) or read_hu(case, *box))
    make = partial(mean_training_ct, store, WINDOW, 20, tmp_path, Team())
    first = make()
    assert len({case.patient_id for case in reads}) == len(store.split("train")) == 4
    reads.clear()
    again = make()
    assert not reads
    np.testing.assert_array_equal(again.hu, first.hu)
    assert again.name == first.name
    store.cases[0] = replace(store.cases[0], source_hash="another")
    monkeypatch.setattr(store, "split", lambda name: [c for c in store.cases if c.split == name])
    assert store.cases[0].split == "train"
    assert make().name != first.name
    assert reads
    assert set(store.folder.glob("mean_ct_*")) == others


def test_a_damaged_file_is_made_anew(store, tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)
    first = mean_training_ct(store, WINDOW, 20, tmp_path, Team())
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:100])
    again = mean_training_ct(store, WINDOW, 20, tmp_path, Team())
    np.testing.assert_array_equal(again.hu, first.hu)
