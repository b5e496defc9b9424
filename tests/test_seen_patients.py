"""A checkpoint remembers whom it was trained on: nobody who was is held out later, by whatever way of splitting."""

import json
import shutil

import pytest

import evaluate_ddpm_patches
import evaluate_task
import export_model
import make_phantom_data
import train_ddpm_patches_4gpu
from dataset.store.store import MANIFEST, VolumeStore
from pipeline.checkpoints.seen import DIGITS, mark
from tests.tiny import DDPM_CKPT, PHANTOM, load, run

SEEN = "was trained on 1 of the 1 patients that are held out here"


@pytest.fixture
def split_anew(workshop, elsewhere):
    """A copy of the store in which a training patient and the validating one have changed places."""
    store = elsewhere / "store"
    shutil.copytree(workshop.store, store)
    cases = [json.loads(line) for line in (store / MANIFEST).read_text().splitlines()]
    was_val = next(case for case in cases if case["split"] == "val")
    was_train = next(case for case in cases if case["split"] == "train")
    was_val["split"], was_train["split"] = "train", "val"
    (store / MANIFEST).write_text("".join(json.dumps(case) + "\n" for case in cases))
    return [f"dataset.store={store}", "dataset.latents=never"]


def test_a_checkpoint_remembers_its_patients_and_an_export_does_not(workshop, elsewhere):
    training = VolumeStore(workshop.store).split("train")
    expected = sorted(map(mark, training))
    assert len(set(expected)) == len(training)
    assert not set(expected) & {case.source_hash[:DIGITS] for case in training}
    for path in (workshop.ddpm_ckpt, workshop.vqgan_ckpt):
        assert load(path)["xray2ctpa"]["trained_on"] == expected
    run(export_model, f"ckpt={workshop.ddpm_ckpt}", "output=model.ckpt")
    assert load("model.ckpt")["xray2ctpa"].get("trained_on") is None


def test_an_evaluation_by_patients_of_the_training_is_refused(workshop, split_anew, refused):
    settings = [f"ckpt={workshop.ddpm_ckpt}", workshop.data, *split_anew, "run_dir=evaluation", "steps=1"]
    assert SEEN in refused(evaluate_ddpm_patches, *settings)


def test_who_asks_for_the_training_patients_gets_them(workshop, elsewhere):
    settings = [f"ckpt={workshop.ddpm_ckpt}", workshop.data, "split=train", "num_cases=1", "run_dir=evaluation"]
    run(evaluate_ddpm_patches, *settings, "steps=1", "num_samples=1", "controls=false")
    assert json.loads((elsewhere / "evaluation/metrics.json").read_text())["settings"]["split"] == "train"


@pytest.mark.parametrize("how", ["init_from={ckpt} model.name=new", "checkpoint_dir={folder}"])
def test_a_training_that_would_validate_on_patients_its_weights_have_seen_is_refused(
    how, workshop, split_anew, elsewhere, refused
):
    shutil.copytree(workshop.ddpm_ckpt.parent, elsewhere / "before")
    words = how.format(ckpt=workshop.ddpm_ckpt, folder=elsewhere / "before").split()
    assert SEEN in refused(train_ddpm_patches_4gpu, *workshop.ddpm, *split_anew, *words)


def test_what_was_learned_first_is_remembered_by_what_was_trained_from_it(workshop, elsewhere):
    other = ["dataset.root=other", "seed=7"]
    run(make_phantom_data, *other, *PHANTOM)
    start = [*workshop.ddpm, *other, "dataset.prepare_workers=0", "model.max_steps=1"]
    run(train_ddpm_patches_4gpu, *start, f"init_from={workshop.ddpm_ckpt}")
    both = load(DDPM_CKPT)["xray2ctpa"]["trained_on"]
    before = load(workshop.ddpm_ckpt)["xray2ctpa"]["trained_on"]
    assert set(before) < set(both)
    assert len(both) == 2 * len(before)
    run(train_ddpm_patches_4gpu, *start, "model.max_steps=2", "resume=auto")  # goes on, without init_from
    assert load(DDPM_CKPT)["xray2ctpa"]["trained_on"] == both


def test_a_codec_that_knows_the_validating_patients_is_told(workshop, split_anew, caplog):
    run(train_ddpm_patches_4gpu, *workshop.ddpm, *split_anew, "model.max_steps=1")
    assert "was trained on 1 of the 1 patients that validate here" in caplog.text
    caplog.clear()
    run(train_ddpm_patches_4gpu, *workshop.ddpm, "model.name=again", "model.max_steps=1")
    assert "that validate here" not in caplog.text


def test_a_task_is_not_judged_by_patients_of_the_training(workshop, split_anew, elsewhere, refused):
    path = elsewhere / "store" / MANIFEST
    cases = [json.loads(line) for line in path.read_text().splitlines()]
    for number, case in enumerate(cases):
        case |= {"target": number % 2, "split": "val" if number < 2 else "train"}
    path.write_text("".join(json.dumps(case) + "\n" for case in cases))
    message = refused(evaluate_task, f"ckpt={workshop.ddpm_ckpt}", workshop.data, *split_anew, "target=target")
    assert "of the 2 patients that are held out here" in message
