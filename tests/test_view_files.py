"""Further X-rays on disk: in the table, in folders of patients, with their problems."""

import numpy as np

from dataset.prepare.cases import find_cases
from dataset.prepare.run import prepare
from dataset.scans.camera import Film
from dataset.scans.xray_io import write_xray
from tests.pairs import add_case
from tests.test_cases import XRAY, found, table, touch


def test_further_views_of_the_table(tmp_path):
    header = "patient_id,ct,xray,lateral,xray_2"
    table(tmp_path, "p1,a.nii.gz,a.png,l.png,", "p2,b.nii.gz,b.png,gone.png,", header=header)
    touch(tmp_path / "l.png")
    (case,), problems = find_cases(tmp_path, None, XRAY)
    assert case.views == {"lateral": tmp_path / "l.png"}
    assert case.about == {}
    assert found(problems) == {("p2", "the lateral file exists")}
    table(tmp_path, "p1,a.nii.gz,a.png,a.png,b.png", "p2,b.nii.gz,b.png,,", header=header)
    assert {name for name, _ in found(find_cases(tmp_path, None, XRAY)[1])} == {"p1", "p2"}  # no file is two views


def test_views_lie_in_folders_of_patients_too(tmp_path):
    for i in range(2):
        add_case(tmp_path, f"p{i}", i)
    noise = np.random.default_rng(9).random((80, 96))
    write_xray(tmp_path / "p1" / "lateral.png", noise, Film("ll").square(96, 400), synthetic=False)
    write_xray(tmp_path / "p1" / "xray_2.png", noise[::-1], None, synthetic=False)
    store = tmp_path / "store"
    cases = {case.patient_id: case for case in prepare(tmp_path, store).cases}
    assert {name: set(case.views) for name, case in cases.items()} == {"p0": set(), "p1": {"lateral", "xray_2"}}
    assert prepare(tmp_path, store).prepared == 0
    (tmp_path / "p1" / "xray_2.png").rename(tmp_path / "p1" / "xray_3.png")
    (tmp_path / "p1" / "xray_2.json").rename(tmp_path / "p1" / "xray_3.json")
    again = prepare(tmp_path, store)
    assert again.prepared == 1
    assert set(again.cases[1].views) == {"lateral", "xray_3"}


def test_a_view_twice_or_unreadable_keeps_its_case_out(tmp_path):
    for i in range(3):
        add_case(tmp_path, f"p{i}", i)
    (tmp_path / "p1" / "lateral.png").write_text("no image")
    for suffix in ("jpg", "png"):
        (tmp_path / "p2" / f"lateral.{suffix}").write_text("")
    report = prepare(tmp_path, tmp_path / "store")
    assert [case.patient_id for case in report.cases] == ["p0"]
    assert {p.patient_id: p.path for p in report.problems} == {"p1": "p1/lateral.png", "p2": "p2/lateral.*"}
