"""What the first version wrote still loads, and draws the same CT: checkpoints of both stages, an export, a store.

tests/data/first_version was made at commit 25cbebe with three phantoms and one epoch of each training.
"""

import hashlib
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

import sample_ddpm_patches
import train_vqgan_patches_4gpu
from common.checkpoint_key import CHECKPOINT_KEY
from dataset.store.store import VolumeStore
from dataset.xray_ctpa_patch_dataset import XrayCTPAPatchDataset
from tests.tiny import DDPM, DDPM_FOLDER, VQGAN, VQGAN_CKPT, built, built_ddpm, load, run

FIRST = Path(__file__).parent / "data" / "first_version"
EXPECTED = json.loads((FIRST / "expected.json").read_text(encoding="utf-8"))
UNUSED = {
    "global_context": False,
    "position_origin": "volume",
    "volume_extent": False,
}  # as later versions wrote it down
SETTINGS = [*DDPM, "model.lifted_channels=2", "model.lifter_widths=[4,8]", "model.training_shift=1"]
STAGE1 = [*VQGAN, "model.lapped=false", "model.l2_weight=0", "model.gradient_weight=0"]


def voxels(path):
    return np.asarray(nib.Nifti1Image.from_filename(path).dataobj)


def same_arithmetic():
    """Whether floats are added up here as they were there; elsewhere a voxel may round to its neighbour."""
    return (torch.__version__, torch.backends.cpu.get_cpu_capability()) == (EXPECTED["torch"], EXPECTED["cpu"])


@pytest.mark.parametrize(
    "settings", [["ckpt={}/ddpm.ckpt", "vqgan_ckpt={}/vqgan.ckpt"], ["ckpt={}/model.ckpt"]], ids=["stages", "export"]
)
def test_checkpoints_draw_the_same_ct(settings, tmp_path):
    draws_the_same(tmp_path, *(setting.format(FIRST) for setting in settings))


def draws_the_same(folder, *settings):
    output = folder / "ct.nii.gz"
    run(sample_ddpm_patches, f"xray={FIRST}/xray.png", f"output={output}", "steps=3", "device=cpu", *settings)
    found, expected = voxels(output).astype(int), voxels(FIRST / "drawn.nii.gz").astype(int)
    assert len(np.unique(expected)) > 100
    assert np.abs(found - expected).max() <= (0 if same_arithmetic() else 1)


def write_former(path):
    """The checkpoint of stage 2, describing its denoiser by further arguments."""
    content = load(FIRST / "ddpm.ckpt")
    content[CHECKPOINT_KEY]["parts"]["denoiser"] |= UNUSED
    content[CHECKPOINT_KEY]["parts"]["diffusion"]["loss"] = None
    torch.save(content, path)


def test_a_checkpoint_that_names_what_was_taken_out_draws_the_same_ct_and_goes_on(elsewhere, tmp_path):
    shutil.copytree(FIRST / "store", "store")
    Path(DDPM_FOLDER).mkdir(parents=True)
    write_former(f"{DDPM_FOLDER}/last.ckpt")
    draws_the_same(tmp_path, f"ckpt={DDPM_FOLDER}/last.ckpt", f"vqgan_ckpt={FIRST}/vqgan.ckpt")
    made = built_ddpm(*SETTINGS, "dataset.root=.", f"model.vqgan_ckpt={FIRST}/vqgan.ckpt", "model.max_epochs=2")
    assert made.resume_from == f"{DDPM_FOLDER}/last.ckpt"


USED = [
    ("denoiser", "global_context", True),
    ("denoiser", "position_origin", "patient"),
    ("denoiser", "volume_extent", True),
    ("diffusion", "loss", "x0"),
    (None, "latent_floor", 0.1),
]


@pytest.mark.parametrize(("part", "name", "value"), USED)
def test_a_network_that_was_trained_to_use_what_was_taken_out_is_refused(part, name, value, elsewhere, refused):
    content = load(FIRST / "ddpm.ckpt")
    described = content[CHECKPOINT_KEY]
    (described["parts"][part] if part else described)[name] = value
    torch.save(content, "used.ckpt")
    said = refused(sample_ddpm_patches, f"xray={FIRST}/xray.png", "ckpt=used.ckpt", "output=ct.nii.gz")
    assert f"used.ckpt was trained with {name}={value}, which was taken out" in said
    assert f"commit {load(FIRST / 'ddpm.ckpt')[CHECKPOINT_KEY]['versions']['commit']}" in said


def test_a_training_goes_on_from_its_checkpoint(elsewhere):
    shutil.copytree(FIRST / "store", "store")
    Path(DDPM_FOLDER).mkdir(parents=True)
    shutil.copy(FIRST / "ddpm.ckpt", f"{DDPM_FOLDER}/last.ckpt")
    made = built_ddpm(*SETTINGS, "dataset.root=.", f"model.vqgan_ckpt={FIRST}/vqgan.ckpt", "model.max_epochs=2")
    assert made.resume_from == f"{DDPM_FOLDER}/last.ckpt"


def test_a_training_of_stage_1_goes_on_from_its_checkpoint(elsewhere):
    shutil.copytree(FIRST / "store", "store")
    Path(VQGAN_CKPT).parent.mkdir(parents=True)
    shutil.copy(FIRST / "vqgan.ckpt", VQGAN_CKPT)
    made = built(train_vqgan_patches_4gpu, *STAGE1, "dataset.root=.", "model.max_epochs=2")
    assert str(made.resume_from) == VQGAN_CKPT


def test_the_store_holds_the_same_values():
    store = VolumeStore(FIRST / "store")
    volumes = {c.patient_id: store.read_hu(c, (0, 0, 0), c.shape) for c in store.cases}
    assert {k: hashlib.sha256(v.tobytes()).hexdigest() for k, v in volumes.items()} == EXPECTED["volumes"]


def test_the_dataset_draws_the_same_patches():
    store = VolumeStore(FIRST / "store")
    patches = XrayCTPAPatchDataset(
        store,
        store.split("train"),
        patch_size=[16, 16, 16],
        patches_per_volume=2,
        hu_window=(-1000, 1000),
        xray_fov_mm=400.0,
        seed=42,
        encoder_input=None,
    )
    assert len(patches) == len(EXPECTED["items"])
    for index, expected in enumerate(EXPECTED["items"]):
        item = patches[index]
        assert int(item["sample_key"]) == expected["sample_key"]
        assert item["patch_coord"].tolist() == expected["patch_coord"]
        assert hashlib.sha256(item["ct"].numpy().tobytes()).hexdigest() == expected["ct"]
        assert item["xray"].double().mean().item() == pytest.approx(expected["xray_mean"], rel=1e-6)
