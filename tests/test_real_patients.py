"""The benchmark on real chests: nobody is drawn by a training that has seen a variant of them."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.real_pairs import bent
from benchmarks.real_patients import figures, pairs_of
from dataset.phantom.anatomy import draw_anatomy
from dataset.phantom.thorax import render

SCANS = [Path(f"/x/{name}.nii.gz") for name in ("anna", "bert", "carl", "dora", "eve_partial")] + [
    Path("/x/fred/ct.nii")
]
WHOLE = {"anna", "bert", "carl", "dora", "fred"}


@pytest.mark.parametrize("row", ["phantoms", "real", "both"])
def test_each_patient_is_left_out_once_and_never_half(row):
    left_out = []
    for fold in [None] if row == "phantoms" else [0, 1]:
        found = list(pairs_of(row, fold, SCANS, folds=2, variants=3))
        train, val = ([name for name, where in found if where == split] for split in ("train", "val"))
        assert {name[:-3] for name in train}.isdisjoint(name[:-3] for name in val)
        assert all(name.endswith("_00") for name in val)  # as they are, not bent
        assert bool(train) == (row != "phantoms")
        left_out += [name[:-3] for name in val]
    assert sorted(left_out) == sorted(WHOLE)


def test_a_bent_chest_is_another_one_of_the_same_size():
    ct = render(draw_anatomy(np.random.default_rng(0)), (28, 24, 28), (12.0, 12.0, 12.0))
    again = [bent(ct, seed).hu for seed in (1, 1, 2)]
    assert np.array_equal(again[0], again[1])
    for one, other in ((again[0], ct.hu), (again[0], again[2])):
        assert one.shape == other.shape
        assert one.dtype == np.int16
        assert np.abs(one.astype(int) - other).mean() > 20
    assert again[0].min() >= ct.hu.min()
    assert again[0].max() <= ct.hu.max()


def test_figures_are_over_the_patients_of_all_folds():
    def part(names, psnr):
        keys = ("psnr", "psnr_wrong", "psnr_null", "psnr_mean_volume", "psnr_codec", "lung_ml", "lung_ml_real")
        return {"scores": dict.fromkeys(names), "cases": [dict.fromkeys(keys, psnr + i) for i, _ in enumerate(names)]}

    found = figures([part("ab", 10.0), part("cde", 20.0)])
    assert found["n"] == 5
    assert found["psnr_right"] == np.mean([10, 11, 20, 21, 22])
    assert found["right_minus_wrong"] == 0
    assert "minus_phantoms" not in found
    found = figures([part("ab", 10.0), part("cde", 20.0)], [part("abcd", 9.0)])
    assert found["minus_phantoms"] == np.mean([1, 1, 20 - 11, 21 - 12])  # e is in one row only


def test_a_fold_of_one_patient_has_no_other_patients_xray():
    keys = ("psnr", "psnr_null", "psnr_mean_volume", "psnr_codec", "lung_ml", "lung_ml_real")
    alone = {"scores": {"a": None}, "cases": [dict.fromkeys(keys, 10.0)]}
    two = {"scores": {"b": None, "c": None}, "cases": [dict.fromkeys((*keys, "psnr_wrong"), 10.0)] * 2}
    for parts in ([alone, two], [two, alone]):
        found = figures(parts)
        assert found["n"] == 3
        assert "right_minus_wrong" not in found
        assert found["right_minus_null"] == 0
