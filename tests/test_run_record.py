"""What a run folder says of how its results came about."""

import hashlib
import json

import pytest
import torch
from omegaconf import OmegaConf

import evaluate_ddpm_patches
import train_ddpm_patches_4gpu
import train_vqgan_patches_4gpu
from pipeline.versions import versions
from tests.tiny import run

CODE = ("--- a/ddpm/module.py\n", ["ddpm/new.py"])


@pytest.fixture
def changed(monkeypatch):
    """Code that is not that of its commit, on a machine with two GPUs that nobody uses."""
    monkeypatch.setattr("pipeline.run_record.changes", lambda: CODE)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: f"GPU {i}")


def about(folder):
    return json.loads((folder / "run.json").read_text())


@pytest.mark.parametrize("stage", ["vqgan", "ddpm"])
def test_a_run_folder_tells_how_it_came_about(stage, workshop, elsewhere, changed):
    script = {"vqgan": train_vqgan_patches_4gpu, "ddpm": train_ddpm_patches_4gpu}[stage]
    run(script, *getattr(workshop, stage), "seed=7", "run_dir=run", "model.max_steps=1", "trainer.accelerator=cpu")
    manifest = workshop.store / "manifest.jsonl"
    for folder in (elsewhere / "run", elsewhere / "run/starts/step00000000"):
        told = about(folder)
        assert told.pop("date") > "2026"
        assert told.pop("command").startswith(f"{script.__name__}.py dataset.root=")
        assert told == {
            "step": 0,
            "seed": 7,
            "processes": 1,
            "gpus": ["GPU 0", "GPU 1"],
            "manifest_sha256": hashlib.sha256(manifest.read_bytes()).hexdigest(),
            "versions": versions(),
            "new_files": CODE[1],
        }
        cfg = OmegaConf.load(folder / "config.yaml")
        assert cfg.seed == 7
        assert "${" not in (folder / "config.yaml").read_text()
        assert (folder / "changes.diff").read_text() == CODE[0]
    assert json.loads((elsewhere / "run/versions.json").read_text()) == versions()


def test_a_training_that_goes_on_keeps_what_it_was_started_with(workshop, elsewhere):
    words = [*workshop.ddpm, "run_dir=run", "checkpoint_dir=run"]
    for more in (["model.max_epochs=1"], ["model.max_epochs=2", "model.train_lr=0.5"]):
        run(train_ddpm_patches_4gpu, *words, *more)
    starts = sorted((elsewhere / "run/starts").iterdir())
    rates = [OmegaConf.load(folder / "config.yaml").model.train_lr for folder in starts]
    assert [about(folder)["step"] for folder in starts] == [0, 4]
    assert rates == [1e-4, 0.5]
    assert OmegaConf.load(elsewhere / "run/config.yaml").model.train_lr == 0.5
    run(train_ddpm_patches_4gpu, *words, "resume=never")
    assert [folder.name for folder in (elsewhere / "run/starts").iterdir()] == ["step00000000"]


def test_an_evaluation_has_the_same(workshop, elsewhere):
    run(evaluate_ddpm_patches, workshop.data, f"ckpt={workshop.ddpm_ckpt}", "steps=1", "num_cases=1")
    assert about(elsewhere / "outputs/evaluation")["versions"] == versions()
    assert OmegaConf.load(elsewhere / "outputs/evaluation/config.yaml").steps == 1


def test_no_store_has_no_manifest(workshop, elsewhere):
    run(train_ddpm_patches_4gpu, *workshop.ddpm, "dataset.store=null", "run_dir=run", "model.max_steps=1")
    assert about(elsewhere / "run")["manifest_sha256"] is None
