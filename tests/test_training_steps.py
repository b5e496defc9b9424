"""How long a training will be is known before its loaders start."""

from typing import ClassVar

import pytest
import pytorch_lightning as pl

import train_ddpm_patches_4gpu
from tests.tiny import run


class Starts(pl.Callback):
    """How long the training will be, before its loaders start and by Lightning's estimate after."""

    found: ClassVar[list[float]] = []

    def on_fit_start(self, trainer, pl_module):
        assert not trainer.datamodule._loaders
        self.found[:] = [trainer.datamodule.training_steps()]

    def on_train_start(self, trainer, pl_module):
        assert trainer.datamodule._loaders
        self.found.append(trainer.estimated_stepping_batches)


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        (["model.max_epochs=2"], 8),
        (["model.max_epochs=3", "model.max_steps=5"], 5),
        (["model.max_epochs=-1", "model.max_steps=2"], 2),
        (["model.max_epochs=2", "model.batch_size=1", "model.effective_batch=3"], 6),
        (["model.max_epochs=2", "+trainer.limit_train_batches=3"], 6),
        (["model.max_epochs=2", "+trainer.limit_train_batches=0.5"], 4),
    ],
)
def test_the_schedule_knows_its_steps_before_loaders_start(settings, steps, workshop, elsewhere):
    """Else their threads would ask things of the GPU while a step is recorded."""
    run(
        train_ddpm_patches_4gpu,
        *workshop.ddpm,
        *settings,
        "+callbacks.starts={_target_: tests.test_training_steps.Starts}",
    )
    assert Starts.found == [steps, steps]
