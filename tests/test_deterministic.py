"""`deterministic=true`: two trainings are one."""

import os

import pytest
import pytorch_lightning as pl
import torch

import train_ddpm_patches_4gpu
import train_vqgan_patches_4gpu
from common.tensor_hash import hash_of, tensors_of
from tests.tiny import composed, load, run

STAGES = {"vqgan": train_vqgan_patches_4gpu, "ddpm": train_ddpm_patches_4gpu}


class Flags(pl.Callback):
    """Writes down how torch computes in training."""

    seen: tuple = ()

    def on_train_batch_start(self, *_):
        on = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
        Flags.seen = (*on, os.environ.get("CUBLAS_WORKSPACE_CONFIG"))


@pytest.fixture(autouse=True)
def _as_before():
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("stage", STAGES)
def test_two_trainings_have_the_same_bits(stage, workshop, elsewhere):
    flags = "+callbacks.flags={_target_: tests.test_deterministic.Flags}"
    hashes = []
    for name in ("one", "other"):
        words = [*getattr(workshop, stage), "model.num_workers=2", "deterministic=true", flags]
        run(STAGES[stage], *words, f"run_dir={name}", f"checkpoint_dir={name}")
        assert Flags.seen == (True, False, ":4096:8")
        stored = load(elsewhere / name / "last.ckpt")
        assert stored["global_step"] == 4
        average = {key: state for key, state in stored["callbacks"].items() if key.startswith("WeightAverage")}
        hashes.append(hash_of(tensors_of([stored["state_dict"], stored["optimizer_states"], average])))
    assert hashes[0] == hashes[1]


def test_on_a_gpu_what_has_no_such_form_is_told_and_not_refused(monkeypatch):
    assert composed("train_ddpm", "dataset.root=.", "deterministic=true").trainer.deterministic is True
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    cfg = composed("train_ddpm", "dataset.root=.", "deterministic=true", "model.precision=32")
    assert cfg.trainer.deterministic == "warn"
    assert composed("train_ddpm", "dataset.root=.", "model.precision=32").trainer.deterministic is False
