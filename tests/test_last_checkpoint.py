"""When `last.ckpt` is written, and what TensorBoard shows after going on from it."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train_ddpm_patches_4gpu
from tests.test_resume import LENGTH, stop_at
from tests.tiny import DDPM_CKPT, Stopped, load, run


@pytest.mark.parametrize(("minutes", "steps"), [("1e-9", 3), ("15", None)])
def test_the_clock_says_when_to_save(minutes, steps, workshop, elsewhere):
    command = [*workshop.ddpm, f"model.checkpoint_every_minutes={minutes}"]
    with pytest.raises(Stopped):
        run(train_ddpm_patches_4gpu, *command, stop_at(3))
    assert (load(DDPM_CKPT)["global_step"] if Path(DDPM_CKPT).exists() else None) == steps


def test_curves_do_not_fold_back(workshop, elsewhere):
    command = [*workshop.ddpm, *LENGTH, "trainer.log_every_n_steps=1"]
    with pytest.raises(Stopped):
        run(train_ddpm_patches_4gpu, *command, stop_at(5))
    run(train_ddpm_patches_4gpu, *command)
    curves = EventAccumulator("outputs/ddpm_4gpu_patches/tensorboard").Reload()
    for tag in ("train/loss", "lr-AdamW", "val/loss"):
        steps = [point.step for point in curves.Scalars(tag)]
        assert steps == sorted(set(steps)), tag
    assert [point.step for point in curves.Scalars("train/loss")] == list(range(12))
    assert len(curves.Scalars("val/loss")) == 3
