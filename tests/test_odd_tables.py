"""pairs.csv as spreadsheets and other systems write it: read as it was meant, or told."""

import pytest

from common.errors import UserError
from dataset.prepare.cases import find_cases

HEADER = "patient_id,ct,xray"


def found(root, text, encoding="utf-8"):
    """Cases by name with their CTs, and what is said of rows, by name."""
    (root / "sub").mkdir(exist_ok=True)
    for name in ("a.nii", "b.nii", "a.png", "b.png", "sub/c.nii", "sub/c.png", "x;y.nii", "back\\slash.nii"):
        (root / name).touch()
    (root / "pairs.csv").write_bytes(text.encode(encoding))
    cases, problems = find_cases(root, None, "*.png")
    return {case.name: case.ct.relative_to(root).as_posix() for case in cases}, {p.patient_id: p.rule for p in problems}


READ = {
    "byte order mark": ("\ufeff" + f"{HEADER}\na,a.nii,a.png\n", {"a": "a.nii"}),
    "semicolons": ("patient_id;ct;xray\na;a.nii;a.png\n", {"a": "a.nii"}),
    "semicolons in quotes": ('"patient_id";"ct";"xray"\n"a";"x;y.nii";"a.png"\n', {"a": "x;y.nii"}),
    "tabs": ("patient_id\tct\txray\na\ta.nii\ta.png\n", {"a": "a.nii"}),
    "a semicolon within a path": (f"{HEADER}\na,x;y.nii,a.png\n", {"a": "x;y.nii"}),
    "spaces": ("patient_id , ct,xray \n a , a.nii ,a.png \n", {"a": "a.nii"}),
    "spaces that do not break": (f"{HEADER}\na\u00a0,a.nii\u00a0,a.png\n", {"a": "a.nii"}),
    "Excel's numbers as text": (f'{HEADER}\n"=""001""",a.nii,a.png\n', {"001": "a.nii"}),
    "the same, bare": (f'{HEADER}\n="007",a.nii,a.png\n', {"007": "a.nii"}),
    "paths of Windows": (f"{HEADER}\na,sub\\c.nii,sub\\c.png\n", {"a": "sub/c.nii"}),
    "a name with a backslash": (f"{HEADER}\na,back\\slash.nii,a.png\n", {"a": "back\\slash.nii"}),
    "ends of lines of old Macs": (f"{HEADER}\ra,a.nii,a.png\r", {"a": "a.nii"}),
    "empty cells at the end": (f"{HEADER}\na,a.nii,a.png,,\n,,,,\n", {"a": "a.nii"}),
    "a date for an id": (f"{HEADER}\n2024-01-02,a.nii,a.png\n", {"2024-01-02": "a.nii"}),
}


@pytest.mark.parametrize(("text", "cases"), READ.values(), ids=READ)
def test_what_can_mean_one_thing_is_read(tmp_path, text, cases):
    assert found(tmp_path, text) == (cases, {})


TOLD = {
    "a comma within a path": (f"{HEADER}\na,sub,c.nii,a.png\n", "no more cells than there are columns"),
    "a drive": (f"{HEADER}\na,C:\\data\\a.nii,a.png\n", "the ct file exists"),
    "a date with slashes": (f"{HEADER}\na/1/2024,a.nii,a.png\n", "they name files"),
    "nothing between": (f"{HEADER}\na\u200bb,a.nii,a.png\n", "they name files"),
    "a zero byte": (f"{HEADER}\na,a\0.nii,a.png\n", "the ct file exists"),
    "a path too long for the system": (f"{HEADER}\na,{'x' * 5000},a.png\n", "the ct file exists"),
    "capitals": (f"{HEADER}\nA,a.nii,a.png\na,b.nii,b.png\n", "capitals do not tell patients apart"),
    "a row twice": (f"{HEADER}\na,a.nii,a.png\na,a.nii,a.png\n", "each row is another study"),
    "a decimal comma": ("patient_id;ct;xray;target\na;a.nii;a.png;0,5\n", "target is a number"),
}


@pytest.mark.parametrize(("text", "rule"), TOLD.values(), ids=TOLD)
def test_what_cannot_is_told_by_the_row(tmp_path, text, rule):
    cases, problems = found(tmp_path, text)
    assert cases == {}
    assert all(rule in told for told in problems.values())
    assert problems


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_another_encoding_is_refused_with_what_to_do(tmp_path, encoding):
    with pytest.raises(UserError, match="UTF-8 table"):
        found(tmp_path, f"{HEADER}\n\u00e9,a.nii,a.png\n", encoding)
