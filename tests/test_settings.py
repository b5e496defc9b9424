"""Settings that cannot be are refused before the training, by the command and by check=true, in one message."""

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import train_ddpm_patches_4gpu
import train_vqgan_patches_4gpu
from pipeline.settings import check_kinds
from pipeline.versions import versions
from tests.test_configs import choices, composed
from tests.tiny import run


def test_every_shipped_model_is_of_the_right_kinds():
    for model in choices("model"):
        check_kinds(composed(f"train_{model.split('_')[0].replace('gpu', '')}", f"model={model}", "dataset.root=/data"))


@pytest.mark.parametrize(
    ("setting", "rule"),
    [
        ("model.patch_size=96", "model.patch_size must be a list of numbers, such as [128, 128, 128]; got 96"),
        ("model.patch_size=[64,64]", "patch_size needs three"),
        ("model.stride=64", "model.stride needs three"),
        ("model.stride=[8,8]", "model.stride needs three numbers"),
        ("model.batch_size=two", "model.batch_size must be a whole number, such as 2; got 'two'"),
        ("model.batch_size=1.5", "model.batch_size must be a whole number, such as 2; got 1.5"),
        ("model.batch_size=null", "model.batch_size must be a whole number"),
        ("model.dim_mults=4", "model.dim_mults must be a list of numbers"),
        ("model.cond=pooled", "model.cond must be a list, such as ['pooled', 'tokens', 'lifted']; got 'pooled'"),
        ("model.compile=yes please", "model.compile must be true or false"),
        ("model.train_lr=fast", "model.train_lr must be a number"),
        ("dataset.hu_window=5", "dataset.hu_window must be a list of numbers, such as [-1000, 1000]; got 5"),
        ("dataset.hu_window=[100,-100]", "hu_window"),
        ("model.val_patches_per_volume=0", "model.val_patches_per_volume must be a whole number from 1, got 0"),
        ("model.val_every_n_epochs=0", "model.val_every_n_epochs must be a whole number from 1, got 0"),
    ],
)
def test_a_value_that_cannot_be_is_one_message(setting, rule, workshop, elsewhere, refused):
    assert rule in refused(train_ddpm_patches_4gpu, *workshop.ddpm, setting)


@pytest.mark.parametrize(
    "setting", ["dataset.xray_fov_mm=380.5", "dataset.hu_window=[-1000.5,1000]", "model.train_lr=1"]
)
def test_a_value_of_another_number_type_is_taken(setting, elsewhere):
    check_kinds(composed("train_ddpm", "dataset.root=/data", setting))


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("model.ema_decay=2", "decay"),
        ("model.precision=12", "12"),
        ("model.train_lr=-1", "learning rate"),
        ("model.warmup_steps=-1", "warmup_steps"),
    ],
)
def test_check_builds_what_a_training_needs(setting, named, workshop, elsewhere, refused):
    message = refused(train_ddpm_patches_4gpu, *workshop.ddpm, "check=true", setting)
    assert named in message
    assert list(elsewhere.iterdir()) == []


def test_check_reads_an_item(workshop, elsewhere, refused, monkeypatch):
    def unreadable(*_):
        raise ValueError("this volume is damaged")

    monkeypatch.setattr("dataset.store.VolumeStore.read_hu", unreadable)
    for script, settings in (
        (train_ddpm_patches_4gpu, workshop.ddpm),
        (train_vqgan_patches_4gpu, workshop.vqgan),
    ):
        assert "this volume is damaged" in refused(script, *settings, "check=true")


def test_a_run_keeps_its_settings_and_versions(workshop):
    folder = Path(workshop.folder) / "outputs" / "ddpm_4gpu_patches"
    assert OmegaConf.load(folder / "config.yaml").model.dim == 8
    assert json.loads((folder / "versions.json").read_text()) == versions()


def test_check_leaves_nothing_behind(workshop, elsewhere, caplog):
    with caplog.at_level("INFO"):
        run(train_ddpm_patches_4gpu, *workshop.ddpm, "check=true")
    assert "in order" in caplog.text
    assert list(elsewhere.iterdir()) == []
