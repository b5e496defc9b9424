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
from PIL import Image

import encode_latents
import evaluate_ddpm_patches
import make_phantom_data
import prepare_data
import sample_ddpm_patches
import train_ddpm_patches_4gpu
import train_vqgan_patches_4gpu
from dataset.store import VolumeStore
from tests.tiny import encode, load, run


@pytest.fixture
def refused(capsys):
    """Runs a command that must stop, and returns what it says."""

    def refuse(script, *settings):
        with pytest.raises(SystemExit) as stop:
            run(script, *settings)
        message = capsys.readouterr().err
        assert stop.value.code == 2, message
        assert message.count("error: ") == 1, message
        assert "Traceback" not in message
        return message

    return refuse


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


def test_a_vqgan_that_moved_after_training(workshop, elsewhere, refused):
    content = load(workshop.ddpm_ckpt)
    content["xray2ctpa"]["codec"]["path"] = "/gone/last.ckpt"
    torch.save(content, "moved.ckpt")
    settings = [f"xray={workshop.xray}", "output=ct.nii.gz", "ckpt=moved.ckpt", "steps=1", "shape=[16,16,16]"]
    assert "/gone/last.ckpt" in refused(sample_ddpm_patches, *settings)
    run(sample_ddpm_patches, *settings, f"vqgan_ckpt={workshop.vqgan_ckpt}")
    assert Path("ct.nii.gz").is_file()


def test_another_vqgan_than_in_training(workshop, elsewhere, refused):
    content = load(workshop.vqgan_ckpt)
    weights = content["state_dict"]
    weights["vqgan.encoder.linear.weight"] += 1
    torch.save(content, "other.ckpt")
    settings = [f"xray={workshop.xray}", "output=ct.nii.gz", f"ckpt={workshop.ddpm_ckpt}", "vqgan_ckpt=other.ckpt"]
    message = refused(sample_ddpm_patches, *settings)
    assert "another VQ-GAN" in message
    assert load(workshop.ddpm_ckpt)["xray2ctpa"]["codec"]["hash"][:12] in message


@pytest.fixture
def drawing(workshop, elsewhere):
    """Settings of a sampling that works, by key."""
    return {"xray": workshop.xray, "output": "ct.nii.gz", "ckpt": workshop.ddpm_ckpt, "steps": 1, "shape": "[16,16,16]"}


def settings_of(values, **changes):
    return [f"{key}={value}" for key, value in (values | changes).items()]


def write_broken_checkpoints(workshop):
    whole = workshop.ddpm_ckpt.read_bytes()
    Path("text.ckpt").write_text("weights")
    Path("cut.ckpt").write_bytes(whole[: len(whole) // 2])
    torch.save({"state_dict": {}}, "foreign.ckpt")
    content = load(workshop.ddpm_ckpt)
    content["xray2ctpa"]["parts"]["denoiser"]["unet"]["dim"] = 16
    torch.save(content, "other.ckpt")


@pytest.mark.parametrize(
    ("ckpt", "said"),
    [
        ("text.ckpt", "not a readable checkpoint"),
        ("cut.ckpt", "not a readable checkpoint"),
        ("foreign.ckpt", "not a checkpoint of this project"),
        ("other.ckpt", "a network of another shape"),
        ("none.ckpt", "no ddpm checkpoint"),
        ("/", "no ddpm checkpoint"),
    ],
)
def test_a_checkpoint_that_is_none(ckpt, said, workshop, drawing, refused):
    write_broken_checkpoints(workshop)
    message = refused(sample_ddpm_patches, *settings_of(drawing, ckpt=ckpt))
    assert said in message
    assert ckpt in message


def test_a_checkpoint_of_the_other_stage(workshop, drawing, refused):
    message = refused(sample_ddpm_patches, *settings_of(drawing, ckpt=workshop.vqgan_ckpt))
    assert "'vqgan'" in message
    assert "'ddpm'" in message


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


def write_films(workshop):
    Path("text.png").write_text("not an image")
    Image.fromarray(np.arange(9, dtype=np.uint8).reshape(3, 3)).save("small.png")
    whole = workshop.xray.read_bytes()
    Path("cut.png").write_bytes(whole[: len(whole) // 2])


@pytest.mark.parametrize("film", ["text.png", "small.png", "cut.png", "none.png"])
def test_an_xray_that_is_none(film, workshop, drawing, refused):
    write_films(workshop)
    assert film in refused(sample_ddpm_patches, *settings_of(drawing, xray=film))
    assert not Path("ct.nii.gz").exists()


def test_bad_xrays_of_a_folder_are_named_together_and_the_good_ones_drawn(workshop, drawing, refused):
    write_films(workshop)
    shutil.copy(workshop.xray, "good.png")
    message = refused(sample_ddpm_patches, *settings_of(drawing, xray=".", output="cts"))
    assert all(film in message for film in ("text.png", "small.png", "cut.png"))
    assert [p.name for p in Path("cts").glob("*.nii.gz")] == ["good.nii.gz"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"output": "ct.mha"}, (".nii.gz", "ct.mha")),
        ({"output": "/proc/ct.nii.gz"}, ("/proc",)),
        ({"output": "text/ct.nii.gz"}, ("text",)),
        ({"reference": "text"}, ("text",)),
        ({"reference": "none.nii.gz"}, ("none.nii.gz",)),
        ({"sampler": "magic"}, ("'magic'", "ddim")),
        ({"mode": "magic"}, ("'magic'", "fused")),
        ({"steps": 0}, ("steps", "0")),
        ({"steps": 2000}, ("1 to 1000", "2000")),
        ({"shape": "[16,16]"}, ("shape", "[16, 16]")),
        ({"spacing": "[1,0,1]"}, ("spacing", "[1, 0, 1]")),
        ({"device": "tpu9"}, ("device", "tpu9")),
        ({"device": "cuda:7"}, ("cuda:7", "GPUs")),
    ],
    ids=str,
)
def test_a_drawing_that_cannot_be(changes, said, drawing, refused):
    Path("text").write_text("neither folder nor CT")
    message = refused(sample_ddpm_patches, *settings_of(drawing, **changes))
    assert all(words in message for words in said)


def test_a_picture_that_the_preview_would_overwrite(workshop, drawing, refused):
    shutil.copy(workshop.xray, "ct.png")
    assert "overwrite" in refused(sample_ddpm_patches, *settings_of(drawing, xray="ct.png"))


def test_an_evaluation_without_data(workshop, elsewhere, refused):
    ckpt = f"ckpt={workshop.ddpm_ckpt}"
    assert "prepare_data.py" in refused(evaluate_ddpm_patches, ckpt, "dataset.root=/nowhere")
    assert "split=test" in refused(evaluate_ddpm_patches, ckpt, workshop.data, "split=test")


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
