"""Files that training read may lie elsewhere later: what a network is, its tensors tell, not their path."""

import shutil
from pathlib import Path

import pytest
import torch

import evaluate_ddpm_patches
import export_model
import sample_ddpm_patches
import train_ddpm_patches_4gpu
from medclip_cond.biomedclip import FILE
from tests.test_pretrained_encoders import random_timm_vit
from tests.tiny import DDPM_CKPT, built_ddpm, load, run

TRAINING = ["xray_encoder=biomedclip", "model.max_steps=1"]


def training(workshop, weights):
    kept = [setting for setting in workshop.ddpm if not setting.startswith("xray_encoder")]
    return [*kept, *TRAINING, f"xray_encoder.weights={weights}"]


@pytest.fixture
def trained(workshop, elsewhere):
    """A training whose X-ray encoder was named by a relative path."""
    (elsewhere / "encoder").mkdir()
    torch.save(random_timm_vit(), elsewhere / "encoder" / FILE)
    run(train_ddpm_patches_4gpu, *training(workshop, "encoder"))
    return elsewhere


def sampling(workshop, folder, output="ct.nii.gz"):
    return [f"xray={workshop.xray}", f"ckpt={folder}/{DDPM_CKPT}", f"output={output}", "steps=1"]


def test_a_relative_path_holds_in_every_folder(workshop, trained, monkeypatch):
    (trained / "another").mkdir()
    monkeypatch.chdir(trained / "another")
    run(sample_ddpm_patches, *sampling(workshop, trained))
    assert Path("ct.nii.gz").is_file()


def test_a_training_goes_on_with_its_encoder_in_another_folder(workshop, trained, refused):
    shutil.move(trained / "encoder", trained / "moved")
    assert built_ddpm(*training(workshop, "moved")).resume_from == DDPM_CKPT
    state = random_timm_vit()
    state["visual.head.proj.weight"] += 1
    torch.save(state, trained / "moved" / FILE)
    assert "encoder_hash" in refused(train_ddpm_patches_4gpu, *training(workshop, "moved"))


def test_a_trained_model_is_told_where_its_encoder_is_now(workshop, trained, refused):
    shutil.move(trained / "encoder", trained / "moved")
    assert "xray_weights" in refused(sample_ddpm_patches, *sampling(workshop, trained))
    run(sample_ddpm_patches, *sampling(workshop, trained), "xray_weights=moved")
    assert Path("ct.nii.gz").is_file()
    ckpt = f"ckpt={DDPM_CKPT}"
    run(evaluate_ddpm_patches, workshop.data, ckpt, "xray_weights=moved", "run_dir=evaluation", "steps=1")
    assert Path("evaluation/metrics.json").is_file()
    run(export_model, ckpt, "xray_weights=moved", "output=model.ckpt")
    assert Path("model.ckpt").is_file()


def test_other_weights_are_not_taken_for_it(workshop, trained, refused):
    torch.save(random_timm_vit() | {"visual.head.proj.weight": torch.zeros(16, 128)}, trained / "other.bin")
    message = refused(sample_ddpm_patches, *sampling(workshop, trained), "xray_weights=other.bin")
    assert "another X-ray encoder" in message
    assert "in other.bin: xray_weights= takes" in message


def test_an_encoder_without_weights_takes_none(workshop, elsewhere, refused):
    message = refused(sample_ddpm_patches, *sampling(workshop, workshop.folder), "xray_weights=moved")
    assert "TinyRandomEncoder" in message
    assert "leave xray_weights out" in message


def test_a_checkpoint_names_its_encoders_weights_in_full(trained):
    assert load(DDPM_CKPT)["xray2ctpa"]["parts"]["xray_encoder"]["weights"] == str((trained / "encoder").resolve())
