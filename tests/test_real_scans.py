"""Orientation and round trips on real scans, if they lie in ../shared/data."""

import csv

import nibabel as nib
import numpy as np
import pydicom
import pytest
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from scipy import ndimage

from dataset.prepare.run import prepare
from dataset.scans.volume_io import read_ct, write_ct
from dataset.scans.xray_io import read_xray, to_square
from dataset.store.store import VolumeStore

STRIDE = (8, 8, 3)  # x, y, z of the files: enough to tell sides apart, and quick
TURNED = "IRP"


def thin_copy(source, target, stride=STRIDE):
    """Every nth voxel of a NIfTI file, with the affine that keeps its place."""
    image = nib.Nifti1Image.from_filename(source)
    array = np.asarray(image.dataobj)[:: stride[0], :: stride[1], :: stride[2]]
    nib.save(nib.Nifti1Image(array, image.affine @ np.diag([*stride, 1])), target)
    return target


def turned_copy(source, target, axes=TURNED):
    """The same scan with its axes permuted and flipped, by nibabel alone."""
    image = nib.Nifti1Image.from_filename(source)
    change = ornt_transform(io_orientation(image.affine), axcodes2ornt(axes))
    array = apply_orientation(np.asarray(image.dataobj), change)
    nib.save(nib.Nifti1Image(array, image.affine @ inv_ornt_aff(change, image.shape)), target)
    return target


def centroids(labels):
    """Mean index (d, h, w) of each label's voxels."""
    present = [int(label) for label in np.unique(labels) if label > 0]
    return dict(zip(present, np.array(ndimage.center_of_mass(labels > 0, labels, present)), strict=True))


def world(volume):
    return {label: volume.affine @ np.array([w, h, d, 1]) for label, (d, h, w) in centroids(volume.hu).items()}


def file_world(path):
    """Centroids in RAS mm straight from a file, without our code."""
    image = nib.Nifti1Image.from_filename(path)
    found = centroids(np.asarray(image.dataobj))
    return {label: image.affine @ np.array([*index, 1]) for label, index in found.items()}


def assert_same(found, expected, atol):
    assert found.keys() == expected.keys()
    for label in expected:
        np.testing.assert_allclose(found[label], expected[label], atol=atol)


@pytest.fixture(scope="module")
def lidc(shared_data, tmp_path_factory):
    """(CT, organ mask) of the LIDC scan, thinned."""
    folder = tmp_path_factory.mktemp("lidc")
    source = shared_data / "lidc_idri_0001"
    ct = thin_copy(source / "ct.nii.gz", folder / "ct.nii.gz")
    return ct, thin_copy(source / "totalseg_mask.nii.gz", folder / "mask.nii.gz")


@pytest.fixture(scope="module")
def organ(shared_data):
    with (shared_data / "lidc_idri_0001" / "structures.csv").open(newline="") as file:
        return {row["structure"]: int(row["id"]) for row in csv.DictReader(file)}


def test_organs_lie_where_they_should(lidc, organ):
    volume = read_ct(lidc[1])
    assert volume.source_axes == "LAS"
    found = centroids(volume.hu)
    d, h, w = range(3)
    assert found[organ["liver"]][w] < found[organ["stomach"]][w]  # liver right, stomach and spleen left
    assert found[organ["liver"]][w] < volume.hu.shape[w] / 2 < found[organ["spleen"]][w]
    assert found[organ["heart"]][w] > found[organ["vertebrae_T8"]][w]
    assert found[organ["lung_lower_lobe_right"]][w] < found[organ["lung_lower_lobe_left"]][w]
    assert found[organ["sternum"]][h] < found[organ["heart"]][h] < found[organ["vertebrae_T8"]][h]
    assert found[organ["liver"]][d] < found[organ["heart"]][d] < found[organ["trachea"]][d]


def test_a_turned_copy_of_lidc_lands_in_the_same_frame(lidc, tmp_path):
    for source in lidc:
        volume = read_ct(source)
        turned = read_ct(turned_copy(source, tmp_path / "turned.nii.gz"))
        assert turned.source_axes == TURNED
        np.testing.assert_array_equal(turned.hu, volume.hu)
        np.testing.assert_allclose(turned.affine, volume.affine, atol=1e-3)


@pytest.mark.parametrize("axes", ["LPS", "LAS", TURNED])
def test_written_organs_keep_their_world_coordinates(lidc, tmp_path, axes):
    volume = read_ct(lidc[1])
    expected = file_world(lidc[1])
    assert_same(world(volume), expected, atol=1e-3)
    write_ct(tmp_path / "mask.nii.gz", volume.hu, volume.affine, axes)
    assert_same(file_world(tmp_path / "mask.nii.gz"), expected, atol=1e-3)


def test_the_totalsegmentator_scan_lands_in_the_same_frame(shared_data, tmp_path):
    source = thin_copy(shared_data / "totalseg_cta" / "ct.nii.gz", tmp_path / "ct.nii.gz", (3, 3, 3))
    volume = read_ct(source)
    assert volume.source_axes == "LPS"
    turned = read_ct(turned_copy(source, tmp_path / "turned.nii.gz"))
    np.testing.assert_array_equal(turned.hu, volume.hu)
    np.testing.assert_allclose(turned.affine, volume.affine, atol=1e-3)
    labels, count = ndimage.label((volume.hu < -700) & (volume.hu > -950))
    sizes = ndimage.sum_labels(labels > 0, labels, range(1, count + 1))
    first, second = (int(label) + 1 for label in np.argsort(sizes)[:-3:-1])
    centre = {label: ndimage.center_of_mass(labels == label) for label in (first, second)}
    assert centre[first][2] < volume.hu.shape[2] / 2 < centre[second][2]  # the right lung is the larger one
    blood = ndimage.center_of_mass((volume.hu > 300) & (volume.hu < 500))
    assert blood[2] > volume.hu.shape[2] / 2  # the heart points to the left
    bases = ndimage.center_of_mass(np.isin(labels, (first, second))[:12])
    assert bases[1] > volume.hu.shape[1] / 2  # the lungs reach lowest behind


def test_the_pulmonary_artery_of_the_crop_is_in_the_middle(shared_data):
    folder = shared_data / "totalseg_cta"
    ct, mask = (
        read_ct(folder / "ct_cropped_pulmonary.nii.gz"),
        read_ct(folder / "pulmonary_artery_mask_cropped.nii.gz"),
    )
    np.testing.assert_array_equal(ct.affine, mask.affine)
    assert ct.hu[mask.hu > 0].mean() > 150  # contrast: mask and CT were turned alike


def test_the_full_scan_comes_back_identical(shared_data, tmp_path):
    source = shared_data / "totalseg_cta" / "ct.nii.gz"
    volume = read_ct(source)
    write_ct(tmp_path / "ct.nii.gz", volume.hu, volume.affine, volume.source_axes)
    before, after = (nib.Nifti1Image.from_filename(p) for p in (source, tmp_path / "ct.nii.gz"))
    np.testing.assert_array_equal(np.asarray(after.dataobj), np.asarray(before.dataobj))
    np.testing.assert_array_equal(after.affine, before.affine)


def test_real_scans_come_back_from_the_store_identical(shared_data, tmp_path):
    """NIfTI -> store -> NIfTI, by what the manifest tells alone."""
    sources = {name: shared_data / name / "ct.nii.gz" for name in ("lidc_idri_0001", "totalseg_cta")}
    films = sorted((shared_data / "cxr").glob("*.png"))
    for (name, source), film in zip(sources.items(), films, strict=False):
        (tmp_path / "pairs" / name).mkdir(parents=True)
        (tmp_path / "pairs" / name / f"{name}.nii.gz").symlink_to(source)
        (tmp_path / "pairs" / name / "film_pa_drr.png").symlink_to(film)
    assert prepare(tmp_path / "pairs", tmp_path / "store").problems == []
    store = VolumeStore(tmp_path / "store")
    assert [case.patient_id for case in store.cases] == sorted(sources)
    for case in store.cases:
        hu = store.read_hu(case, (0, 0, 0), case.shape)
        write_ct(tmp_path / "back.nii", hu, np.array(case.affine), case.source_axes)
        before = nib.Nifti1Image.from_filename(sources[case.patient_id])
        after = nib.Nifti1Image.from_filename(tmp_path / "back.nii")
        np.testing.assert_array_equal(np.asarray(after.dataobj), np.asarray(before.dataobj))
        np.testing.assert_array_equal(after.affine, before.affine)
        np.testing.assert_array_equal(case.source_affine, before.affine)


def test_an_independent_reader_finds_the_same_in_the_dicom_folder(shared_data):
    itk = pytest.importorskip("SimpleITK", reason="needs SimpleITK")
    folder = shared_data / "lung_dx_a0002_dicom" / "dicom"
    reader = itk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    lps = np.eye(4)
    lps[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    lps[:3, 3] = image.GetOrigin()
    volume = read_ct(folder)
    assert volume.source_axes == "LPS"  # so that the canonical array is that of the files
    np.testing.assert_array_equal(volume.hu, itk.GetArrayFromImage(image))
    np.testing.assert_allclose(volume.affine, np.diag([-1, -1, 1, 1]) @ lps, atol=1e-6)
    np.testing.assert_array_equal(volume.source_affine, volume.affine)


def test_the_dicom_folder_reads_whole_and_in_order(shared_data):
    folder = shared_data / "lung_dx_a0002_dicom" / "dicom"
    volume = read_ct(folder)
    assert volume.hu.shape == (30, 512, 512)
    assert volume.spacing == pytest.approx((8, 0.646484375, 0.646484375))
    for path in sorted(folder.iterdir())[::7]:
        item = pydicom.dcmread(path)
        x, y, z = (float(value) for value in item.ImagePositionPatient)
        d = round((z - volume.affine[2, 3]) / 8)
        np.testing.assert_array_equal(volume.hu[d], item.pixel_array.astype(int) - 1024)
        np.testing.assert_allclose(volume.affine @ np.array([0, 0, d, 1]), [-x, -y, z, 1])


def test_real_xrays_read_and_become_square(shared_data):
    for path in sorted((shared_data / "cxr").glob("*.png")):
        xray = read_xray(path)
        assert (xray.kind, xray.camera, xray.synthetic) == ("uint8", None, False)
        square, _ = to_square(xray)
        assert square.shape == (512, 512)
        assert 0.2 < square.mean() < 0.8
