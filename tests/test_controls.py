"""Right X-rays against wrong ones, none, the mean volume and the codec; intervals over patients; the words for it."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from evaluation.controls import compare_with_controls, correlation, finite, mean_of, wrong_xrays
from evaluation.metrics import psnr
from evaluation.verdict import verdict
from tests.test_metrics import WINDOW, volume

PATIENTS = [f"p{i}" for i in range(6)]


@pytest.mark.parametrize("count", [1, 2, 5, 9])
def test_wrong_xrays_are_of_other_patients_and_each_serves_as_often(count):
    wrong = wrong_xrays(PATIENTS, count, seed=3)
    assert all(len(set(others)) == min(count, 5) and i not in others for i, others in enumerate(wrong))
    assert sorted(other for others in wrong for other in others) == sorted([*range(6)] * min(count, 5))
    assert wrong == wrong_xrays(PATIENTS, count, seed=3)


def test_wrong_xrays_follow_the_seed_and_never_come_from_another_study_of_the_patient():
    assert len({tuple(map(tuple, wrong_xrays(PATIENTS, 1, seed))) for seed in range(5)}) > 1
    patients = ["a", "a", "b", "a", "c", "c"]
    for seed in range(10):
        for patient, others in zip(patients, wrong_xrays(patients, 3, seed), strict=True):
            assert patient not in {patients[i] for i in others}
            assert len(others) == 2
    assert wrong_xrays(["a", "a"], 1, 0) == [[], []]


def test_means_and_differences_are_those_of_the_cases():
    scores = {"right": [20.0, 22.0, 24.0], "wrong": [15.0, 16.0, 20.0], "null": [19.0, 22.5, 23.0], "codec": [30.0] * 3}
    found = compare_with_controls(scores, PATIENTS[:3])
    assert found.means == {"right": 22.0, "wrong": 17.0, "null": 21.5, "codec": 30.0}
    assert {name: by.value for name, by in found.differences.items()} == {"wrong": 5.0, "null": 0.5}
    assert found.differences["wrong"].low is None  # of three patients
    json.dumps(finite(asdict(found)), allow_nan=False)


def test_the_interval_is_the_same_with_the_same_seed_and_narrows_with_more_patients():
    values = np.random.default_rng(0).normal(4, 1, 400)
    names = [f"p{i}" for i in range(400)]
    few, many = mean_of(values[:10], names[:10]), mean_of(values, names)
    assert few == mean_of(values[:10], names[:10], seed=0) != mean_of(values[:10], names[:10], seed=1)
    assert many.low < 4 < many.high
    expected = 1.96 * values.std() / 20
    assert (many.high - many.low) / 2 == pytest.approx(expected, rel=0.1)


def test_studies_of_one_patient_are_redrawn_together():
    """Ten studies of each patient that agree tell no more than one."""
    values = np.random.default_rng(0).normal(0, 1, 20)
    names = [f"p{i}" for i in range(20)]
    once, tenfold = mean_of(values, names), mean_of(np.repeat(values, 10), np.repeat(names, 10))
    assert (tenfold.low, tenfold.high) == pytest.approx((once.low, once.high))
    apart = mean_of(np.repeat(values, 10), [f"q{i}" for i in range(200)])
    assert apart.high - apart.low < 0.5 * (once.high - once.low)


def test_cases_without_a_number_do_not_count_in_a_correlation():
    a, b, names = [1.0, 2.0, 4.0, 3.0, None, 9.0], [2.0, 1.0, 5.0, 4.0, 7.0, float("nan")], list("abcdef")
    assert correlation(a, b, names) == correlation(a[:4], b[:4], names[:4])
    assert correlation([1.0, None, 2.0], [1.0, 2.0, 3.0], names[:3]).value is None


def test_correlation_of_volumes_and_its_interval():
    rng = np.random.default_rng(0)
    a = rng.normal(5000, 800, 200)
    b = a + rng.normal(0, 600, 200)
    found = correlation(a, b, [f"p{i}" for i in range(200)])
    assert found.value == pytest.approx(np.corrcoef(a, b)[0, 1])
    spread = 1.96 / np.sqrt(197)  # of Fisher's transform
    expected = np.tanh(np.arctanh(found.value) + np.array([-spread, spread]))
    assert (found.low, found.high) == pytest.approx(expected, abs=0.02)
    assert correlation([1, 2, 3], [3, 2, 1], PATIENTS[:3]).value == pytest.approx(-1)
    assert correlation([1, 1, 1], [1, 2, 3], PATIENTS[:3]).value is None
    assert correlation([1, 2], [1, 2], PATIENTS[:2]).value is None
    with pytest.raises(ValueError, match="one length"):
        correlation([1, 2, 3], [1, 2], PATIENTS[:3])


def blurred(hu):
    return sum(np.roll(hu, step, axis) for axis in range(3) for step in (-1, 0, 1)) / 9


CHESTS = [np.mean([volume(i), volume(99)], axis=0) for i in range(8)]  # different, and alike
MEAN = np.mean(CHESTS, axis=0)
MODELS = {  # what is drawn for patient i from the X-ray of patient j
    "truth": lambda i, j: CHESTS[j],
    "blurred truth": lambda i, j: blurred(CHESTS[j]),
    "mean": lambda i, j: MEAN,
    "swapped truth": lambda i, j: CHESTS[(j + 4) % 8],
    "noise": lambda i, j: volume(50 + i),
}


def words_for(model):
    names = [f"p{i}" for i in range(8)]
    scores = {
        "right": [psnr(MODELS[model](i, i), c, WINDOW) for i, c in enumerate(CHESTS)],
        "wrong": [psnr(MODELS[model](i, (i + 1) % 8), c, WINDOW) for i, c in enumerate(CHESTS)],
        "mean_volume": [psnr(MEAN, c, WINDOW) for c in CHESTS],
    }
    return " ".join(verdict(compare_with_controls(scores, names)))


def test_the_words_are_right_of_the_truth_and_of_useless_models():
    assert "It beats the mean training CT" in words_for("truth")
    assert "It follows its X-ray" in words_for("truth")
    assert "It follows its X-ray" in words_for("blurred truth")
    for useless in ("mean", "swapped truth", "noise"):
        assert "It does not beat the mean training CT" in words_for(useless)
        assert "It does not follow its X-ray" in words_for(useless)


def test_of_few_patients_the_words_promise_nothing():
    scores = {"right": [20.0, 21.0], "wrong": [10.0, 11.0], "null": [10.0, 11.0], "mean_volume": [15.0, 15.0]}
    words = verdict(compare_with_controls(scores, PATIENTS[:2]))
    assert len(words) == 3
    assert all("Too few patients" in sentence for sentence in words)
