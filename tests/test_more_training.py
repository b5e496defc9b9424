"""A training that has ended: nothing is done again, and more steps or epochs go on from it exactly."""

from pathlib import Path

import pytest

import train_ddpm_patches_4gpu
from tests.test_resume import LENGTH, RECORD, assert_same
from tests.tiny import DDPM_CKPT, DDPM_FOLDER, Record, load, run


@pytest.fixture(scope="module")
def uninterrupted(workshop, tmp_path_factory):
    """The last checkpoint of a training of three epochs, and the draws of its steps."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    run(train_ddpm_patches_4gpu, *workshop.ddpm, *LENGTH, f"run_dir={folder}", f"checkpoint_dir={folder}")
    return load(folder / "last.ckpt"), list(Record.seen)


def test_a_finished_training_is_left_alone(workshop, elsewhere):
    run(train_ddpm_patches_4gpu, *workshop.ddpm)
    before = {p: p.read_bytes() for p in Path(DDPM_FOLDER).iterdir()}
    run(train_ddpm_patches_4gpu, *workshop.ddpm, RECORD)
    assert Record.seen == []
    assert {p: p.read_bytes() for p in Path(DDPM_FOLDER).iterdir()} == before


@pytest.mark.parametrize("steps", [2, 4, 6])
def test_more_steps_go_on_from_a_finished_training(steps, workshop, uninterrupted, elsewhere):
    run(train_ddpm_patches_4gpu, *workshop.ddpm, *LENGTH, f"model.max_steps={steps}")
    assert load(DDPM_CKPT)["global_step"] == steps
    run(train_ddpm_patches_4gpu, *workshop.ddpm, *LENGTH, "model.max_steps=12")
    assert Record.seen == uninterrupted[1][steps:]
    assert_same(load(DDPM_CKPT), uninterrupted[0])


def test_the_last_epoch_is_kept_where_none_was_validated(workshop, elsewhere):
    run(train_ddpm_patches_4gpu, *workshop.ddpm, "model.val_every_n_epochs=2", "model.max_epochs=3")
    assert load(DDPM_CKPT)["global_step"] == 12


def test_a_finished_training_says_which_limit_it_has_reached(workshop, elsewhere, caplog):
    run(train_ddpm_patches_4gpu, *workshop.ddpm)
    with caplog.at_level("INFO"):
        run(train_ddpm_patches_4gpu, *workshop.ddpm, "model.max_steps=6")
    assert "step 4: model.max_epochs=1 is reached, a higher one trains on" in caplog.text
    assert "GPU available" in caplog.text
    assert "Tip" not in caplog.text  # of Lightning, for a cloud


def test_more_epochs_go_on_from_a_finished_training(workshop, uninterrupted, elsewhere):
    run(train_ddpm_patches_4gpu, *workshop.ddpm, *LENGTH, "model.max_epochs=1")
    run(train_ddpm_patches_4gpu, *workshop.ddpm, *LENGTH)
    assert_same(load(DDPM_CKPT), uninterrupted[0])
