"""Nothing that names a patient in the source files is found in anything that is written or said."""

import gzip
import zipfile

import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image, PngImagePlugin

import encode_latents
import prepare_data
import sample_ddpm_patches
from tests import damage, damage_dicom
from tests.dicom_files import NAME
from tests.tiny import FROZEN, PATCHES, run

SECRETS = ("Planted", "19470311", "MRN-4711", "Saint Secret Hospital")
TAGS = {
    "PatientName": "Planted^Name",
    "PatientBirthDate": "19470311",
    "PatientID": "MRN-4711",
    "InstitutionName": "Saint Secret Hospital",
    "ReferringPhysicianName": "Planted^Doctor",
    "StudyDescription": "CTPA of Planted",
    "SeriesDescription": "Planted, arms up",
    "AccessionNumber": "MRN-4711",
    "ImageComments": "known to Saint Secret Hospital",
    "StudyDate": "19470311",
}


def mark_dicom(path):
    item = pydicom.dcmread(path)
    for name, value in TAGS.items():
        setattr(item, name, value)
    item.private_block(0x0009, "Planted", create=True).add_new(0x01, "LO", "MRN-4711")
    item.save_as(path)


def mark_nifti(path):
    image = nib.Nifti1Image.from_filename(path)
    array = np.asarray(image.dataobj)
    header = image.header
    for field in ("descrip", "aux_file", "db_name", "intent_name"):
        header[field] = b"Planted MRN-4711"
    header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Planted, 19470311"))
    nib.save(nib.Nifti1Image(array, image.affine, header), path)


def mark_png(path):
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "Planted")
    text.add_itxt("Title", "MRN-4711, Saint Secret Hospital", zip=True)
    with Image.open(path) as image:
        image.save(path, pnginfo=text)


@pytest.fixture(scope="module")
def marked(tmp_path_factory):
    """A data set full of names: CTs and X-rays of both kinds; some are damaged, so that messages speak of them."""
    root = tmp_path_factory.mktemp("marked")
    rng = np.random.default_rng(0)
    for seed, name in enumerate(("p1", "p2", "damaged_slice", "odd_slice", "damaged_film")):
        patient = damage.write_dicom_patient(root, name, seed)
        damage.film_dicom(1, {}, patient, rng)
        for path in [*patient.slices, patient.xray]:
            mark_dicom(path)
        if name == "damaged_slice":
            damage_dicom.slice_file(4, lambda content: content[:-50], patient, rng)
        elif name == "odd_slice":
            damage_dicom.tags(4, {"RescaleSlope": 1e5}, patient, rng)
        elif name == "damaged_film":
            damage.cut(lambda size: size - 50, "xray", patient, rng)
    for seed, name in enumerate(("p3", "p4", "damaged_nifti"), start=10):
        patient = damage.write_nifti_patient(root, name, seed)
        mark_nifti(patient.ct)
        mark_png(patient.xray)
        if name == "damaged_nifti":
            damage.cut(lambda size: size - 50, "ct", patient, rng)
    return root


def contents(path):
    """The bytes of a file, unpacked where it is packed."""
    raw = path.read_bytes()
    yield raw
    if raw[:2] == b"\x1f\x8b":
        yield gzip.decompress(raw)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            yield from (archive.read(name) for name in archive.namelist())


def secrets_in(data):
    """Planted words in bytes, as plain text or as two bytes a letter."""
    return [word for word in SECRETS if word.encode() in data or word.encode("utf-16-le") in data]


def test_the_planted_words_are_in_the_sources(marked):
    assert NAME.startswith(SECRETS[0])
    for path in ("p1/series/a000.dcm", "p1/p1_pa_drr.png", "p3/p3.nii.gz", "p3/p3_pa_drr.png"):
        assert any(secrets_in(data) for data in contents(marked / path)), path


def test_no_planted_word_is_written_or_said(marked, workshop, elsewhere, capfd):
    data = [f"dataset.root={marked}", f"dataset.store={elsewhere / 'store'}"]
    run(prepare_data, *data, "dataset.prepare_workers=0")
    run(encode_latents, *data, *FROZEN, PATCHES[0], f"model.vqgan_ckpt={workshop.vqgan_ckpt}")
    for name in ("p1", "p3"):
        film = marked / name / f"{name}_pa_drr.png"
        run(sample_ddpm_patches, f"xray={film}", f"output={name}.nii.gz", f"ckpt={workshop.ddpm_ckpt}", "steps=2")
    written = [path for path in elsewhere.rglob("*") if path.is_file()]
    suffixes = {path.suffix for path in written}
    assert {".b2nd", ".npy", ".npz", ".json", ".jsonl", ".txt", ".html", ".gz", ".png"} <= suffixes
    assert "damaged_slice" in (elsewhere / "store" / "report.txt").read_text()
    for path in written:
        assert not secrets_in(str(path).encode()), path
        for part in contents(path):
            assert not secrets_in(part), path
    said = capfd.readouterr()
    assert not secrets_in((said.out + said.err).encode())
