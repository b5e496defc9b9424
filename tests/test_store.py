import json
import os
import pickle
import time
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

from dataset.store.store import (
    MANIFEST,
    StoredCase,
    VolumeStore,
    volume_path,
    write_manifest,
    write_square_xray,
    write_volume,
    xray_path,
)
from tests.disk import largest_file

SHAPE = (70, 33, 130)
EYE = tuple(tuple(float(i == j) for j in range(4)) for i in range(4))


def stored_case(patient_id, split="train", **changes):
    values = {
        "patient_id": patient_id,
        "split": split,
        "target": None,
        "shape": SHAPE,
        "spacing": (2.5, 0.7, 0.7),
        "affine": EYE,
        "source_axes": "LAS",
        "source_affine": EYE,
        "hu_percentiles": (-1000.0, 0.0, 900.0),
        "body_box": ((0, 0, 0), SHAPE),
        "ct_source": "a.nii.gz",
        "xray_source": "a.png",
        "source_hash": "0",
        "xray_kind": "uint8",
        "xray_percentiles": (0.1, 0.9),
        "xray_camera": None,
        "xray_synthetic": False,
    }
    return StoredCase(**(values | changes))


def volume(seed):
    return np.random.default_rng(seed).integers(-2048, 3072, SHAPE).astype(np.int16)


@pytest.fixture
def folder(tmp_path):
    """A store of 10 cases, p0 to p9, the last two for validation."""
    cases = [stored_case(f"p{i}", "val" if i > 7 else "train") for i in range(10)]
    for seed, case in enumerate(cases):
        write_volume(tmp_path, case.patient_id, volume(seed), case.source_hash)
        write_square_xray(tmp_path, case.patient_id, np.full((512, 512), seed / 10), case.source_hash)
    write_manifest(tmp_path, reversed(cases))
    return tmp_path


def test_any_box_is_the_volumes_own(folder):
    store = VolumeStore(folder)
    rng = np.random.default_rng(0)
    for _ in range(40):
        seed = int(rng.integers(10))
        z, y, x = (int(rng.integers(n)) for n in SHAPE)
        d, h, w = (int(rng.integers(1, n - s + 1)) for n, s in zip(SHAPE, (z, y, x), strict=True))
        box = store.read_hu(store.cases[seed], (z, y, x), (d, h, w))
        expected = volume(seed)[z : z + d, y : y + h, x : x + w]
        assert box.dtype == np.int16
        np.testing.assert_array_equal(box, expected)


@pytest.mark.parametrize(("start", "size"), [((-1, 0, 0), (4, 4, 4)), ((67, 0, 0), (4, 4, 4)), ((0, 0, 0), (0, 4, 4))])
def test_a_box_beyond_the_volume_is_refused(folder, start, size):
    store = VolumeStore(folder)
    with pytest.raises(ValueError, match="not inside p0"):
        store.read_hu(store.cases[0], start, size)


def test_cases_are_ordered_and_come_back_as_they_were_written(folder):
    cases = [stored_case(f"p{i}", "val" if i > 7 else "train") for i in range(10)]
    assert VolumeStore(folder).cases == cases
    matrix = ((1.0, 0.0, 0.0, 2.5), (0.0, 0.0, -1.0, 1e-9), (0.0, 0.1, 0.0, 1.0))
    write_manifest(folder, [stored_case("q", xray_camera=matrix, target=1.0)])
    assert VolumeStore(folder).cases == [stored_case("q", xray_camera=matrix, target=1.0)]


@pytest.mark.parametrize("affine", [None, [[1.25, 0.0, 255.5], [0.0, -1.25, 250.0]]])
def test_the_affine_of_an_earlier_manifest_is_a_camera_of_parallel_rays(folder, affine):
    written = asdict(stored_case("q"))
    del written["xray_camera"]
    (folder / MANIFEST).write_text(json.dumps(written | {"xray_affine": affine}) + "\n")
    (case,) = VolumeStore(folder).cases
    assert case.xray_camera == (affine and ((1.25, 0, 0, 255.5), (0, 0, -1.25, 250.0), (0, 0, 0, 1)))


def test_what_earlier_versions_said_of_the_lungs_is_passed_over(folder):
    written = asdict(stored_case("q")) | {"origin_mm": [12.0, -20.0, 8.0]}
    (folder / MANIFEST).write_text(json.dumps(written) + "\n")
    assert VolumeStore(folder).cases == [stored_case("q")]


def test_splits_are_told_apart(folder):
    store = VolumeStore(folder)
    assert [case.patient_id for case in store.split("val")] == ["p8", "p9"]
    assert store.split("test") == []
    with pytest.raises(ValueError, match="'dev'"):
        store.split("dev")


def test_xrays_are_scaled_by_the_training_cases_of_their_kind(folder):
    changes: dict[str, dict[str, Any]] = {
        "a": {"xray_percentiles": (0.1, 0.5)},
        "b": {"xray_percentiles": (0.3, 0.7)},
        "c": {"xray_kind": "uint12", "xray_percentiles": (0.0, 0.05)},
        "d": {"split": "val", "xray_percentiles": (0.9, 1.0)},
    }
    cases = [stored_case(name, **change) for name, change in changes.items()]
    write_manifest(folder, cases)
    for case in cases:
        write_square_xray(folder, case.patient_id, np.full((512, 512), 0.4), case.source_hash)
    store = VolumeStore(folder)
    assert store.xray_ranges == {"uint8": pytest.approx((0.2, 0.6)), "uint12": (0.0, 0.05)}
    images = [store.read_xray(case) for case in store.cases]
    assert images[0].shape == (512, 512)
    assert images[0].dtype == np.float32
    assert [round(float(image[0, 0]), 3) for image in images] == [0.5, 0.5, 1, 0.5]


def test_few_volumes_stay_open(folder):
    store = VolumeStore(folder)
    before = set(os.listdir("/proc/self/fd"))
    for case in store.cases * 2:
        store.read_hu(case, (0, 0, 0), (1, 1, 1))
    assert len(store._open) == 8
    assert len(set(os.listdir("/proc/self/fd")) - before) <= 8


def test_a_store_travels_to_another_process_without_its_open_files(folder):
    store = VolumeStore(folder)
    store.read_hu(store.cases[0], (0, 0, 0), (4, 4, 4))
    copy = pickle.loads(pickle.dumps(store))
    assert len(copy._open) == 0
    np.testing.assert_array_equal(copy.read_hu(copy.cases[3], (0, 0, 0), SHAPE), volume(3))


def test_a_thousand_cases_open_at_once_in_no_time(tmp_path):
    write_manifest(tmp_path, [stored_case(f"p{i:04d}") for i in range(1000)])
    start = time.perf_counter()
    assert len(VolumeStore(tmp_path).cases) == 1000
    assert time.perf_counter() - start < 1


def test_volumes_are_stored_smaller_than_raw(tmp_path):
    smooth = np.tile(np.arange(64, dtype=np.int16), (64, 64, 1))
    write_volume(tmp_path, "p", smooth, "0")
    assert volume_path(tmp_path, "p").stat().st_size < smooth.nbytes / 4
    assert [p.name for p in (tmp_path / "volumes").iterdir()] == ["p.b2nd"]


def test_what_is_missing_or_of_another_version_is_said(folder, tmp_path_factory):
    with pytest.raises(FileNotFoundError, match=r"Run prepare_data\.py"):
        VolumeStore(tmp_path_factory.mktemp("empty"))
    volume_path(folder, "p1").unlink()
    store = VolumeStore(folder)
    with pytest.raises(FileNotFoundError, match=r"p1\.b2nd"):
        store.read_hu(store.cases[1], (0, 0, 0), (1, 1, 1))
    (folder / "manifest.jsonl").write_text('{"patient_id": "p"}\n')
    with pytest.raises(ValueError, match="not a manifest of this version"):
        VolumeStore(folder)


@pytest.mark.parametrize("path_of", [volume_path, xray_path])
def test_an_array_that_was_made_from_other_files_than_the_manifest_says_is_refused(folder, path_of):
    store = VolumeStore(folder)
    old, other = store.cases[0], replace(store.cases[1], source_hash="new")
    store.read_xray(old)  # as the manifest says
    if path_of is volume_path:
        write_volume(folder, "p1", volume(1), "new")
    else:
        write_square_xray(folder, "p1", np.full((512, 512), 0.5), "new")

    def read(case):
        return store.read_xray(case) if path_of is xray_path else store.read_hu(case, (0, 0, 0), SHAPE)

    with pytest.raises(ValueError, match=r"p1\.b2nd is not the one of the manifest.*Run prepare_data\.py again"):
        read(store.cases[1])
    read(other)


@pytest.mark.parametrize("size", [100, 100_000])
def test_a_full_disk_is_said_with_the_file_and_leaves_none(tmp_path, size):
    noise = np.random.default_rng(0).integers(-1000, 1000, (64, 64, 64)).astype(np.int16)
    with largest_file(size):
        with pytest.raises(OSError, match=r"File too large.*volumes/p\.b2nd"):
            write_volume(tmp_path, "p", noise, "0")
        with pytest.raises(OSError, match=r"File too large.*xrays/p\.b2nd"):
            write_square_xray(tmp_path, "p", np.random.default_rng(0).random((512, 512)), "0")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
