"""Models that see no X-ray, on cases of very different fields of view: the controls must not be fooled."""

import json
from pathlib import Path

import numpy as np
import pytest

import evaluate_ddpm_patches
import make_phantom_data
import prepare_data
from common.collectives import Team
from dataset.scans.volume_io import read_ct
from dataset.store.store import VolumeStore
from ddpm.denoiser import PatchDenoiser
from evaluation.common_grid import CommonGrid, to_grid
from evaluation.metrics import psnr
from pipeline.sampling.ct_sampler import CTSampler
from pipeline.sampling.mean_ct import mean_training_ct
from tests.tiny import run

WINDOW = (-1000.0, 1000.0)
CASES = 8  # for training, of ten


@pytest.fixture(scope="module")
def varied(tmp_path_factory):
    """Phantoms whose fields of view differ twofold."""
    root = tmp_path_factory.mktemp("varied")
    run(
        make_phantom_data,
        f"dataset.root={root}",
        "dataset.phantom.num_cases=10",
        "dataset.phantom.shape_range=[[22,20,22],[34,30,34]]",
        "dataset.phantom.spacing_range=[[8,8,8],[11,11,11]]",
        "dataset.prepare_workers=0",
    )
    run(prepare_data, f"dataset.root={root}", "dataset.prepare_workers=0")
    return root


@pytest.fixture
def evaluate(workshop, varied, elsewhere, monkeypatch):
    """Runs an evaluation with further settings, drawing by `draw(xray, grid, plan, seed)`, and returns its metrics."""

    def evaluate(draw, *settings):
        monkeypatch.setattr(CTSampler, "draw", lambda self, *arguments: draw(*arguments))
        data = [f"dataset.root={varied}", "split=train"]
        run(evaluate_ddpm_patches, *data, f"ckpt={workshop.ddpm_ckpt}", "run_dir=out", "device=cpu", *settings)
        return json.loads(Path("out/metrics.json").read_text())

    return evaluate


def flat(xray, grid, plan, seed):
    return np.full(grid.shape, -400, np.int16)


def noise(xray, grid, plan, seed):
    return np.random.default_rng(seed).integers(-1000, 1000, grid.shape).astype(np.int16)


def mean_chest(root):
    mean = mean_training_ct(VolumeStore(root / "store"), WINDOW, 96, Path("."), Team())
    return lambda xray, grid, plan, seed: mean.on(CommonGrid(grid.shape, grid.spacing)).round().astype(np.int16)


def by_swapping_cts(root):
    """Right minus wrong as it was once measured: each drawn CT against the real ones of others, all on one grid."""
    names = [case.patient_id for case in VolumeStore(root / "store").split("train")]
    grid = CommonGrid((30, 26, 30), (9.0,) * 3)

    def on_grid(path):
        ct = read_ct(path)
        return to_grid(ct.hu, ct.spacing, grid, WINDOW)

    drawn = [on_grid(Path(f"out/volumes/{name}.nii.gz")) for name in names]
    real = [on_grid(root / name / f"{name}.nii.gz") for name in names]
    scores = np.array([[psnr(a, b, WINDOW) for b in real] for a in drawn])
    others = ~np.eye(len(names), dtype=bool)
    return scores[~others].mean() - scores[others].mean()


@pytest.mark.parametrize("model", ["flat", "noise", "mean"])
def test_a_model_that_never_sees_an_xray_gains_nothing_by_the_right_one(model, varied, evaluate, monkeypatch):
    monkeypatch.setattr(PatchDenoiser, "knows_no_xray", True)
    metrics = evaluate({"flat": flat, "noise": noise, "mean": mean_chest(varied)}[model], "wrong_xrays=2")
    summary = metrics["summary"]
    assert by_swapping_cts(varied) > 0.3
    assert (summary["right_minus_wrong"], summary["right_minus_wrong_95"]) == (0, [0, 0])
    assert (summary["right_minus_null"], summary["right_minus_null_95"]) == (0, [0, 0])
    assert summary["lung_volume_correlation"] == summary["lung_volume_correlation_null"]
    assert summary["own_xray_found_right"] == summary["own_xray_found_null"] == summary["own_xray_found_wrong"]
    assert any("does not follow its X-ray" in sentence for sentence in metrics["verdict"])
    if model == "mean":
        assert abs(summary["right_minus_mean_volume"]) < 0.01  # HU are rounded
    else:
        assert summary["right_minus_mean_volume_95"][1] < 0


def test_each_case_is_drawn_with_another_patients_xray_and_with_none_from_the_same_noise(evaluate, monkeypatch):
    monkeypatch.setattr(PatchDenoiser, "knows_no_xray", True)
    drawn = []

    def remember(xray, grid, plan, seed):
        drawn.append((grid, xray, plan.guidance, seed))
        return flat(xray, grid, plan, seed)

    metrics = evaluate(remember, "num_samples=2", "guidance=2", "controls=true")
    assert len(drawn) == CASES * 3 * 2
    for case in range(CASES):
        six = drawn[6 * case : 6 * case + 6]
        right, wrong, null = six[0::2]
        assert len({repr(grid) for grid, *_ in six}) == 1
        assert [seed for *_, seed in six] == [42, 43] * 3
        assert not np.array_equal(right[1].xray, wrong[1].xray)
        assert null[1].dropped
        assert not right[1].dropped
        assert [one[2] for one in (right, wrong, null)] == [2, 2, 1]
    used = [volume["xray"] for volumes in metrics["scores"].values() for volume in volumes if volume["of"] == "wrong"]
    assert sorted(used) == sorted(metrics["scores"])
    assert all(used[i] != name for i, name in enumerate(metrics["scores"]))


def test_without_controls_nothing_is_drawn_twice(evaluate):
    drawn = []
    metrics = evaluate(lambda *arguments: drawn.append(arguments) or flat(*arguments), "controls=false")
    assert len(drawn) == CASES
    assert not {"psnr_wrong", "psnr_null", "psnr_mean_volume"} & set(metrics["summary"])
    assert metrics["summary"]["psnr_right"] > 0
    assert metrics["verdict"] == []


def test_on_the_median_grid_only_what_the_real_ct_shows_counts(evaluate, varied, workshop):
    """A model that draws the truth as far as it knows it, and bone beyond, is perfect up to resampling."""
    model = CTSampler(workshop.ddpm_ckpt, device="cpu")
    median = model.placement().grid
    store, shown, truths = VolumeStore(varied / "store"), CommonGrid(median.shape, median.spacing), {}
    cases = store.split("train")
    for case in cases:
        hu = to_grid(store.read_hu(case, (0, 0, 0), case.shape), case.spacing, shown, WINDOW)
        held = to_grid(np.full(case.shape, 1000), case.spacing, shown, WINDOW) > 0
        truths[case.patient_id] = np.where(held, hu, 1000).round().astype(np.int16)
    order = iter(sorted(truths))
    metrics = evaluate(lambda *_: truths[next(order)], "grid=median", "controls=false")
    assert all(case["psnr"] > 50 for case in metrics["cases"])
    for case in cases:
        drawn = read_ct(f"out/volumes/{case.patient_id}.nii.gz")
        assert drawn.hu.shape == median.shape
        assert drawn.spacing == pytest.approx(median.spacing)
        middles = [
            np.asarray(affine) @ [*((n - 1) / 2 for n in shape[::-1]), 1]
            for affine, shape in ((drawn.affine, median.shape), (case.affine, case.shape))
        ]
        np.testing.assert_allclose(*middles, atol=1e-3)
