"""Several CTs and X-rays of a patient: each a case, split, scored and counted by patient."""

import numpy as np
import pytest

from common.errors import UserError
from dataset.prepare.cases import find_cases
from dataset.prepare.file_store import FileStore
from dataset.prepare.run import prepare
from dataset.store.store import VolumeStore
from tests.pairs import add_case

HEADER = "patient_id,ct,xray"


@pytest.fixture
def root(tmp_path):
    """Files of ten studies."""
    for number in range(10):
        add_case(tmp_path / "files", f"s{number}", number)
    return tmp_path / "files"


def table(root, *rows, header=HEADER):
    (root / "pairs.csv").write_text("\n".join([header, *rows]) + "\n")


def pair(patient, number, *cells):
    return ",".join([patient, f"s{number}/s{number}.nii.gz", f"s{number}/x_pa_drr.png", *cells])


def told(problems):
    return [problem for problem in problems if not problem.note]


def test_rows_of_a_patient_are_studies_and_split_as_one(root, tmp_path):
    table(root, *(pair(f"p{n // 2}", n) for n in range(10)))
    report = prepare(root, tmp_path / "store", shares={"train": 0.6, "val": 0.4})
    assert told(report.problems) == []
    assert [case.name for case in report.cases] == [f"p{n}{end}" for n in range(5) for end in ("", "_2")]
    assert [case.patient_id for case in report.cases] == [f"p{n // 2}" for n in range(10)]
    splits = {}
    for case in report.cases:
        splits.setdefault(case.patient_id, set()).add(case.split)
    assert all(len(found) == 1 for found in splits.values())
    assert sorted(found.pop() for found in splits.values()) == ["train"] * 3 + ["val"] * 2
    store, files = VolumeStore(tmp_path / "store"), FileStore(root, shares={"train": 0.6, "val": 0.4})
    assert store.cases == report.cases == files.cases
    for case in store.cases:
        np.testing.assert_array_equal(
            store.read_hu(case, (0, 0, 0), case.shape), files.read_hu(case, (0, 0, 0), case.shape)
        )


def test_a_study_has_its_name_of_the_table_and_may_share_files(root, tmp_path):
    """One X-ray between two CTs, and the other way round."""
    rows = [
        f"p,{study},s{ct}/s{ct}.nii.gz,s{xray}/x_pa_drr.png"
        for study, ct, xray in (("early", 0, 0), ("late", 1, 0), ("last", 1, 1))
    ]
    table(root, *rows, header="patient_id,study_id,ct,xray")
    report = prepare(root, tmp_path / "store")
    assert told(report.problems) == []
    assert [(case.name, case.study_id) for case in report.cases] == [
        ("p_early", "early"),
        ("p_last", "last"),
        ("p_late", "late"),
    ]


@pytest.mark.parametrize(
    ("rows", "header", "rule"),
    [
        ([pair("p", 0), pair("p", 0)], HEADER, "each row is another study of its patient"),
        ([pair("p", 0, "a"), pair("p", 1, "a")], HEADER + ",study_id", "each row is another study of its patient"),
        ([pair("p", 0, "train"), pair("p", 1, "val")], HEADER + ",split", "a patient lies in one split only"),
        ([pair("p", 0), pair("p", 1), pair("p_2", 2)], HEADER, "each row is another study of its patient"),
        ([pair("p", 0, "a"), pair("P", 1, "b")], HEADER + ",study_id", "capitals do not tell patients apart"),
        ([pair("p", 0), pair("q", 0)], HEADER, "a file belongs to one patient"),
    ],
    ids=["same files", "same study", "two splits", "names collide", "capitals", "two patients"],
)
def test_studies_that_cannot_be_told_apart_are_reported(root, rows, header, rule):
    table(root, *rows, header=header)
    cases, problems = find_cases(root, None, "*.png")
    assert {problem.rule for problem in told(problems)} == {rule}
    assert all("p_2" in case.name or case.name == "p" for case in cases)


def test_a_bad_row_leaves_its_patients_other_study(root, tmp_path):
    table(root, pair("p", 0).replace("s0/x", "gone/x"), pair("p", 1))
    report = prepare(root, tmp_path / "store")
    assert [case.name for case in report.cases] == ["p_2"]
    assert [problem.patient_id for problem in told(report.problems)] == ["p"]


def test_the_split_of_one_study_is_that_of_all(root, tmp_path):
    table(root, pair("p", 0, ""), pair("p", 1, "test"), pair("q", 2, ""), header=HEADER + ",split")
    report = prepare(root, tmp_path / "store")
    assert {(case.name, case.split) for case in report.cases} == {("p", "test"), ("p_2", "test"), ("q", "train")}


@pytest.mark.parametrize(
    ("column", "right"),
    [("Split", "split"), ("label", "target"), ("fold", "split"), ("Patient_ID", "patient_id"), ("seires", "series")],
)
def test_a_column_that_was_meant_to_be_another_is_an_error_with_its_name(root, column, right):
    table(root, pair("p", 0, "1"), header=f"{HEADER},{column}")
    with pytest.raises(UserError, match=rf"'{column}' \(for '{right}'\)"):
        find_cases(root, None, "*.png")


def test_a_column_twice_is_an_error(root):
    table(root, pair("p", 0, "1", "0"), header=f"{HEADER},target,target")
    with pytest.raises(UserError, match="target again"):
        find_cases(root, None, "*.png")


def test_columns_of_the_users_own_are_told_and_kept(root, tmp_path):
    header = f"{HEADER},sex,scanner,view,days_between"
    table(root, pair("p", 0, "f", "B", "ap", "2"), pair("q", 1, "", "", "", ""), header=header)
    report = prepare(root, tmp_path / "store", strict=True)  # no problem
    (note,) = [problem for problem in report.problems if "own" in problem.found]
    assert note.found == "of your own: sex, scanner"
    for cases in (VolumeStore(tmp_path / "store").cases, FileStore(root).cases):
        assert [(case.view, case.about) for case in cases] == [
            ("AP", {"days_between": "2", "sex": "f", "scanner": "B"}),
            ("", {}),
        ]


@pytest.mark.parametrize(
    ("column", "value", "rule"),
    [
        ("view", "lateral", "xray is the frontal view"),
        ("view", "front", "view is AP"),
        ("days_between", "two", "number"),
    ],
)
def test_values_that_cannot_be_are_reported(root, column, value, rule):
    table(root, pair("p", 0, value), header=f"{HEADER},{column}")
    cases, problems = find_cases(root, None, "*.png")
    assert cases == []
    assert rule in told(problems)[0].rule


def test_where_there_are_a_table_and_folders_it_is_said_which_was_taken(root):
    table(root, pair("p", 0))
    (note,) = find_cases(root, None, "*.png")[1]
    assert (note.patient_id, note.note) == ("(pairs.csv)", True)
    assert "9 folders with a CT that it does not name: s1, s2" in note.found
    table(root, *(pair(f"p{n}", n) for n in range(10)))
    assert find_cases(root, None, "*.png")[1] == []
