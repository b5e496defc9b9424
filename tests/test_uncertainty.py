"""The spread of draws against their error: a sampler of known spread is calibrated, one that is too sure is not."""

import json
from pathlib import Path

import numpy as np
import pytest

from evaluation.uncertainty import LEVELS, over_cases, uncertainty
from pipeline.sampling.several import draw_several

WINDOW = (-1000.0, 1000.0)
SHAPE, CASES, DRAWS = (40, 20, 25), 8, 5
PATIENTS = [f"p{i}" for i in range(CASES)]


def evaluated(claimed=1.0, bias=0.0):
    """Cases whose truth and draws are normal about one mean, with a spread that differs from place to place."""
    found = []
    for case in range(CASES):
        rng = np.random.default_rng(case)
        middle, spread = rng.uniform(-300, 300, SHAPE), rng.uniform(5, 120, SHAPE)

        def draw(seed, rng=rng, middle=middle, spread=spread):
            return (middle + claimed * spread * rng.standard_normal(SHAPE)).round().astype(np.int16)

        draws = draw_several(draw, range(DRAWS), spread=True)
        real = middle + bias + spread * rng.standard_normal(SHAPE)
        found.append(uncertainty(draws.mean, draws.std, real, DRAWS, WINDOW))
    return over_cases(found, PATIENTS, 0)


def test_a_known_gaussian_sampler_is_calibrated():
    found = evaluated()
    assert found["calibration"].low <= 1 <= found["calibration"].high
    assert found["calibration"].high - found["calibration"].low < 0.02
    for level in LEVELS:
        assert found[f"coverage_{level}"].value == pytest.approx(level / 100, abs=0.01)
    expected = np.sqrt(np.mean(np.square(np.linspace(5, 120, 1000))))
    assert found["diversity_hu"].value == pytest.approx(expected, rel=0.02)


def test_draws_that_are_too_sure_or_too_wild_or_beside_the_truth_are_told():
    right, sure, wild, beside = (evaluated(*how) for how in ((), (0.5,), (2.0,), (1.0, 80.0)))
    assert sure["calibration"].low > 1.5
    assert wild["calibration"].high < 0.7
    assert beside["calibration"].low > 1.2
    assert sure["coverage_95"].high < 0.9 < 0.97 < wild["coverage_95"].low
    assert right["ence"] < min(sure["ence"], beside["ence"])


def test_the_curve_rises_with_the_error_where_the_spread_tells_it():
    """Of many draws: few tell the spread of a single voxel only roughly."""
    rng = np.random.default_rng(0)
    spread = np.geomspace(3, 300, 40)[:, None, None] * np.ones(SHAPE)
    found = uncertainty(np.zeros(SHAPE), spread, spread * rng.standard_normal(SHAPE), 10**6, WINDOW)
    both = over_cases([found] * 5, PATIENTS[:5], 0)
    predicted, true = both["curve"]
    assert predicted == sorted(predicted)
    np.testing.assert_allclose(true, predicted, rtol=0.1)
    assert both["ence"] < 0.05


def test_mean_and_spread_are_those_of_all_draws():
    cts = [np.random.default_rng(i).integers(-1000, 1000, (5, 6, 7)).astype(np.int16) for i in range(6)]
    found = draw_several(cts.__getitem__, range(6), spread=True)
    np.testing.assert_allclose(found.mean, np.mean(cts, 0), atol=0.5)
    np.testing.assert_allclose(found.std, np.std(cts, 0, ddof=1), rtol=1e-4)
    assert np.array_equal(found.first, cts[0])
    assert draw_several(cts.__getitem__, range(6)).std is None
    assert draw_several(cts.__getitem__, [3]).mean is cts[3]


def test_an_evaluation_of_four_draws_says_it(workshop, elsewhere):
    import evaluate_ddpm_patches
    from tests.tiny import run

    settings = [workshop.data, f"ckpt={workshop.ddpm_ckpt}", "steps=2", "device=cpu", "controls=false"]
    run(evaluate_ddpm_patches, *settings, "run_dir=out", "num_samples=4", "anatomy=false")
    found = json.loads(Path("out/metrics.json").read_text())
    assert {"calibration", "ence", "coverage_50", "coverage_95", "diversity_hu"} <= set(found["summary"])
    assert found["summary"]["diversity_hu"] > 0
    assert len(found["controls"]["uncertainty"]["curve"]) == 2
