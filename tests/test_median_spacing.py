"""dataset.spacing=median: chosen from the headers of all CTs, once per store."""

import json
import logging

import numpy as np
import pydicom
import pytest

from dataset.prepare.cases import find_cases
from dataset.prepare.conversion import Conversion, with_known_spacing
from dataset.prepare.run import XRAY_PATTERN, prepare
from tests.dicom_files import COLUMN_MM, ROW_MM, STEP, write_series
from tests.pairs import add_case, add_ct, thorax


@pytest.fixture
def root(tmp_path):
    for seed in range(3):
        add_case(tmp_path / "data", f"p{seed}", seed)
    return tmp_path / "data"


def test_the_median_is_the_data_sets_and_later_cases_do_not_move_it(root, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    store, median = tmp_path / "store", Conversion(spacing="median")
    for seed, (name, size) in enumerate({"q": 2.0, "r": 3.0}.items()):
        add_case(root, name, seed + 10)
        add_ct(root, name, thorax(seed + 10), np.diag([-size, -4, 9, 1]), axes="PIR")
    assert {case.spacing for case in prepare(root, store, conversion=median).cases} == {(5.0, 4.0, 4.0)}
    assert json.loads((store / "spacing.json").read_text()) == {"spacing_mm": [5.0, 4.0, 4.0], "cases": 5}
    for seed in range(3):
        add_case(root, f"s{seed}", 20 + seed)
        add_ct(root, f"s{seed}", thorax(20 + seed), np.diag([-2, -2, 2, 1]))
    report = prepare(root, store, conversion=median)
    assert (report.prepared, {case.spacing for case in report.cases}) == (3, {(5.0, 4.0, 4.0)})
    assert "spacing.json to choose anew" in caplog.text
    (store / "spacing.json").unlink()
    assert {case.spacing for case in prepare(root, store, conversion=median).cases} == {(5.0, 4.0, 2.5)}


def test_the_median_decodes_no_slice_of_a_dicom_ct(root, tmp_path, monkeypatch):
    for name in ("p0", "p1"):
        (root / name / f"{name}.nii.gz").unlink()
        write_series(root / name / "series", thorax(0) + 1024, series=f"1.{name[1]}")
    cases, _ = find_cases(root, None, XRAY_PATTERN)
    monkeypatch.setattr(pydicom.Dataset, "pixel_array", property(lambda _: pytest.fail("voxels are decoded")))
    found = with_known_spacing(Conversion(spacing="median"), cases, tmp_path)
    assert found.spacing == (STEP, ROW_MM, COLUMN_MM)


def test_a_damaged_case_does_not_stop_the_median(root, tmp_path):
    (root / "p0" / "p0.nii.gz").write_bytes(b"nothing")
    report = prepare(root, tmp_path / "store", conversion=Conversion(spacing="median"))
    assert [case.patient_id for case in report.cases] == ["p1", "p2"]
