import pytest

from dataset.prepare.cases import find_cases
from tests.test_cases import XRAY, table


@pytest.mark.parametrize("target", ["nan", "inf", "-inf", "2", "-0.1", "1e400", "yes"])
def test_a_label_that_is_no_probability_is_refused_with_its_row(tmp_path, target):
    table(tmp_path, "a,a.nii.gz,a.png,,0.5,", f"b,b.nii.gz,b.png,,{target},")
    cases, problems = find_cases(tmp_path, None, XRAY)
    assert [(case.patient_id, case.target) for case in cases] == [("a", 0.5)]
    assert [(p.patient_id, p.path, p.rule, p.found) for p in problems] == [
        ("b", "pairs.csv row 3", "target is a number in [0, 1] or empty", repr(target))
    ]
    assert problems[0].remedy
