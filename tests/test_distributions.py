"""Distances of features: known ones of Gaussians, those of others, and whose features they are."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.metrics import FIDMetric
from scipy.ndimage import gaussian_filter
from torchmetrics.image.kid import poly_kernel, poly_mmd

import evaluate_ddpm_patches
from common.errors import UserError
from common.tensor_hash import tensor_hash
from ddpm.perceptual_resnet import ResNetDistance
from evaluation.common_grid import CommonGrid
from evaluation.distributions import MEASURES, compare_features
from pipeline.sampling import extractors
from pipeline.sampling.ct_sampler import CTSampler
from pipeline.sampling.extractors import VolumeFeatures, load_extractors
from tests.tiny import run

NONE = {"imagenet": None, "radimagenet": None, "medicalnet_10": None, "medicalnet_50": None, "random": False}
SMALL = CommonGrid((24, 24, 24), (16.0, 16.0, 16.0))


def whitened(count, size, seed):
    """Samples (count, size) whose mean is 0 and whose covariance 1, exactly."""
    some = np.random.default_rng(seed).normal(0, 1, (count, size))
    some -= some.mean(0)
    return some @ np.linalg.inv(np.linalg.cholesky(np.cov(some.T))).T


def normal(seed, count=80, size=10, mean=0.0, spread=1.0):
    return np.random.default_rng(seed).normal(mean, spread, (count, size))


def compared(drawn, real, owners=None):
    owners = owners or [f"p{i}" for i in range(len(drawn))]
    return compare_features(drawn[:, None], real[:, None], owners, "3D", "abc")


def test_the_frechet_distance_of_gaussians_is_that_of_the_formula():
    rng = np.random.default_rng(0)
    size, mean = 6, rng.normal(0, 2, 6)
    a, b = rng.uniform(0.5, 3, size), rng.uniform(0.5, 3, size)
    turn, _ = np.linalg.qr(rng.normal(0, 1, (size, size)))
    drawn, real = whitened(50, size, 1) * a @ turn + mean, whitened(50, size, 2) * b @ turn
    assert compared(drawn, real).fid.value == pytest.approx(mean @ mean + np.square(a - b).sum(), rel=1e-9)


def test_the_distances_are_those_of_others():
    drawn, real = normal(0, mean=0.3), normal(1, spread=1.5)
    found = compared(drawn, real)
    a, b = (torch.from_numpy(some) for some in (drawn, real))
    assert found.fid.value == pytest.approx(float(FIDMetric()(a, b)), rel=1e-6)
    across = poly_kernel(a, b)  # theirs counts the drawn and the real CT of one patient as well, 80 of 80² pairs
    others = (across.sum() - across.trace()) / (80 * 79)
    assert found.kid.value == pytest.approx(float(poly_mmd(a, b) + 2 * (across.mean() - others)), rel=1e-9)


def test_equal_sets_are_perfect_and_more_noise_is_further_away():
    real = normal(0)
    found = [compared(real + noise * normal(1), real) for noise in (0, 0.3, 1, 3)]
    assert found[0].fid.value == pytest.approx(0, abs=1e-9)
    assert found[0].kid.value == pytest.approx(0, abs=1e-9)
    assert found[0].precision.value == found[0].recall.value == 1
    for measure in ("fid", "kid"):
        values = [getattr(one, measure).value for one in found]
        assert values == sorted(values)
    assert found[-1].precision.value < 0.5


def test_one_mode_alone_is_precise_and_does_not_recall():
    modes = np.repeat([-5.0, 5.0], 40)[:, None]
    found = compared(0.5 * normal(0) + 5, normal(1) + modes)
    assert found.precision.value == 1
    assert found.recall.value < 0.5 < compared(normal(0) + modes, normal(1) + modes).recall.value


def test_intervals_leave_out_patients_and_hold_what_more_cts_would_say():
    found = compared(normal(0, mean=0.3), normal(1))
    assert all(getattr(found, name).low <= getattr(found, name).value <= getattr(found, name).high for name in MEASURES)
    many = compared(normal(2, 300, mean=0.3), normal(3, 300))
    assert found.kid.low < many.kid.value < found.kid.high
    assert many.kid.high - many.kid.low < 0.8 * (found.kid.high - found.kid.low)
    assert found.fid_halves == pytest.approx(compared(normal(4, 40), normal(5, 40)).fid.value, rel=0.6)
    assert found.fid_halves == pytest.approx(compared(normal(6, mean=9), normal(1)).fid_halves)
    twice = [np.repeat(some, 2, 0) for some in (normal(0, mean=0.3), normal(1))]
    again = compared(*twice, [f"p{i // 2}" for i in range(160)])  # two studies that agree tell no more than one
    assert (again.kid.value, again.kid.low) == pytest.approx((found.kid.value, found.kid.low))
    assert (again.cts, again.patients) == (160, 80)
    few = compared(normal(0, 3), normal(1, 3))
    assert few.fid.value is not None
    assert few.fid.low is few.fid_halves is few.precision.value is None


@pytest.fixture
def weights(tmp_path):
    """Stand-ins for the files that users have."""
    torch.save({"state_dict": medicalnet(10, 7)}, tmp_path / "resnet_10_23dataset.pth")
    torch.save({"state_dict": medicalnet(50, 8)}, tmp_path / "resnet_50_23dataset.pth")
    return tmp_path


def medicalnet(depth, seed):
    torch.manual_seed(seed)
    return {f"module.{name}": value for name, value in extractors._resnet3d(depth).state_dict().items()}


def test_files_of_medicalnet_are_read_whole(weights):
    found = load_extractors(NONE | {f"medicalnet_{n}": str(weights / f"resnet_{n}_23dataset.pth") for n in (10, 50)})
    assert [one.kind for one in found.values()] == ["3D", "3D"]
    for depth, seed, size in ((10, 7, 512), (50, 8, 2048)):
        network = extractors._resnet3d(depth)
        network.load_state_dict({k.removeprefix("module."): v for k, v in medicalnet(depth, seed).items()})
        assert found[f"medicalnet_{depth}"].hash == tensor_hash(VolumeFeatures(network))
        assert found[f"medicalnet_{depth}"].network(torch.zeros(32, 32, 32)).shape == (1, size)


def test_slices_that_show_nothing_do_not_count():
    network = load_extractors(NONE | {"random": True})["random_planes"].network
    ct = torch.full((24, 30, 36), -1.0)
    ct[:, 6:24] = torch.rand(24, 18, 36, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = network(ct)
        by_hand = network._of(ct[:, 6:24:6].movedim(1, 0))
    assert found.shape == (3, 2048)
    torch.testing.assert_close(found[1], by_hand)


@pytest.mark.parametrize("damage", ["noise", "blur"])
def test_cts_are_further_away_with_every_step_of_damage(damage):
    rng = np.random.default_rng(0)
    cts = [np.tanh(2 * gaussian_filter(rng.normal(0, 3, (24, 24, 24)), 1)) for _ in range(8)]
    network = load_extractors(NONE | {"random": True})["random_volume"].network

    def seen(by):
        worse = [gaussian_filter(ct, by) if damage == "blur" else ct + by * rng.normal(0, 0.3, ct.shape) for ct in cts]
        with torch.no_grad():
            return np.stack([network(torch.from_numpy(ct).float()).numpy()[0] for ct in worse])

    found = [compared(seen(by), seen(0)) for by in (0, 1, 2, 4)]
    for measure in ("fid", "kid"):
        values = [getattr(one, measure).value for one in found]
        assert values == sorted(values), measure
        assert values[0] == pytest.approx(0, abs=1e-6 * values[-1])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"imagenet": "/nowhere"}, "no weights at /nowhere: extractors.imagenet needs"),
        ({"imagenet": "random"}, "no weights at random"),
        ({"medicalnet_10": "resnet_50_23dataset.pth"}, "does not hold a MedicalNet ResNet-10"),
        ({"medicalnet_10": "resnet_10_23dataset.pth"}, "the only one of 3D features"),
        ({"radimagenet": "resnet50.pth", "random": True}, "give them as extractors.imagenet"),
    ],
)
def test_networks_that_cannot_be_asked(settings, said, weights, monkeypatch):
    monkeypatch.chdir(weights)
    if "radimagenet" in settings:
        monkeypatch.setattr(extractors, "ResNetDistance", lambda *_: ResNetDistance("random"))
        Path("resnet50.pth").touch()
    with pytest.raises(UserError, match=said):
        load_extractors(NONE | settings)


def test_an_evaluation_compares_distributions_and_keeps_features_of_real_cts(workshop, elsewhere, monkeypatch):
    monkeypatch.setattr(extractors, "GRID", SMALL)
    monkeypatch.setattr(evaluate_ddpm_patches, "kept_with", lambda *_: Path("kept"))
    settings = [workshop.data, f"ckpt={workshop.ddpm_ckpt}", "run_dir=out", "split=train", "steps=1", "device=cpu"]
    settings += ["anatomy=false", "controls=false", "extractors.random=true"]
    run(evaluate_ddpm_patches, *settings)
    found = json.loads(Path("out/metrics.json").read_text())
    shown = found["controls"]["distributions"]
    assert {name: one["kind"] for name, one in shown.items()} == {"random_planes": "2.5D", "random_volume": "3D"}
    cts = len(found["cases"])
    for name, one in shown.items():
        assert one["cts"] == one["patients"] == cts
        assert len(one["hash"]) == 64
        assert found["summary"][f"fid_{name}"] == one["fid"]["value"] > 0
    page = Path("out/report.html").read_text()
    assert "<h2>Distributions<" in page
    assert "Squared Fréchet distance" in page
    assert len(list(Path("kept").iterdir())) == 2 * cts

    def copy(self, xray, grid, plan, seed):
        return np.full(grid.shape, -1000, np.int16)

    monkeypatch.setattr(CTSampler, "draw", copy)
    run(evaluate_ddpm_patches, *settings)
    grey = json.loads(Path("out/metrics.json").read_text())["controls"]["distributions"]
    assert grey["random_planes"]["hash"] == shown["random_planes"]["hash"]
    assert grey["random_planes"]["recall"]["value"] == 0
    assert len(list(Path("kept").iterdir())) == 2 * cts
