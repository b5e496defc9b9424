"""A folder of X-rays for sampling: by content as well as by name, one bad file for itself; no empty path."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.uid import DigitalXRayImageStorageForPresentation, MediaStorageDirectoryStorage

import sample_ddpm_patches
from common.errors import UserError
from dataset.prepare.cases import find_cases
from dataset.scans.xray_io import read_xray, write_xray
from pipeline import schema
from pipeline.sampling.files import jobs
from tests.dicom_files import dataset
from tests.tiny import run

UID = "1.2.826.0.1.3680043.8.498"


def film(path, **tags):
    values = np.random.default_rng(len(path.name)).integers(0, 4000, (96, 80)).astype(np.int16)
    tags = {"SOPClassUID": DigitalXRayImageStorageForPresentation, "Modality": "DX", "ViewPosition": "PA"} | tags
    item = dataset(values, **tags)
    item.file_meta.MediaStorageSOPClassUID = item.SOPClassUID
    item.save_as(path, enforce_file_format=True)


@pytest.fixture
def films(tmp_path):
    folder = tmp_path / "films"
    folder.mkdir()
    for name in ("a.dcm", "b.DCM", "c.dicom", "IM000001", f"{UID}.4", f"{UID}.5"):
        film(folder / name)
    Image.fromarray(np.arange(9216, dtype=np.uint16).reshape(96, 96)).save(folder / "picture", format="PNG")
    film(folder / "DICOMDIR", Modality=None, SOPClassUID=MediaStorageDirectoryStorage)
    film(folder / "._a.dcm")
    (folder / "notes.txt").write_text("no image")
    (folder / "nothing").touch()
    (folder / "folder.dcm").mkdir()
    return folder


def test_images_are_found_by_name_or_content_and_keep_apart(films):
    assert [(image.name, target.name) for image, target in jobs([films], Path("cts"))] == [
        (f"{UID}.4", f"{UID}.4.nii.gz"),
        (f"{UID}.5", f"{UID}.5.nii.gz"),
        ("IM000001", "IM000001.nii.gz"),
        ("a.dcm", "a.nii.gz"),
        ("b.DCM", "b.nii.gz"),
        ("c.dicom", "c.nii.gz"),
        ("picture", "picture.nii.gz"),
    ]
    assert jobs([films / f"{UID}.5"], Path("cts")) == [(films / f"{UID}.5", Path(f"cts/{UID}.5.nii.gz"))]


def test_files_that_differ_behind_the_last_point_have_sidecars_of_their_own(films):
    write_xray(films / "made.png", np.full((80, 80), 0.5), None, synthetic=True)
    (films / "made.json").rename(films / f"{UID}.5.json")
    assert [read_xray(films / f"{UID}.{i}").synthetic for i in (4, 5)] == [False, True]


def test_a_folder_without_an_image_is_told(tmp_path):
    (tmp_path / "deeper").mkdir()
    film(tmp_path / "deeper" / "a.dcm")
    with pytest.raises(UserError, match=r"no images in .* itself; X-rays end in \.dcm, \.dicom"):
        jobs([tmp_path], Path("cts"))


def test_further_views_are_found_likewise(tmp_path):
    for name in ("lateral", "xray_2.dicom", "x.png"):
        (tmp_path / "p").mkdir(exist_ok=True)
        film(tmp_path / "p" / name)
    (tmp_path / "p" / "p.nii").touch()
    (case,), _ = find_cases(tmp_path, None, "x.png")
    assert {name: path.name for name, path in case.views.items()} == {"lateral": "lateral", "xray_2": "xray_2.dicom"}


def test_what_cannot_be_opened_does_not_stop_the_others(workshop, elsewhere, refused):
    Path("films").mkdir()
    shutil.copy(workshop.xray, "films/good.png")
    Path("films/dead.png").symlink_to("nowhere.png")
    Path("films/loop.dcm").symlink_to("loop.dcm")
    given = ["xray=films", "output=cts", f"ckpt={workshop.ddpm_ckpt}", "steps=1", "shape=[16,16,16]", "device=cpu"]
    message = refused(sample_ddpm_patches, *given)
    assert "dead.png" in message
    assert "loop.dcm" in message
    assert [path.name for path in Path("cts").glob("*.nii.gz")] == ["good.nii.gz"]
    film(Path("there.dcm"))
    Path("there.dcm").rename("films/nowhere.png")  # a DICOM file by a name of PNG, and a link to it
    Path("films/loop.dcm").unlink()
    run(sample_ddpm_patches, *given)
    assert len(list(Path("cts").glob("*.nii.gz"))) == 3


PATHS = [rule for rule, _ in schema.RULES if rule.allows("/data/a") and not rule.allows(["/data", 5])]


@pytest.mark.parametrize("rule", PATHS, ids=lambda rule: rule.says)
def test_no_path_may_be_empty(rule):
    """To Python, an empty one is the current folder."""
    assert not rule.allows("")
    assert not rule.allows("  ")


@pytest.mark.parametrize("name", ["dataset.root", "dataset.store", "xray", "output", "ckpt", "run_dir", "reference"])
def test_the_paths_of_commands_are_among_them(name):
    assert schema.rule_of(name) in PATHS


@pytest.mark.parametrize("name", ["xray", "output", "ckpt", "lateral"])
def test_the_python_call_takes_no_empty_path_either(name):
    given = {"xray": "a.png", "ckpt": "a.ckpt", name: ""}
    with pytest.raises(UserError, match=f"{name} must be text, and not empty"):
        sample_ddpm_patches.sample(**given)
