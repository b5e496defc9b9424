"""A file or patient of an odd name never stops the rest: it is read, or left out and named."""

import os

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dataset.prepare.run import prepare
from dataset.scans.volume_io import write_ct
from tests.damage import write_dicom_patient
from tests.pairs import AFFINE, add_case, thorax

NO_UTF_8 = os.fsdecode(b"caf\xe9")


@pytest.fixture
def root(tmp_path):
    for seed in range(2):
        add_case(tmp_path / "data", f"good{seed}", seed)
    return tmp_path / "data"


def left_out(root, store):
    """The rules that patients broke, by their ids; the others are prepared, and both reports written."""
    report = prepare(root, store)
    assert {"good0", "good1"} <= {case.patient_id for case in report.cases}
    assert (store / "report.txt").read_text(encoding="utf-8")
    assert (store / "report.html").read_text(encoding="utf-8")
    return {problem.patient_id: problem.rule for problem in report.problems if problem.fatal}


@pytest.mark.parametrize("where", ["slice", "beside", "folder"])
def test_a_name_that_is_no_utf_8_below_a_patient_is_read(root, tmp_path, where):
    patient = write_dicom_patient(root, "p", 7)
    if where == "slice":
        patient.slices[3].rename(patient.ct / NO_UTF_8)
    elif where == "beside":
        (patient.ct / NO_UTF_8).write_bytes(b"no image")
    else:
        patient.ct.rename(patient.folder / NO_UTF_8)
    assert left_out(root, tmp_path / "store") == {}
    assert prepare(root, tmp_path / "store").prepared == 0


@pytest.mark.parametrize("name", [NO_UTF_8, "x" * 201, "x" * 240, "a b"])
def test_a_patient_whose_name_can_name_no_file_is_left_out(root, tmp_path, name):
    (root / name).mkdir()
    write_ct(root / "ct.nii.gz", thorax(9), AFFINE)
    os.replace(root / "ct.nii.gz", root / name / "c.nii.gz")
    Image.fromarray(np.arange(6400, dtype=np.uint16).reshape(80, 80)).save(root / name / "x_pa_drr.png")
    report = prepare(root, tmp_path / "store", ct_pattern="*.nii.gz")
    assert [case.patient_id for case in report.cases] == ["good0", "good1"]
    assert [(p.patient_id, "they name files" in p.rule) for p in report.problems] == [(name, True)]
    assert (tmp_path / "store" / "report.html").is_file()


def test_an_id_of_200_letters_is_prepared(root, tmp_path):
    add_case(root, "y" * 200, 5)
    assert left_out(root, tmp_path / "store") == {}


@pytest.mark.parametrize("chunk", ["text", "icc"])
def test_a_png_with_a_chunk_beyond_pillows_limit_is_named(root, tmp_path, chunk):
    add_case(root, "p", 5)
    picture, more = Image.fromarray(np.arange(6400, dtype=np.uint16).reshape(80, 80)), {}
    if chunk == "text":
        more["pnginfo"] = PngInfo()
        more["pnginfo"].add_text("Comment", "x" * 2**21, zip=True)
    else:
        more["icc_profile"] = bytes(2**21)
    picture.save(root / "p" / "x_pa_drr.png", **more)
    assert left_out(root, tmp_path / "store") == {"p": "an X-ray is a whole PNG, JPEG, TIFF or DICOM image"}
