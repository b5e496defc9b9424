"""A user's mistake ends in one message that names file or setting and the remedy: status 2, no traceback."""

import gzip
import json
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

import encode_latents
import make_phantom_data
import prepare_data
import train_ddpm_patches_4gpu
import train_vqgan_patches_4gpu
from dataset.store.store import VolumeStore
from tests.tiny import encode, run


def break_pairs(root):
    """Spoil four of five pairs, each in another way; returns case -> file that the user should hear of."""
    ids = sorted(p.name for p in root.iterdir() if p.is_dir())
    missing, cut, text, nan = ids[:4]
    (root / missing / f"{missing}_pa_drr.png").unlink()
    ct = root / cut / f"{cut}.nii.gz"
    ct.write_bytes(ct.read_bytes()[: ct.stat().st_size // 2])
    (root / text / f"{text}_pa_drr.png").write_text("not an image")
    path = root / nan / f"{nan}.nii.gz"
    image = nib.load(path)
    voxels = image.get_fdata(dtype=np.float32)
    voxels[3, 4, 5] = np.nan
    nib.save(nib.Nifti1Image(voxels, image.affine), path)
    return {missing: "_pa_drr.png", cut: f"{cut}.nii.gz", text: f"{text}_pa_drr.png", nan: f"{nan}.nii.gz"}


@pytest.mark.parametrize("layout", ["table", "folders"])
def test_all_bad_pairs_of_a_data_set_are_listed_together(layout, tiny_data, tmp_path, refused):
    root = tmp_path / "data"
    shutil.copytree(tiny_data.root, root, ignore=shutil.ignore_patterns("store"))
    if layout == "folders":
        (root / "pairs.csv").unlink()
    bad = break_pairs(root)
    message = refused(prepare_data, f"dataset.root={root}", "dataset.prepare_workers=0", "strict=true")
    rows = [line for line in message.splitlines() if line.startswith("phantom")]
    assert [row.split()[0] for row in rows] == sorted(bad)
    for row, (case, file) in zip(rows, sorted(bad.items()), strict=True):
        assert case in row
        assert file in row
    assert "NaN" in rows[3]
    run(prepare_data, f"dataset.root={root}", "dataset.prepare_workers=0")  # not strict: the good case is there
    manifest = (root / "store" / "manifest.jsonl").read_text().splitlines()
    assert [json.loads(line)["patient_id"] for line in manifest] == ["phantom0004"]
    assert all(row in (root / "store" / "report.txt").read_text() for row in rows)


def test_prepare_shows_the_table_also_when_it_goes_on(tiny_data, tmp_path, caplog):
    root = tmp_path / "data"
    shutil.copytree(tiny_data.root, root, ignore=shutil.ignore_patterns("store"))
    break_pairs(root)
    with caplog.at_level("INFO"):
        run(prepare_data, f"dataset.root={root}", "dataset.prepare_workers=0")
    assert "1 good cases, 4 left out, 4 problems" in caplog.text
    assert "phantom0003.nii.gz" in caplog.text


@pytest.mark.parametrize("script", [train_ddpm_patches_4gpu, train_vqgan_patches_4gpu])
def test_a_patch_that_the_codec_cannot_divide(script, workshop, elsewhere, refused):
    settings = workshop.ddpm if script is train_ddpm_patches_4gpu else workshop.vqgan
    message = refused(script, *settings, "model.patch_size=[130,128,128]")
    assert "multiples of 4" in message
    assert "[130, 128, 128]" in message
    assert "[128, 128, 128]" in message  # nearest


@pytest.mark.parametrize("wrong", ["dataset.hu_window=[-1000]", "dataset.hu_window=1000", "model.patch_draw=gird"])
def test_values_that_mean_nothing(wrong, workshop, elsewhere, refused):
    message = refused(train_ddpm_patches_4gpu, *workshop.ddpm, wrong)
    assert "must be" in message
    assert wrong.partition("=")[0].partition(".")[2] in message
    assert wrong.partition("=")[2] in message


@pytest.mark.parametrize("more", [["check=true"], []], ids=["checked", "trained"])
@pytest.mark.parametrize("taken", ["~module.lr_schedule.final", "~module.lr_schedule.warmup_steps"])
@pytest.mark.parametrize("stage", ["vqgan", "ddpm"])
def test_a_part_of_the_optimization_that_lacks_a_setting(stage, taken, more, workshop, elsewhere, refused):
    script = {"vqgan": train_vqgan_patches_4gpu, "ddpm": train_ddpm_patches_4gpu}[stage]
    message = refused(script, *getattr(workshop, stage), taken, *more)
    assert taken in message
    assert repr(taken.rpartition(".")[2]) in message


def test_more_processes_than_gpus(workshop, elsewhere, refused, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("NGPU", "4")
    message = refused(train_ddpm_patches_4gpu, *workshop.ddpm)
    assert "NGPU=4" in message
    assert "set NGPU=2" in message


def test_no_data_set_there(elsewhere, refused):
    assert "/nowhere" in refused(prepare_data, "dataset.root=/nowhere")
    assert "dataset.root=/nowhere" in refused(train_vqgan_patches_4gpu, "dataset.root=/nowhere")
    assert not Path("/nowhere").exists()


def test_fewer_patches_than_a_batch(workshop, elsewhere, refused):
    message = refused(train_ddpm_patches_4gpu, *workshop.ddpm, "model.batch_size=100")
    assert "8 patches" in message
    assert "model.batch_size" in message


def test_no_vqgan_yet(workshop, elsewhere, refused):
    for script in (train_ddpm_patches_4gpu, encode_latents):
        message = refused(script, workshop.data, "xray_encoder=tiny_random", "model.patch_size=[16,16,16]")
        assert "outputs/vqgan_patches_4gpu/checkpoints/last.ckpt" in message
        assert "launch_vqgan_patches_4gpu.sh" in message


def test_a_broken_vqgan_checkpoint(workshop, elsewhere, refused):
    whole = workshop.vqgan_ckpt.read_bytes()
    Path("cut.ckpt").write_bytes(whole[: len(whole) // 2])
    message = refused(train_ddpm_patches_4gpu, *workshop.ddpm, "model.vqgan_ckpt=cut.ckpt")
    assert "cut.ckpt is not a readable checkpoint" in message


def test_latents_of_another_codec(workshop, tiny_latents, elsewhere, refused):
    made_by = json.loads((tiny_latents / "latents.json").read_text())["codec_hash"]
    run(train_vqgan_patches_4gpu, *workshop.vqgan, "seed=7")
    other = "model.vqgan_ckpt=outputs/vqgan_patches_4gpu/checkpoints/last.ckpt"
    message = refused(train_ddpm_patches_4gpu, *workshop.ddpm, other, f"dataset.latents_dir={tiny_latents}")
    assert made_by in message
    assert len(set(re.findall("[0-9a-f]{64}", message))) == 2
    assert "overwrite=true" in message
    message = refused(encode_latents, *workshop.encode, other, f"dataset.latents_dir={tiny_latents}")
    assert "overwrite=true" in message


def test_latents_that_are_wanted_but_not_there(workshop, elsewhere, refused):
    message = refused(train_ddpm_patches_4gpu, *workshop.ddpm, "dataset.latents=always", "dataset.latents_dir=none")
    assert "encode_latents.py" in message
    assert "auto" in refused(train_ddpm_patches_4gpu, *workshop.ddpm, "dataset.latents=sometimes")


def test_latents_that_were_made_for_smaller_patches(workshop, elsewhere, refused):
    encode(workshop, elsewhere)
    larger = ["model.patch_size=[16,40,16]", f"dataset.latents_dir={elsewhere}"]  # no volume is 40 high
    message = refused(train_ddpm_patches_4gpu, *workshop.ddpm, *larger)
    assert "smaller patches" in message
    assert "encode_latents.py" in message
    run(encode_latents, *workshop.encode, *larger)
    run(train_ddpm_patches_4gpu, *workshop.ddpm, *larger, "check=true")


def test_phantoms_never_mix_with_other_data(tiny_data, elsewhere, refused):
    message = refused(make_phantom_data, f"dataset.root={tiny_data.root}", "dataset.phantom.num_cases=9")
    assert "other settings" in message
    Path("pairs.csv").write_text("patient_id,ct,xray\n")
    assert "not of phantoms" in refused(make_phantom_data, "dataset.root=.")


def test_a_loss_that_is_no_number_stops_training_and_leaves_the_batch(workshop, elsewhere, refused):
    message = refused(train_ddpm_patches_4gpu, *workshop.ddpm, "model.train_lr=1e30", "model.warmup_steps=0")
    assert "the loss became" in message
    path = next(Path("outputs/ddpm_4gpu_patches").glob("bad_batch_step*_rank0.pt"))
    assert str(path) in message
    assert torch.load(path, weights_only=True)["ct"].shape == (2, 1, 16, 16, 16)


def test_a_store_that_lost_a_volume(tiny_data, workshop, elsewhere, refused):
    shutil.copytree(tiny_data.store, "store", ignore=shutil.ignore_patterns("latents"))
    (val,) = VolumeStore("store").split("val")
    Path("store", "volumes", f"{val.patient_id}.b2nd").unlink()
    settings = [*workshop.ddpm, "dataset.store=store", "resume=never"]
    for workers in (0, 1):
        message = refused(train_ddpm_patches_4gpu, *settings, f"model.num_workers={workers}")
        assert f"{val.patient_id}.b2nd" in message
        assert "Run prepare_data.py again" in message


def test_a_damaged_gzip_header_is_not_a_crash(tiny_data, tmp_path, refused):
    root = tmp_path / "data"
    shutil.copytree(tiny_data.root / "phantom0000", root / "phantom0000")
    (root / "phantom0000" / "phantom0000.nii.gz").write_bytes(gzip.compress(b"no NIfTI here"))
    assert "phantom0000.nii.gz" in refused(prepare_data, f"dataset.root={root}", "dataset.prepare_workers=0")
