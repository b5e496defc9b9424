"""Does a drawn CT carry a label? AUC as others define it, classifiers that learn, and the command."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchmetrics.functional.classification import binary_auroc

import evaluate_task
from dataset.store.store import VolumeStore
from evaluation.auc import auc, compare_aucs
from evaluation.classifier import densenet, logistic, train_classifier
from pipeline.sampling.evaluated_cases import Evaluation
from pipeline.sampling.task import labels_of
from tests.tiny import run


def scored(seed, count=60, apart=1.0):
    rng = np.random.default_rng(seed)
    labels = rng.random(count) < 0.4
    return (rng.normal(0, 1, count) + apart * labels).round(1), labels  # rounded: with ties


@pytest.mark.parametrize("seed", range(3))
def test_the_auc_is_that_of_others_also_with_ties(seed):
    scores, labels = scored(seed)
    shares = (scores - scores.min()) / np.ptp(scores)
    theirs = binary_auroc(torch.from_numpy(shares), torch.from_numpy(labels.astype(int)))
    assert auc(scores, labels) == pytest.approx(float(theirs), abs=1e-6)


def test_known_aucs():
    assert auc([0.1, 0.4, 0.35, 0.8], [False, False, True, True]) == 0.75  # scikit-learn's example
    assert auc([1, 2, 3], [False, False, True]) == 1
    assert auc([1, 1, 1], [False, True, True]) == 0.5
    assert np.isnan(auc([1, 2], [True, True]))


def test_intervals_hold_the_value_and_differences_are_of_the_same_patients():
    scores, labels = scored(0)
    patients = [f"p{i}" for i in range(len(labels))]
    worse = np.random.default_rng(9).normal(0, 1, len(labels))
    found = compare_aucs({"drawn": scores, "again": scores, "worse": worse}, labels, patients)
    assert found["drawn"].value == pytest.approx(auc(scores, labels))
    assert found["drawn"].low < found["drawn"].value < found["drawn"].high
    same = found["drawn minus again"]
    assert (same.value, same.low, same.high) == (0, 0, 0)
    assert found["drawn minus worse"].low > 0
    twice = compare_aucs({"drawn": np.repeat(scores, 2)}, np.repeat(labels, 2), np.repeat(patients, 2))
    assert twice["drawn"] == found["drawn"]  # two studies of a patient that agree tell no more than one
    assert compare_aucs({"drawn": scores[:4]}, labels[:4], patients[:4])["drawn"].low is None


def test_logistic_regression_is_at_the_minimum_of_its_loss():
    rng = np.random.default_rng(0)
    features = rng.normal(5, 3, (80, 4))
    labels = features[:, 1] + rng.normal(0, 2, 80) > 5
    scores = logistic(features, labels, ridge=2.0)
    x = (features - features.mean(0)) / features.std(0)
    weights = np.linalg.lstsq(np.c_[x, np.ones(80)], scores(features), rcond=None)[0]
    wrong = 1 / (1 + np.exp(-scores(features))) - labels
    np.testing.assert_allclose(x.T @ wrong + 2.0 * weights[:4], 0, atol=1e-4)
    assert wrong.sum() == pytest.approx(0, abs=1e-4)
    assert auc(scores(features), labels) > 0.8


def small_net():
    return nn.Sequential(nn.Conv3d(1, 4, 3, 2), nn.ReLU(), nn.AdaptiveMaxPool3d(1), nn.Flatten(), nn.Linear(4, 1))


def spotted(count, seed):
    """CTs with and without a bright spot somewhere."""
    rng = np.random.default_rng(seed)
    cts = torch.from_numpy(rng.normal(-0.5, 0.05, (count, 12, 14, 10))).half()
    labels = [bool(i % 3 == 0) for i in range(count)]
    for ct, label in zip(cts, labels, strict=True):
        d, h, w = (int(rng.integers(2, n - 5)) for n in ct.shape)
        ct[d : d + 3, h : h + 3, w : w + 3] += 1.0 * label
    return cts, labels


def test_a_classifier_learns_what_ct_shows_and_draws_the_same_from_a_seed():
    cts, labels = spotted(24, 0)
    train = [small_net, cts, labels, 40, 4, 1e-2, 0, torch.device("cpu")]
    score = train_classifier(*train)
    unseen, truth = spotted(12, 1)
    assert auc(score(unseen), truth) > 0.9
    assert np.array_equal(score(unseen), train_classifier(*train)(unseen))


def test_the_network_is_densenet_121_and_takes_small_cts():
    cts, labels = spotted(3, 0)
    score = train_classifier(densenet, cts, labels, 1, 2, 1e-4, 0, torch.device("cpu"))
    assert np.isfinite(score(cts)).all()
    assert sum(p.numel() for p in densenet().parameters()) == pytest.approx(11.2e6, rel=0.02)


@pytest.fixture
def split_anew(workshop, elsewhere):
    """A store of the phantoms with labels and splits of one's own."""

    def make(splits, labels):
        store = Path("store")
        store.mkdir()
        for path in workshop.store.iterdir():
            if path.name in ("volumes", "xrays", "conversion.json"):
                (store / path.name).symlink_to(path)
        lines = [json.loads(line) for line in (workshop.store / "manifest.jsonl").read_text().splitlines()]
        for line, split, label in zip(lines, splits, labels, strict=True):
            line["split"], line["about"] = split, {"large_heart": label}
        (store / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        content = torch.load(workshop.ddpm_ckpt, weights_only=True)
        del content["xray2ctpa"]["trained_on"]  # it was trained on some of those who are held out here
        torch.save(content, "last.ckpt")
        return ["dataset.store=store", workshop.data, "ckpt=last.ckpt", "steps=1", "device=cpu"]

    return make


SPLITS = ["train", "train", "train", "val", "val"]


def test_the_command_compares_real_and_drawn_cts_and_x_rays(split_anew, monkeypatch, caplog):
    monkeypatch.setattr(evaluate_task, "densenet", small_net)
    settings = [*split_anew(SPLITS, "10110"), "target=large_heart", "epochs=2", "common_grid=20"]
    with caplog.at_level("INFO"):
        run(evaluate_task, *settings)
    found = json.loads(Path("outputs/task/task.json").read_text())
    assert found["trained on"] == 3
    cases = found["cases"].values()
    assert [case["label"] for case in cases] == [True, False]
    for name in ("real", "drawn", "xray"):
        assert found["auc"][name]["value"] == auc([case[name] for case in cases], [True, False])
        assert f"AUC {name}" in caplog.text
    assert "drawn minus xray" in found["auc"]
    monkeypatch.setattr(Evaluation, "compare", lambda *_: pytest.fail("drawn anew"))
    run(evaluate_task, *settings)
    assert json.loads(Path("outputs/task/task.json").read_text()) == found


@pytest.mark.parametrize(
    ("splits", "labels", "change", "said"),
    [
        (SPLITS, "10111", "target=large_heart", ("split=val", "2 with", "0 without")),
        (SPLITS, "10110", "target=lesion", ("target=lesion", "target, large_heart", "pairs.csv")),
        (SPLITS, "10120", "target=large_heart", ("1 or 0", "got 2")),
        (SPLITS, "10110", "split=train", ("split=train", "not seen", "val or test")),
    ],
)
def test_what_cannot_be_asked(splits, labels, change, said, split_anew, refused):
    message = refused(evaluate_task, *split_anew(splits, labels), "target=large_heart", change)
    assert all(words in message for words in said)
    assert not Path("outputs").exists()


def test_phantoms_have_labels(workshop):
    store = VolumeStore(workshop.store)
    assert set(labels_of(store.cases, "large_heart")) == set(labels_of(store.cases, "target"))
