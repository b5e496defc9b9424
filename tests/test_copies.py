"""A model that returns training CTs is named, one that draws afresh is not, and a look-up is scored beside it."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage

import evaluate_ddpm_patches
from common.collectives import Team
from dataset.phantom.thorax import make_phantom
from dataset.scans.volume_io import read_ct
from dataset.store.store import VolumeStore
from evaluation.common_grid import CommonGrid, to_grid
from evaluation.copies import SURE, Copying, distances, look_at, nearest, words
from evaluation.metrics import psnr
from pipeline.sampling.ct_sampler import CTSampler
from pipeline.sampling.looks import Looking
from tests.tiny import run

SPACING, WINDOW = (12.0, 12.0, 12.0), (-1000.0, 1000.0)
GRID = CommonGrid((18, 18, 18), (18.0, 18.0, 18.0))
HELD_OUT = [f"v{i}" for i in range(8)]
TRAINING = [f"t{i}" for i in range(12)]


def look(hu, spacing=SPACING):
    return look_at(np.clip(hu, *WINDOW)[None], spacing, (0, 0, 0), np.multiply(hu.shape, spacing), GRID)


@pytest.fixture(scope="module")
def patients():
    """Training CTs, those of held-out patients, and those of others, whom nobody has seen."""
    cts = [make_phantom(seed, (26, 23, 28), SPACING).hu for seed in range(28)]
    return cts[:12], cts[12:20], cts[20:]


def check(drawn, patients):
    training, held_out, _ = patients
    known = [look(hu) for hu in training]

    def of(cts):
        by = distances([look(hu) for hu in cts], known)
        return dict(zip(HELD_OUT, nearest(by, HELD_OUT, TRAINING, TRAINING), strict=True))

    return Copying.of(of(drawn), of(held_out))


def nearest_training_cts(patients):
    return [patients[0][TRAINING.index(one.name)] for one in check(patients[1], patients).real.values()]


def blurred(hu):
    return ndimage.gaussian_filter(hu.astype(float), 1.0)


class Late(Team):
    """Of processes that come one after the other."""

    def wait(self):
        pass


def test_a_process_that_comes_late_leaves_no_case_out(tmp_path):
    """It finds what the others have made meanwhile."""
    cases, made = [SimpleNamespace(name=str(i)) for i in range(7)], {}
    looking = SimpleNamespace(
        folder=tmp_path, _read=lambda case: made.get(case.name), _write=lambda case: made.setdefault(case.name, case)
    )
    for rank in range(2):
        Looking.of_cases(looking, cases, Late(rank, 2))
    assert sorted(made) == [case.name for case in cases]


@pytest.mark.parametrize("through", [lambda hu: hu, lambda hu: blurred(hu) + 40], ids=["as it is", "blurred"])
def test_a_model_that_returns_its_nearest_training_ct_is_named(patients, through):
    copies = nearest_training_cts(patients)
    found = check([through(hu) for hu in copies], patients)
    assert found.p < SURE
    assert [found.drawn[name].name for name in HELD_OUT] == [one.name for one in found.real.values()]
    assert words({"HU": found}).startswith(f"It copies training patients: {found.nearer} of 8")


def test_a_model_that_copies_now_and_then_is_named_with_the_copies_first(patients):
    found = check(nearest_training_cts(patients)[:6] + patients[2][6:], patients)
    assert found.p < SURE
    assert found.nearer >= 6
    assert set(found.closest) <= set(HELD_OUT[:6])


@pytest.mark.parametrize(
    "draw",
    [
        lambda training, fresh: fresh,
        lambda training, fresh: [blurred(hu) for hu in fresh],  # nearer to all, to none above others
        lambda training, fresh: [np.mean(training, axis=0)] * len(fresh),
    ],
    ids=["afresh", "blurred", "the mean"],
)
def test_a_model_that_draws_afresh_is_not(patients, draw):
    found = check(draw(patients[0], patients[2]), patients)
    assert found.p > SURE
    assert words({"HU": found}).startswith("No sign that it copies")


def test_held_out_patients_beside_themselves_are_as_likely_as_can_be(patients):
    found = check(patients[1], patients)
    assert (found.nearer, found.p) == (0, 1)


def test_of_few_patients_nothing_is_said(patients):
    found = check(patients[2], patients)
    few = [dict(list(some.items())[:3]) for some in (found.drawn, found.real)]
    assert words({"HU": Copying.of(*few)}).startswith("Too few patients")


def test_distances_are_of_what_both_fields_of_view_hold():
    hu = np.random.default_rng(0).normal(0, 300, (26, 23, 28))
    whole, part = look(hu), look(hu[5:-5, 4:-4, 6:-6])
    inner = part.inside & whole.inside
    assert 0 < inner.sum() < whole.inside.sum()
    expected = np.sqrt(np.square(whole.values[0] - part.values[0])[inner].mean())
    assert distances([whole], [part])[0, 0] == pytest.approx(expected, rel=1e-6)
    assert distances([whole], [whole])[0, 0] < 1e-3


def test_a_look_is_the_ct_on_the_common_grid_also_where_it_is_padded():
    hu = np.random.default_rng(0).normal(0, 300, (26, 23, 28))
    on_grid = to_grid(hu, SPACING, GRID, WINDOW).ravel()
    extent = np.multiply(hu.shape, SPACING)
    padded = np.pad(hu, [(0, 2), (0, 1), (0, 0)])
    centre = (extent - np.multiply(padded.shape, SPACING)) / 2
    for seen in (look(hu), look_at(np.clip(padded, *WINDOW)[None], SPACING, centre, extent, GRID)):
        inner = ndimage.binary_erosion(seen.inside.reshape(GRID.shape)).ravel()  # at the faces padding has a part
        np.testing.assert_allclose(seen.values[0][inner], on_grid[inner], atol=0.01)


def test_studies_of_the_own_patient_do_not_count_and_the_next_one_is_of_another():
    by = np.array([[1.0, 2.0, 3.0, 8.0]])
    (found,) = nearest(by, ["a"], ["a_1", "b_1", "b_2", "c"], ["a", "b", "b", "c"])
    assert (found.name, found.distance, found.ratio) == ("b_1", 2.0, 0.25)


@pytest.fixture
def evaluated(workshop, elsewhere):
    def evaluate(*changes):
        settings = [workshop.data, f"ckpt={workshop.ddpm_ckpt}", "run_dir=out", "split=train", "steps=1"]
        run(evaluate_ddpm_patches, *settings, "device=cpu", "anatomy=false", "copies=true", *changes)
        return json.loads(Path("out/metrics.json").read_text())

    return evaluate


def test_an_evaluation_says_it_and_scores_a_look_up(workshop, evaluated, monkeypatch):
    """A sampler that returns another training CT of the same store."""
    names = [case.name for case in VolumeStore(workshop.store).split("train")]
    real = {name: read_ct(workshop.root / name / f"{name}.nii.gz") for name in names}

    def copy(self, xray, grid, plan, seed):
        other = real[names[-1]]
        return to_grid(other.hu, other.spacing, CommonGrid(grid.shape, grid.spacing), WINDOW).round().astype(np.int16)

    monkeypatch.setattr(CTSampler, "draw", copy)
    found = evaluated("num_cases=2")
    summary, scores = found["summary"], found["scores"]
    for way in ("HU", "latent"):
        copying = found["controls"]["copies"][way]
        assert {near["name"] for near in copying["drawn"].values()} == {names[-1]}
        assert {near["name"] for near in copying["real"].values()} <= set(names)
        assert summary[f"copies_{way}"] == copying["nearer"]
    assert summary["copies_HU"] == 2
    assert max(near["ratio"] for near in found["controls"]["copies"]["HU"]["drawn"].values()) < 0.5
    assert any(sentence.startswith("Too few patients to say whether it copies") for sentence in found["verdict"])
    assert len(found["closest"]) == 4
    assert all((Path("out") / pair["picture"]).is_file() for pair in found["closest"])
    for name, volumes in scores.items():
        (lookup,) = [volume for volume in volumes if volume["of"] == "lookup"]
        assert lookup["training"] != name
        own, other = real[name], real[lookup["training"]]
        theirs = to_grid(other.hu, other.spacing, CommonGrid(own.hu.shape, own.spacing), WINDOW)
        assert lookup["scores"][0]["psnr"] == pytest.approx(psnr(theirs, own.hu, WINDOW), abs=0.01)
    assert summary["right_minus_lookup"] == pytest.approx(summary["psnr_right"] - summary["psnr_lookup"])


def test_looks_are_kept_with_the_store_and_latents_come_from_the_cache(workshop, tiny_latents, evaluated, monkeypatch):
    first = evaluated("num_cases=1", f"dataset.latents_dir={tiny_latents}")
    (folder,) = workshop.store.glob("looks_*")
    assert len(list(folder.iterdir())) == 4
    monkeypatch.setattr("pipeline.sampling.looks.Looking._write", lambda *_: pytest.fail("made anew"))
    assert evaluated("num_cases=1")["controls"]["copies"] == first["controls"]["copies"]


def test_without_training_patients_it_cannot_be_asked(workshop, elsewhere, refused, tmp_path):
    lines = [json.loads(line) for line in (workshop.store / "manifest.jsonl").read_text().splitlines()]
    (tmp_path / "store").mkdir()
    held_out = [line for line in lines if line["split"] != "train"]
    (tmp_path / "store" / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in held_out))
    message = refused(
        evaluate_ddpm_patches, f"ckpt={workshop.ddpm_ckpt}", workshop.data, f"dataset.store={tmp_path}/store",
        "copies=true",
    )  # fmt: skip
    assert "at least three" in message
