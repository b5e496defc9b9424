"""NIfTI files written in pieces hold what those written at once hold; memory does not grow with the volume."""

import errno
import gzip
import zlib

import nibabel as nib
import numpy as np
import pytest

from common.gzip_stream import GzipStream
from common.voxel_file import VoxelFile, box_of
from dataset.scans import nifti_stream
from dataset.scans.nifti_stream import stream_ct, write_mean_and_std
from dataset.scans.volume_io import read_ct, write_ct

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
    hu = volume()
    whole, pieces = tmp_path / f"whole{suffix}", tmp_path / f"pieces{suffix}"
    write_ct(whole, hu, AFFINE, axes, "made")
    with stored(hu, tmp_path) as file:
        stream_ct(pieces, file.read, SHAPE, AFFINE, axes, "made")
    expected, found = nib.load(whole), nib.load(pieces)
    np.testing.assert_array_equal(np.asarray(found.dataobj), np.asarray(expected.dataobj))
    np.testing.assert_array_equal(found.affine, expected.affine)
    assert nib.aff2axcodes(found.affine) == tuple(axes)
    for key in ("dim", "pixdim", "datatype", "descrip", "xyzt_units", "qform_code", "sform_code", "vox_offset"):
        np.testing.assert_array_equal(found.header[key], expected.header[key])
    np.testing.assert_array_equal(read_ct(pieces).hu, hu)
    assert {p.name for p in tmp_path.iterdir()} == {whole.name, pieces.name}


def test_any_box_of_a_voxel_file_is_that_of_the_volume(tmp_path):
    hu = volume()
    with stored(hu, tmp_path) as file:
        for start, size in (((0, 0, 0), SHAPE), ((3, 2, 1), (5, 4, 7)), ((12, 6, 9), (1, 1, 1))):
            np.testing.assert_array_equal(file.read(start, size), box_of(hu)(start, size))
        with pytest.raises(ValueError, match="do not lie in"):
            file.write(12, hu[:2])


@pytest.mark.parametrize("size", [0, 1, 5_000_000, 4 << 20, 30_000_001])
def test_a_gzip_stream_is_one_gzip_member(size, tmp_path):
    data = np.random.default_rng(0).integers(0, 5, size, dtype=np.uint8).tobytes()
    with (tmp_path / "a.gz").open("wb") as file, GzipStream(file, threads=3) as stream:
        for start in range(0, size, 1_234_567):
            stream.write(data[start : start + 1_234_567])
    packed = (tmp_path / "a.gz").read_bytes()
    assert gzip.decompress(packed) == data  # checks the checksum and the length
    reader = zlib.decompressobj(wbits=31)
    assert reader.decompress(packed) == data
    assert reader.eof
    assert reader.unused_data == b""  # nothing follows the first member


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_full_disk_leaves_nothing_half_written(suffix, tmp_path, small_pieces):
    def read(start, size):
        if start[0] > 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return np.zeros(size, dtype=np.int16)

    target = tmp_path / f"ct{suffix}"
    target.write_text("the old one")
    with pytest.raises(OSError, match="No space"):
        stream_ct(target, read, SHAPE, AFFINE, "LPS", "made")
    assert [p.name for p in tmp_path.iterdir()] == [target.name]
    assert target.read_text() == "the old one"


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
