"""NIfTI files written in pieces hold what those written at once hold; memory does not grow with the volume."""

import gzip
import re
import threading
import zlib

import nibabel as nib
import numpy as np
import pytest

from common.voxel_file import VoxelFile, box_of
from dataset.scans import nifti_stream
from dataset.scans.nifti_stream import stream_ct, write_mean_and_std
from dataset.scans.orientation import from_canonical
from dataset.scans.volume_io import read_ct, write_ct
from tests.disk import largest_file

SHAPE = (13, 7, 10)
AFFINE = np.array([[-2.0, 0, 0, 20], [0, -3, 0, 9], [0, 0, 1.5, -4], [0, 0, 0, 1]])


def volume(seed=0, shape=SHAPE):
    return np.random.default_rng(seed).integers(-1000, 1000, shape).astype(np.int16)


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(nifti_stream, "PIECE", 150)  # one or two slices at a time


def stored(hu, folder):
    file = VoxelFile(hu.shape, folder)
    for start in range(0, len(hu), 4):
        file.write(start, hu[start : start + 4])
    return file


@pytest.mark.parametrize("axes", ["LPS", "LAS", "RPI", "LPI", "PSR", "SLA", "IRP", "SAL"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_pieces_hold_what_the_whole_holds(axes, suffix, tmp_path, small_pieces):
    hu, path = volume(), tmp_path / f"pieces{suffix}"
    with stored(hu, tmp_path) as file:
        stream_ct(path, file.read, SHAPE, AFFINE, axes, "made")
    expected, affine = from_canonical(hu, AFFINE, axes)
    whole, found = nib.Nifti1Image(expected, affine), nib.load(path)
    np.testing.assert_array_equal(np.asarray(found.dataobj), expected)
    np.testing.assert_array_equal(found.affine, affine.astype(np.float32))
    assert nib.aff2axcodes(found.affine) == tuple(axes)
    for key in ("dim", "pixdim", "datatype"):
        np.testing.assert_array_equal(found.header[key], whole.header[key])
    np.testing.assert_array_equal(read_ct(path).hu, hu)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_any_box_of_a_voxel_file_is_that_of_the_volume(tmp_path):
    hu = volume()
    with stored(hu, tmp_path) as file:
        for start, size in (((0, 0, 0), SHAPE), ((3, 2, 1), (5, 4, 7)), ((12, 6, 9), (1, 1, 1))):
            np.testing.assert_array_equal(file.read(start, size), box_of(hu)(start, size))
        with pytest.raises(ValueError, match="do not lie in"):
            file.write(12, hu[:2])


@pytest.mark.parametrize("shape", [(2, 2, 2), (3, 700, 500), (40, 300, 500)])
def test_a_packed_ct_is_one_gzip_member_and_the_same_voxels_give_the_same_bytes(shape, tmp_path, monkeypatch):
    hu, paths = volume(0, shape), [tmp_path / name for name in ("a.nii.gz", "b.nii.gz", "c.nii")]
    write_ct(paths[0], hu, AFFINE)
    monkeypatch.setattr(nifti_stream, "THREADS", 1)
    with stored(hu, tmp_path) as file:
        stream_ct(paths[1], file.read, shape, AFFINE, "LPS", "")
    write_ct(paths[2], hu, AFFINE)
    packed, other, plain = (path.read_bytes() for path in paths)
    assert packed == other
    assert gzip.decompress(packed) == plain  # checks the checksum and the length
    reader = zlib.decompressobj(wbits=31)
    assert reader.decompress(packed) == plain
    assert reader.eof
    assert reader.unused_data == b""  # nothing follows the first member


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("depth", [4, 60])  # the disk is full at the last bytes, and long before
def test_a_full_disk_leaves_nothing_half_written(depth, suffix, tmp_path):
    target, threads = tmp_path / f"ct{suffix}", threading.active_count()
    target.write_text("the old one")
    with largest_file(100_000), pytest.raises(OSError, match=re.escape(str(target))):
        write_ct(target, volume(0, (depth, 200, 200)), AFFINE)
    assert [p.name for p in tmp_path.iterdir()] == [target.name]
    assert target.read_text() == "the old one"
    assert threading.active_count() == threads


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_voxels_that_cannot_be_read_leave_nothing_half_written(suffix, tmp_path, small_pieces):
    def read(start, size):
        if start[0] > 0:
            raise KeyboardInterrupt
        return np.zeros(size, dtype=np.int16)

    threads = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        stream_ct(tmp_path / f"ct{suffix}", read, SHAPE, AFFINE, "LPS", "made")
    assert list(tmp_path.iterdir()) == []
    assert threading.active_count() == threads


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_mean_and_deviation_of_samples(suffix, tmp_path, monkeypatch):
    monkeypatch.setattr(nifti_stream, "PIECE", 300)
    volumes = [volume(seed) for seed in range(3)]
    paths = [tmp_path / f"s{i}{suffix}" for i in range(3)]
    for path, hu in zip(paths, volumes, strict=True):
        stream_ct(path, box_of(hu), SHAPE, AFFINE, "LAS", "made")
    mean, std = tmp_path / f"mean{suffix}", tmp_path / f"std{suffix}"
    write_mean_and_std(paths, mean, std, ("mean of 3", "deviation of 3"))
    np.testing.assert_allclose(read_ct(mean).hu, np.mean(volumes, 0), atol=0.51)
    np.testing.assert_allclose(read_ct(std).hu, np.std(volumes, 0, ddof=1), atol=0.51)
    np.testing.assert_array_equal(nib.load(mean).affine, nib.load(paths[0]).affine)
    assert b"deviation" in bytes(nib.load(std).header["descrip"])


def test_samples_of_different_grids_have_no_mean(tmp_path):
    for i, shape in enumerate([SHAPE, (5, 7, 10)]):
        stream_ct(tmp_path / f"s{i}.nii", box_of(volume(0, shape)), shape, AFFINE, "LPS", "made")
    with pytest.raises(ValueError, match="one grid"):
        write_mean_and_std([tmp_path / f"s{i}.nii" for i in range(2)], tmp_path / "m.nii", tmp_path / "d.nii", ("", ""))
    with pytest.raises(ValueError, match="at least 2"):
        write_mean_and_std([tmp_path / "s0.nii"], tmp_path / "m.nii", tmp_path / "d.nii", ("", ""))
    assert not list(tmp_path.glob("*m.nii"))
