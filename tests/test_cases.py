from pathlib import Path

import pytest

from dataset.prepare.cases import find_cases

XRAY = "*_pa_drr.png"


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    return path


def patient(root, name, ct="{id}.nii.gz"):
    touch(root / name / ct.replace("{id}", name))
    touch(root / name / "x_pa_drr.png")


def table(root, *rows, header="patient_id,ct,xray,lateral,target,split"):
    for name in ("a.nii.gz", "b.nii.gz", "a.png", "b.png"):
        touch(root / name)
    (root / "pairs.csv").write_text("\n".join([header, *rows]) + "\n")


def found(problems):
    return {(p.patient_id, p.rule) for p in problems}


def test_one_folder_per_patient(tmp_path):
    patient(tmp_path, "p2")
    patient(tmp_path, "p1")
    touch(tmp_path / "readme.txt")
    (tmp_path / ".hidden").mkdir()
    cases, problems = find_cases(tmp_path, None, XRAY)
    assert [case.patient_id for case in cases] == ["p1", "p2"]
    assert cases[0].ct == tmp_path / "p1" / "p1.nii.gz"
    assert cases[0].xray == tmp_path / "p1" / "x_pa_drr.png"
    assert (cases[0].target, cases[0].split, problems) == (None, None, [])


@pytest.mark.parametrize(
    ("ct", "pattern", "expected"),
    [
        ("{id}.nii.gz", None, "p.nii.gz"),
        ("{id}.nii", None, "p.nii"),
        ("series/1.dcm", None, "series"),
        ("scan_{id}.nii.gz", "scan_{id}.nii.gz", "scan_p.nii.gz"),
        ("anything.nii.gz", "*.nii.gz", "anything.nii.gz"),
        ("dicom/ct/1.dcm", "dicom/ct", "ct"),
    ],
)
def test_patterns_find_the_ct(tmp_path, ct, pattern, expected):
    patient(tmp_path, "p", ct)
    cases, problems = find_cases(tmp_path, pattern, XRAY)
    assert problems == []
    assert cases[0].ct.name == expected


def test_a_store_among_the_patients_is_passed_over(tmp_path):
    patient(tmp_path, "p")
    touch(tmp_path / "store" / "volumes" / "p.b2nd")
    cases, problems = find_cases(tmp_path, None, XRAY, store=tmp_path / "store")
    assert (len(cases), problems) == (1, [])


@pytest.mark.parametrize("content", ["manifest.jsonl", "cases/p.json volumes/p.b2nd"])
def test_a_store_of_other_settings_is_passed_over_too(tmp_path, content):
    patient(tmp_path, "p")
    for name in content.split():
        touch(tmp_path / "store" / name)
    cases, problems = find_cases(tmp_path, None, XRAY, store=tmp_path / "another")
    assert ([case.patient_id for case in cases], problems) == (["p"], [])


def test_a_folder_of_slices_may_have_brackets_in_its_name(tmp_path):
    patient(tmp_path, "p", "CT [1]/1.dcm")
    cases, problems = find_cases(tmp_path, None, XRAY)
    assert ([case.ct.name for case in cases], problems) == (["CT [1]"], [])
    patient(tmp_path, "q[2]")
    assert {(p.patient_id, p.found) for p in find_cases(tmp_path, None, XRAY)[1]} == {("q[2]", "'q[2]'")}


@pytest.mark.parametrize("pattern", ["/elsewhere/*.png", ""])
def test_a_pattern_that_leads_out_of_the_patients_folder_is_refused(tmp_path, pattern):
    patient(tmp_path, "p")
    with pytest.raises(ValueError, match=r"dataset\.xray_pattern is a pattern within"):
        find_cases(tmp_path, None, pattern)
    with pytest.raises(ValueError, match=r"dataset\.ct_pattern is a pattern within"):
        find_cases(tmp_path, pattern, XRAY)


def test_empty_rows_of_a_table_are_passed_over(tmp_path):
    table(tmp_path, "p,a.nii.gz,a.png", ",,,,,", " ,", "q,b.nii.gz,b.png", ",,")
    cases, problems = find_cases(tmp_path, None, XRAY)
    assert ([case.patient_id for case in cases], problems) == (["p", "q"], [])


def test_all_that_is_missing_or_ambiguous_is_reported_together(tmp_path):
    patient(tmp_path, "good")
    touch(tmp_path / "no_ct" / "x_pa_drr.png")
    touch(tmp_path / "no_xray" / "no_xray.nii.gz")
    (tmp_path / "nothing").mkdir()
    patient(tmp_path, "two_cts")
    touch(tmp_path / "two_cts" / "two_cts.nii")
    patient(tmp_path, "two_xrays")
    touch(tmp_path / "two_xrays" / "y_pa_drr.png")
    patient(tmp_path, "bad name")
    cases, problems = find_cases(tmp_path, None, XRAY)
    assert [case.patient_id for case in cases] == ["good"]
    one_ct, one_xray = "one CT per patient", "one X-ray per patient"
    assert found(problems) == {
        ("bad name", "ids are letters, digits, '.', '_' and '-', at most 200 (they name files)"),
        ("no_ct", one_ct),
        ("no_xray", one_xray),
        ("nothing", one_ct),
        ("nothing", one_xray),
        ("two_cts", one_ct),
        ("two_xrays", one_xray),
    }
    assert all(problem.remedy for problem in problems)


def test_a_pair_that_lacks_a_side_says_which(tmp_path):
    touch(tmp_path / "no_ct" / "x_pa_drr.png")
    touch(tmp_path / "no_xray" / "no_xray.nii.gz")
    (tmp_path / "nothing").mkdir()
    expected = {
        "no_ct": ["none (an X-ray without a CT)"],
        "no_xray": ["none (a CT without an X-ray)"],
        "nothing": ["none", "none"],
    }
    problems = find_cases(tmp_path, None, XRAY)[1]
    assert {name: [p.found for p in problems if p.patient_id == name] for name in expected} == expected
    table(tmp_path, "no_ct,,a.png,,,", "no_xray,b.nii.gz,,,,")
    problems = find_cases(tmp_path, None, XRAY)[1]
    assert [(p.patient_id, p.found) for p in problems] == [
        ("(pairs.csv)", "1 folders with a CT that it does not name: no_xray"),
        ("no_ct", "an empty cell (an X-ray without a CT)"),
        ("no_xray", "an empty cell (a CT without an X-ray)"),
    ]


def test_with_make_xray_a_ct_needs_no_xray(tmp_path):
    touch(tmp_path / "alone" / "alone.nii.gz")
    touch(tmp_path / "no_ct" / "x_pa_drr.png")
    patient(tmp_path, "two")
    touch(tmp_path / "two" / "y_pa_drr.png")
    patient(tmp_path, "pair")
    cases, problems = find_cases(tmp_path, None, XRAY, make_xray=True)
    assert [(case.patient_id, case.xray is None) for case in cases] == [("alone", True), ("pair", False)]
    assert found(problems) == {("no_ct", "one CT per patient"), ("two", "one X-ray per patient")}
    table(tmp_path, "a,a.nii.gz", header="patient_id,ct")
    assert find_cases(tmp_path, None, XRAY, make_xray=True)[0][0].xray is None
    table(tmp_path, "a,a.nii.gz,", "b,b.nii.gz,absent.png", header="patient_id,ct,xray")
    cases, problems = find_cases(tmp_path, None, XRAY, make_xray=True)
    assert [case.patient_id for case in cases] == ["a"]
    assert found(problem for problem in problems if problem.fatal) == {("b", "the xray file exists")}


def test_a_patient_on_both_sides_of_the_split_is_reported(tmp_path):
    table(tmp_path, "p,a.nii.gz,a.png,,,train", "P,b.nii.gz,b.png,,,val")
    cases, problems = find_cases(tmp_path, None, XRAY)
    assert (cases, {p.patient_id for p in problems}) == ([], {"p", "P"})
    assert {(p.rule, p.found) for p in problems} == {
        ("a patient lies in one split only", "2 rows, in train and val"),
        ("capitals do not tell patients apart", "P and p"),
    }


def test_a_folder_that_cannot_be_opened_is_reported(tmp_path, monkeypatch):
    patient(tmp_path, "good")
    patient(tmp_path, "locked")
    (tmp_path / "loop").symlink_to("loop")
    iterdir = Path.iterdir

    def locked(path):
        if path.name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", locked)
    cases, problems = find_cases(tmp_path, None, XRAY)
    assert [case.patient_id for case in cases] == ["good"]
    assert [(p.patient_id, p.found) for p in problems] == [
        ("locked", "Permission denied"),
        ("loop", "a link to nothing or to itself"),
    ]


def test_pairs_csv_gives_paths_labels_and_splits(tmp_path):
    table(tmp_path, "b,b.nii.gz,b.png,,1,val", "a,a.nii.gz,a.png,,,")
    touch(tmp_path / "ignored" / "c.nii.gz")
    cases, problems = find_cases(tmp_path, None, XRAY)
    assert problems == []
    assert [(c.patient_id, c.target, c.split) for c in cases] == [("a", None, None), ("b", 1.0, "val")]
    assert (cases[1].ct, cases[1].xray) == (tmp_path / "b.nii.gz", tmp_path / "b.png")


def test_every_wrong_row_is_reported(tmp_path):
    table(
        tmp_path,
        "good,a.nii.gz,a.png,,,",
        "twice,b.nii.gz,b.png,,,",
        "Twice,b.nii.gz,b.png,,,",
        "gone,absent.nii.gz,b.png,,,",
        "empty,,b.png,,,",
        "label,b.nii.gz,b.png,,yes,",
        "place,b.nii.gz,b.png,,,dev",
        ",b.nii.gz,b.png,,,",
        "../up,b.nii.gz,b.png,,,",
    )
    cases, problems = find_cases(tmp_path, None, XRAY)
    assert [case.patient_id for case in cases] == ["good"]
    assert {p.patient_id for p in problems} == {
        *("twice", "Twice", "gone", "empty", "label", "place", "(pairs.csv row 9)", "../up"),
    }


def test_a_file_of_two_patients_is_reported_for_both(tmp_path):
    table(tmp_path, "p,a.nii.gz,a.png,,,", "q,a.nii.gz,b.png,,,")
    cases, problems = find_cases(tmp_path, None, XRAY)
    assert cases == []
    assert found(problems) == {("p", "a file belongs to one patient"), ("q", "a file belongs to one patient")}


def test_a_table_without_separators_is_told_its_columns(tmp_path):
    table(tmp_path, "a a.nii.gz a.png", header="patient_id ct xray")
    with pytest.raises(ValueError, match="separated by commas"):
        find_cases(tmp_path, None, XRAY)


def test_a_root_without_cases_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="dataset.root"):
        find_cases(tmp_path / "absent", None, XRAY)
    with pytest.raises(ValueError, match="one folder per patient"):
        find_cases(tmp_path, None, XRAY)


def test_a_loop_of_links_is_reported(tmp_path):
    table(tmp_path, "p,p.nii.gz,a.png,,,")
    (tmp_path / "p.nii.gz").symlink_to("p.nii.gz")
    cases, problems = find_cases(tmp_path, None, XRAY)
    assert (cases, found(problems)) == ([], {("p", "the ct file exists")})
