"""Numbers by groups of cases."""

import json
from pathlib import Path

import numpy as np
import pytest

import evaluate_ddpm_patches
from evaluation.subgroups import UNKNOWN, groups_of, subgroups
from tests.tiny import run


def test_each_group_has_the_mean_of_its_cases():
    told = [{"sex": sex} for sex in "FMFMFF"] + [{}]
    numbers = [{"psnr": float(i), "ssim": 0.5} for i in range(6)] + [{"psnr": float("inf")}]
    found = subgroups(["sex"], told, numbers, [f"p{i}" for i in range(7)])["sex"]
    assert list(found) == ["F", "M", UNKNOWN]
    assert (found["F"]["cases"], found["M"]["patients"]) == (4, 2)
    assert found["F"]["psnr"]["value"] == np.mean([0, 2, 4, 5])
    assert found["M"]["psnr"]["value"] == 2
    assert found["M"]["psnr"]["low"] is None  # of two patients
    assert "psnr" not in found[UNKNOWN]  # infinite


def test_intervals_go_by_patients_not_cases():
    numbers = [{"psnr": float(i % 7)} for i in range(12)]
    told, names = [{"view": "PA"}] * 12, [f"p{i // 2}" for i in range(12)]
    row = subgroups(["view"], told, numbers, names)["view"]["PA"]
    assert (row["cases"], row["patients"]) == (12, 6)
    assert row["psnr"]["low"] < row["psnr"]["value"] < row["psnr"]["high"]


def test_many_numbers_are_cut_in_thirds_and_few_are_not():
    ages = groups_of("age", [{"age": str(age)} for age in range(31, 91)] + [{"age": ""}])
    assert len(set(ages[:-1])) == 3
    assert all(ages.count(name) == 20 for name in set(ages[:-1]))
    assert ages[-1] == UNKNOWN
    assert groups_of("target", [{"target": 1.0}, {"target": 0.0}]) == ["1.0", "0.0"]
    names = [{"scanner": f"s{i}"} for i in range(9)]
    assert groups_of("scanner", names) == [f"s{i}" for i in range(9)]


def test_an_evaluation_has_a_table_of_each_column(workshop, elsewhere):
    settings = [workshop.data, f"ckpt={workshop.ddpm_ckpt}", "steps=1", "device=cpu", "controls=false"]
    run(
        evaluate_ddpm_patches, *settings, "run_dir=out", "split=train", "anatomy=false",
        "subgroups=[target,large_heart]",
    )  # fmt: skip
    found = json.loads(Path("out/metrics.json").read_text())
    for column in ("target", "large_heart"):
        rows = found["subgroups"][column].values()
        assert sum(row["cases"] for row in rows) == 4
        whole = sum(row["cases"] * row["psnr"]["value"] for row in rows) / 4
        assert whole == pytest.approx(found["summary"]["psnr_right"])


def test_a_column_that_nobody_has_is_refused_before_anything_is_drawn(workshop, elsewhere, refused):
    message = refused(evaluate_ddpm_patches, f"ckpt={workshop.ddpm_ckpt}", workshop.data, "subgroups=[age]")
    assert all(words in message for words in ("large_heart", "target", "got age"))
    assert not Path("outputs").exists()
