"""Two evaluations compared patient by patient."""

import json
import sys

import numpy as np
import pytest
from scipy.stats import wilcoxon

from common.errors import UserError
from evaluation import compare

SETTINGS = {"split": "val", "hu_window": [-1000.0, 1000.0], "grid": "own"}


def metrics(psnrs, settings=SETTINGS, **more):
    """metrics.json of cases with these PSNRs, by patient."""
    cases = [{"psnr": psnr, "lung_ml_real": 5000.0} | more for psnr in psnrs.values()]
    return {"settings": settings, "cases": cases, "scores": {patient: [] for patient in psnrs}}


def test_patients_are_paired_by_name_whatever_their_order():
    rng = np.random.default_rng(0)
    hard = dict(zip("abcdefgh", rng.normal(20, 5, 8), strict=True))  # patients differ by far more than the runs
    gains = rng.normal(0.5, 0.1, 8)
    better = {name: psnr + gain for (name, psnr), gain in zip(hard.items(), gains, strict=True)}
    shuffled = dict(sorted(hard.items(), reverse=True)) | {"only here": 99.0}
    psnr, lungs = compare.paired(metrics(better), metrics(shuffled))
    assert (psnr.name, psnr.patients) == ("psnr", 8)
    assert psnr.difference.value == pytest.approx(gains.mean())
    assert 0 < psnr.difference.low < gains.mean() < psnr.difference.high
    assert psnr.p == pytest.approx(wilcoxon(gains).pvalue)
    assert psnr.p < 0.05
    assert (lungs.difference.value, lungs.p) == (0, None)


def test_infinite_numbers_and_those_that_one_run_lacks_are_left_out():
    rows = compare.paired(metrics({"a": None, "b": 21.0}, ssim=0.5), metrics({"a": 20.0, "b": 20.0}))
    assert [(row.name, row.patients, row.difference.value) for row in rows] == [("psnr", 1, 1), ("lung_ml_real", 2, 0)]


def test_studies_of_one_patient_count_once():
    """One patient with many studies who gains, and five with one each who do not: no evidence of six."""
    rng = np.random.default_rng(0)
    owners = {f"a_{n}": "a" for n in range(39)} | {name: name for name in "bcdef"}
    gains = {case: rng.normal(1 if owner == "a" else 0, 0.1) for case, owner in owners.items()}
    base = dict.fromkeys(owners, 20.0)
    first, second = (
        metrics({c: v + g * k for (c, v), g in zip(base.items(), gains.values(), strict=True)}) for k in (1, 0)
    )
    psnr, _ = compare.paired(first | {"patients": owners}, second)  # such as files of another system, without patients
    by_patient = [np.mean([gains[c] for c, owner in owners.items() if owner == one]) for one in "abcdef"]
    assert psnr.patients == 6
    assert psnr.p == pytest.approx(wilcoxon(by_patient).pvalue)
    assert psnr.p > 0.05
    assert psnr.difference.low < 0.5
    assert psnr.difference.value == pytest.approx(np.mean(list(gains.values())))


@pytest.mark.parametrize(
    ("other", "rule"),
    [
        (metrics({"a": 20.0}, SETTINGS | {"hu_window": [-1000.0, 500.0]}), "hu_window"),
        (metrics({"a": 20.0}, SETTINGS | {"grid": "median"}), "grid is own in one and median"),
        (metrics({"b": 20.0}), "none in common"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(other, rule):
    with pytest.raises(UserError, match=rule):
        compare.paired(metrics({"a": 20.0}), other)


def test_the_command_prints_a_table_and_says_what_is_missing(tmp_path, monkeypatch, caplog, capsys):
    for name, shift in (("a", 1.0), ("b", 0.0)):
        (tmp_path / name).mkdir()
        found = metrics({f"p{i}": 20.0 + i + shift for i in range(6)})
        (tmp_path / name / "metrics.json").write_text(json.dumps(found))
    caplog.set_level("INFO")
    monkeypatch.setattr(sys, "argv", ["compare", str(tmp_path / "a"), str(tmp_path / "b")])
    compare.main()
    assert "psnr                              6       23.5       22.5           1  1 to 1" in caplog.text
    monkeypatch.setattr(sys, "argv", ["compare", str(tmp_path / "a"), str(tmp_path / "c")])
    with pytest.raises(SystemExit):
        compare.main()
    assert "metrics.json" in capsys.readouterr().err
