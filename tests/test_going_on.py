"""What a training must not go on from in silence: weights that are no numbers, other cases, another fold."""

import math
import shutil
from pathlib import Path

import pytest
import pytorch_lightning as pl

import train_ddpm_patches_4gpu
import train_vqgan_patches_4gpu
from tests.test_resume import stop_at
from tests.tiny import DDPM_CKPT, VQGAN_CKPT, Stopped, load, run


class SpoilGradient(pl.Callback):
    """Makes a gradient infinite in one step, as low precision may; the loss of that step is a number."""

    def on_after_backward(self, trainer, pl_module):
        if trainer.global_step == 2:
            next(pl_module.parameters()).grad[:] = math.inf


@pytest.mark.parametrize("stage", ["ddpm", "vqgan"])
def test_spoiled_weights_replace_no_checkpoint(stage, workshop, elsewhere, refused):
    scripts = {"ddpm": (train_ddpm_patches_4gpu, DDPM_CKPT), "vqgan": (train_vqgan_patches_4gpu, VQGAN_CKPT)}
    script, ckpt = scripts[stage]
    command = [*getattr(workshop, stage), "model.checkpoint_every_n_steps=1"]
    message = refused(script, *command, "+callbacks.spoil={_target_: tests.test_going_on.SpoilGradient}")
    assert "the weights became NaN or infinite by step 3" in message
    assert load(ckpt)["global_step"] == 2
    run(script, *command)
    assert load(ckpt)["global_step"] == 4


def test_cases_that_have_changed_are_told_when_a_training_goes_on(workshop, elsewhere, caplog):
    command = [*workshop.ddpm, "dataset.store=store", "model.max_epochs=2"]
    shutil.copytree(workshop.store, "store")
    said = "the cases of training are not those that this training has had so far"
    for _ in range(2):
        with caplog.at_level("INFO"), pytest.raises(Stopped):
            run(train_ddpm_patches_4gpu, *command, stop_at(4))
    assert said not in caplog.text
    manifest = Path("store/manifest.jsonl")
    manifest.write_text("".join(line for line in manifest.open() if "phantom0000" not in line))
    with caplog.at_level("INFO"):
        run(train_ddpm_patches_4gpu, *command)
    assert said in caplog.text


def test_another_fold_does_not_go_on_where_its_patients_were_trained_on(workshop, elsewhere, refused):
    fold = ["dataset.folds=2", "dataset.fold=0", "dataset.store=store", "dataset.prepare_workers=0"]
    message = refused(train_ddpm_patches_4gpu, *workshop.ddpm, f"checkpoint_dir={workshop.ddpm_ckpt.parent}", *fold)
    assert "dataset.fold: None in the checkpoint, 0 now" in message
