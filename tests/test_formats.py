"""Formats of the field beside NIfTI and slices: as another reader reads them, by any name, and whole or not at all."""

import re
import shutil

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from PIL import Image

from common.errors import BadFileError
from dataset.prepare.cases import find_cases
from dataset.prepare.run import prepare
from dataset.scans.formats import files_of
from dataset.scans.volume_io import ct_spacing, read_ct
from dataset.store.case import Case
from dataset.store.records import source_stamp
from dataset.store.store import VolumeStore
from tests import damage
from tests.dicom_files import write_enhanced, write_stack

SPACING, ORIGIN = (0.7, 0.8, 2.5), (-110.5, -95.25, 12.0)  # x, y, z; LPS
OBLIQUE = (np.cos(0.1), -np.sin(0.1), 0, np.sin(0.1), np.cos(0.1), 0, 0, 0, 1)
WRITTEN = ["ct.mha", "ct.mhd", "ct.nrrd", "ct.nhdr"]


@pytest.fixture
def hu():
    return np.random.default_rng(0).integers(-1024, 1500, (9, 11, 13)).astype(np.int16)


def image_of(hu, direction=None):
    image = SimpleITK.GetImageFromArray(hu)
    image.SetSpacing(SPACING)
    image.SetOrigin(ORIGIN)
    image.SetDirection(direction or np.eye(3).ravel().tolist())
    return image


def write(path, hu, packed=False, direction=None):
    SimpleITK.WriteImage(image_of(hu, direction), str(path), packed)
    return path


def assert_as_itk(volume, path):
    """Every voxel's value and place in the world."""
    image = SimpleITK.ReadImage(str(path))
    d, h, w = (n - 1 for n in volume.hu.shape)
    for voxel in ((0, 0, 0), (d, h, w), (d // 2, 1, w - 1)):
        x, y, z = (volume.affine @ np.array([*voxel[::-1], 1]))[:3]
        index = image.TransformPhysicalPointToContinuousIndex((-x, -y, z))
        np.testing.assert_allclose(index, np.round(index), atol=0.01)
        assert abs(image[[round(i) for i in index]] - int(volume.hu[voxel])) <= 1


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", WRITTEN)
def test_metaimage_and_nrrd_are_read(tmp_path, hu, name, packed):
    path = write(tmp_path / name, hu, packed)
    volume = read_ct(path)
    np.testing.assert_array_equal(volume.hu, hu)
    assert volume.spacing == pytest.approx(SPACING[::-1])
    assert ct_spacing(path) == pytest.approx(SPACING[::-1])
    np.testing.assert_allclose(volume.affine[:3, 3], [-ORIGIN[0], -ORIGIN[1], ORIGIN[2]])
    assert_as_itk(volume, path)


@pytest.mark.parametrize("direction", [OBLIQUE, (0, 0, 1, -1, 0, 0, 0, 1, 0), (-1, 0, 0, 0, -1, 0, 0, 0, 1)])
@pytest.mark.parametrize("name", WRITTEN[::2])
def test_any_directions_land_in_the_frame(tmp_path, hu, name, direction):
    path = write(tmp_path / name, hu, direction=direction)
    assert_as_itk(read_ct(path), path)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
@pytest.mark.parametrize("name", WRITTEN[::2])
def test_number_types_do_not_change_the_hu(tmp_path, hu, name, dtype):
    values = hu.clip(0, 255) if dtype == "uint8" else hu.clip(0) if dtype == "uint16" else hu
    np.testing.assert_array_equal(read_ct(write(tmp_path / name, values.astype(dtype))).hu, values)


@pytest.mark.parametrize("space", ["right-anterior-superior", "RAS"])
def test_a_nrrd_in_other_world_axes_is_turned(tmp_path, hu, space):
    path = write(tmp_path / "ct.nrrd", hu)
    path.write_bytes(path.read_bytes().replace(b"left-posterior-superior", space.encode(), 1))
    np.testing.assert_array_equal(read_ct(path).hu, hu[:, ::-1, ::-1])
    assert_as_itk(read_ct(path), path)


@pytest.mark.parametrize("space", ["", "space: scanner-xyz\n", "space dimension: 3\n"])
def test_a_nrrd_that_does_not_tell_left_from_right_is_refused(tmp_path, hu, space):
    path = write(tmp_path / "ct.nrrd", hu)
    path.write_bytes(path.read_bytes().replace(b"space: left-posterior-superior\n", space.encode(), 1))
    with pytest.raises(BadFileError, match=r"ct\.nrrd.*tells left from right"):
        read_ct(path)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("change", [-1, -900, 7])
def test_missing_and_surplus_voxels_are_found(tmp_path, hu, name, packed, change):
    path = write(tmp_path / name, hu, packed)
    data = files_of(path)[-1]
    content = data.read_bytes()
    data.write_bytes(content[:change] if change < 0 else content + bytes(change))
    if packed and change > 0:
        np.testing.assert_array_equal(read_ct(path).hu, hu)  # beyond the end of what is packed
        return
    with pytest.raises(BadFileError, match=r"all in the file|holds whole voxels.*truncated"):
        read_ct(path)


HEADERS = {
    "more_slices": ("ct.mhd", b"DimSize = 13 11 9", b"DimSize = 13 11 10"),
    "fewer_slices": ("ct.mha", b"DimSize = 13 11 9", b"DimSize = 13 11 8"),
    "huge": ("ct.mha", b"DimSize = 13 11 9", b"DimSize = 30000 30000 60"),
    "another_type": ("ct.mhd", b"MET_SHORT", b"MET_FLOAT"),
    "no_voxels_beside": ("ct.mhd", b"ct.raw", b"other.raw"),
    "no_number": ("ct.nrrd", b"sizes: 13 11 9", b"sizes: 13 eleven 9"),
    "two_axes": ("ct.nrrd", b"sizes: 13 11 9", b"sizes: 13 99"),
    "unknown_coding": ("ct.nrrd", b"encoding: raw", b"encoding: bzip2"),
    "no_end": ("ct.mha", b"ElementDataFile", b"ElementDataFyle"),
    "unknown_type": ("ct.nrrd", b"type: short", b"type: block"),
}


@pytest.mark.parametrize(("name", "old", "new"), HEADERS.values(), ids=HEADERS)
def test_a_header_that_is_not_true_is_refused(tmp_path, hu, name, old, new):
    path = write(tmp_path / name, hu)
    assert old in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    with pytest.raises(BadFileError, match=re.escape(name)):
        read_ct(path)


def test_no_flipped_byte_of_packed_voxels_slips_in(tmp_path, hu):
    whole = write(tmp_path / "whole.mhd", hu, packed=True)
    data = files_of(whole)[1]
    content, rng = data.read_bytes(), np.random.default_rng(0)
    for position in rng.integers(len(content), size=20):
        broken = bytearray(content)
        broken[position] ^= int(rng.integers(1, 256))
        data.write_bytes(broken)
        with pytest.raises(BadFileError):
            read_ct(whole)


def nifti_pair(folder, hu, suffixes=(".hdr", ".img")):
    nib.save(nib.Nifti1Pair(hu.T, np.diag([-0.7, -0.8, 2.5, 1])), folder / "made.img")
    made = [folder / f"ct{suffix}" for suffix in suffixes]
    for old, new in zip((".hdr", ".img"), made, strict=True):
        (folder / f"made{old}").rename(new)
    return made


@pytest.mark.parametrize("suffixes", [(".hdr", ".img"), (".HDR", ".IMG"), (".Hdr", ".img")])
@pytest.mark.parametrize("given", [0, 1])
def test_nifti_pairs_are_read_by_either_name(tmp_path, hu, suffixes, given):
    made = nifti_pair(tmp_path, hu, suffixes)
    volume = read_ct(made[given])
    np.testing.assert_array_equal(volume.hu, hu)
    assert volume.spacing == ct_spacing(made[given]) == pytest.approx((2.5, 0.8, 0.7))
    assert sorted(files_of(made[given])) == sorted(made)
    made[1].write_bytes(made[1].read_bytes()[:-2])
    with pytest.raises(BadFileError, match="all in the file"):
        read_ct(made[given])
    made[1 - given].unlink()
    with pytest.raises(BadFileError, match=r"NAME\.hdr beside NAME\.img.*alone"):
        read_ct(made[given])


def test_content_decides_not_the_name(tmp_path, hu):
    hu = np.concatenate([hu, hu])  # as many slices as a DICOM volume must have
    nib.save(nib.Nifti1Image(hu.T, np.diag([-0.7, -0.8, 2.5, 1])), tmp_path / "a.nii")
    nib.save(nib.Nifti1Image(hu.T, np.diag([-0.7, -0.8, 2.5, 1])), tmp_path / "b.nii.gz")
    write(tmp_path / "c.mha", hu)
    write(tmp_path / "d.nrrd", hu)
    write_enhanced(tmp_path / "e.dcm", hu + 1024)
    for path in sorted(tmp_path.iterdir()):
        for name in (path.name.upper(), f"{path.stem[0]}_no_suffix", f"{path.stem[0]}.bak", f"{path.stem[0]}.nii"):
            other = tmp_path / "x" / name
            other.parent.mkdir(exist_ok=True)
            shutil.copy(path, other)
            np.testing.assert_array_equal(read_ct(other).hu, hu, err_msg=name)


def test_voxels_without_their_header_are_told_so(tmp_path, hu):
    write(tmp_path / "ct.mhd", hu)
    with pytest.raises(BadFileError, match=r"Give its header, the \.mhd"):
        read_ct(tmp_path / "ct.raw")


@pytest.mark.parametrize("name", ["p.mhd", "p.NRRD", "p", "p.Nii.GZ", "p.hdr"])
def test_a_patients_folder_may_hold_any_of_them(tmp_path, hu, name):
    folder = tmp_path / "data" / "p"
    folder.mkdir(parents=True)
    Image.fromarray(np.arange(6400, dtype=np.uint16).reshape(80, 80)).save(folder / "x_pa_drr.png")
    if name == "p.hdr":
        nib.save(nib.Nifti1Pair(hu.T, np.diag([-0.7, -0.8, 2.5, 1])), folder / "p.img")
    elif name == "p.mhd":
        write(folder / name, hu)
    else:
        shutil.copy(write(tmp_path / "ct.nrrd", hu), folder / name)
    cases, problems = find_cases(tmp_path / "data", None, "*_pa_drr.png")
    assert problems == []
    np.testing.assert_array_equal(read_ct(cases[0].ct).hu, hu)


def test_voxels_beside_a_header_belong_to_the_source(tmp_path, hu):
    case = Case("p", write(tmp_path / "ct.mhd", hu), None, None, None)
    before = source_stamp(case)
    (tmp_path / "ct.raw").write_bytes((hu + 1).tobytes())
    assert source_stamp(case) != before


def test_dicom_metaimage_and_nifti_of_a_study_make_equal_stores(tmp_path):
    stores = []
    for kind in ("dicom", "mhd", "nii.gz"):
        for seed in range(2):
            patient = damage.Patient(tmp_path / kind / f"p{seed}", seed, f"p{seed}.{kind}", f"p{seed}_pa_drr.png")
            patient.folder.mkdir(parents=True)
            Image.fromarray(patient.film()).save(patient.xray)
            image = image_of(patient.hu())
            if kind == "dicom":
                places = np.array([ORIGIN]) + np.arange(len(patient.hu()))[:, None] * [0, 0, SPACING[2]]
                write_stack(patient.ct, patient.hu(), places, PixelSpacing=[SPACING[1], SPACING[0]])
            else:
                SimpleITK.WriteImage(image, str(patient.ct))
        report = prepare(tmp_path / kind, tmp_path / f"store_{kind}")
        assert report.problems == []
        stores.append(VolumeStore(tmp_path / f"store_{kind}"))
    for cases in zip(*(store.cases for store in stores), strict=True):
        volumes = [store.read_hu(case, (0, 0, 0), case.shape) for store, case in zip(stores, cases, strict=True)]
        for case, volume in zip(cases, volumes, strict=True):
            np.testing.assert_array_equal(volume, volumes[0])
            np.testing.assert_allclose(case.affine, cases[0].affine, atol=1e-4)
            assert case.spacing == pytest.approx(cases[0].spacing, abs=1e-6)
            assert case.body_box == cases[0].body_box
