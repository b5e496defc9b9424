"""Mistakes in drawing CTs: one message that names file or setting and the remedy, status 2."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sample_ddpm_patches
from pipeline.sampling import files as sample_files
from pipeline.sampling.ct_sampler import CTSampler
from tests.tiny import load, run


@pytest.fixture
def drawing(workshop, elsewhere):
    """Settings of a sampling that works, by key."""
    return {"xray": workshop.xray, "output": "ct.nii.gz", "ckpt": workshop.ddpm_ckpt, "steps": 1, "shape": "[16,16,16]"}


def settings_of(values, **changes):
    return [f"{key}={value}" for key, value in (values | changes).items()]


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
    assert "in other.ckpt" in message
    assert "vqgan_ckpt= takes a copy" in message


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


def write_films(workshop):
    Path("text.png").write_text("not an image")
    Image.fromarray(np.arange(9, dtype=np.uint8).reshape(3, 3)).save("small.png")
    whole = workshop.xray.read_bytes()
    Path("cut.png").write_bytes(whole[: len(whole) // 2])
    noise = np.random.default_rng(0).integers(0, 255, (400, 400), dtype=np.uint8)
    Image.fromarray(noise[:, :190]).save("lateral.png")
    Image.fromarray(noise[:190]).save("wide.png")
    Image.fromarray(noise[:10, :10]).save("thumbnail.png")
    Image.fromarray(np.full((400, 400), 7, dtype=np.uint8)).save("blank.png")


@pytest.mark.parametrize(
    ("film", "said"),
    [
        ("lateral.png", "0.5 and less than 2"),
        ("wide.png", "0.5 and less than 2"),
        ("thumbnail.png", "10 x 10"),
        ("blank.png", "blank"),
    ],
)
def test_an_image_that_is_no_frontal_xray(film, said, workshop, drawing, refused):
    write_films(workshop)
    message = refused(sample_ddpm_patches, *settings_of(drawing, xray=film, output="cts/ct.nii.gz"))
    assert film in message
    assert said in message
    assert list(Path("cts").iterdir()) == []


def test_an_image_of_20000_pixels_a_side(drawing, refused):
    Image.new("L", (20_000, 20_000)).save("huge.png", compress_level=1)
    message = refused(sample_ddpm_patches, *settings_of(drawing, xray="huge.png"))
    assert "huge.png" in message
    assert "million" in message


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
        ({"reference": "text", "shape": "null"}, ("text",)),
        ({"reference": "none.nii.gz", "shape": "null"}, ("none.nii.gz",)),
        ({"sampler": "magic"}, ("'magic'", "ddim")),
        ({"mode": "magic"}, ("'magic'", "fused")),
        ({"steps": 0}, ("steps", "0")),
        ({"num_samples": 0}, ("num_samples", "0")),
        ({"window_batch": 0}, ("window_batch", "0")),
        ({"latent_device": "cuda"}, ("latent_device=cuda",)),
        ({"decode_tile": 0}, ("decode_tile", "0")),
        ({"distribute": "slices"}, ("windows", "'slices'")),
        ({"guidance_interval": "[1,0]"}, ("guidance_interval", "[1, 0]")),
        ({"steps": 2000}, ("1 to 1000", "2000")),
        ({"steps": 2000, "dry_run": "true"}, ("1 to 1000", "2000")),
        ({"steps": 0, "dry_run": "true"}, ("steps", "0")),
        ({"steps": 2.5}, ("steps must be a whole number", "2.5")),
        ({"steps": "two"}, ("steps", "'two'")),
        ({"guidance": "much"}, ("guidance must be a number", "'much'")),
        ({"guidance": "nan"}, ("guidance must be a number", "nan")),
        ({"xray_fov_mm": "inf"}, ("xray_fov_mm must be", "inf")),
        ({"guidance_interval": 0.5}, ("guidance_interval must be two times", "0.5")),
        ({"guidance_interval": "[a,b]"}, ("guidance_interval", "['a', 'b']")),
        ({"num_samples": "two"}, ("num_samples", "'two'")),
        ({"decode_tile": 2.5}, ("decode_tile", "2.5")),
        ({"shape": 64}, ("shape must be null or three whole numbers", "64")),
        ({"shape": "[16,16,16.5]"}, ("shape", "16.5")),
        ({"spacing": "[1,1,wide]"}, ("spacing", "'wide'")),
        ({"shape": "null", "spacing": "[1,1]"}, ("spacing", "[1, 1]")),
        ({"reference": "like.nii.gz"}, ("reference=like.nii.gz", "shape=[16, 16, 16]")),
        ({"reference": "like.nii.gz", "shape": "null", "spacing": "1"}, ("reference", "spacing=1")),
        ({"shape": "[16,16]"}, ("shape", "[16, 16]")),
        ({"spacing": "[1,0,1]"}, ("spacing", "[1, 0, 1]")),
        ({"device": "tpu9"}, ("device", "tpu9")),
        ({"device": "meta"}, ("device", "meta")),
        ({"device": "cuda:7"}, ("cuda:7", "GPUs")),
    ],
    ids=str,
)
def test_a_drawing_that_cannot_be(changes, said, drawing, refused):
    Path("text").write_text("neither folder nor CT")
    message = refused(sample_ddpm_patches, *settings_of(drawing, **changes))
    assert all(words in message for words in said)


def test_a_denoiser_that_answers_with_nan_draws_nothing(workshop, drawing, refused):
    content = load(workshop.ddpm_ckpt)
    (average,) = (v["average"] for k, v in content["callbacks"].items() if k.startswith("WeightAverage"))
    for tensor in average.values():
        tensor.fill_(float("nan"))
    torch.save(content, "broken.ckpt")
    message = refused(sample_ddpm_patches, *settings_of(drawing, ckpt="broken.ckpt", steps=3))
    assert "step 1 of 3" in message
    assert "in float32" in message
    assert sorted(p.name for p in Path().iterdir()) == ["broken.ckpt"]


def test_a_decoder_that_answers_with_nan_draws_nothing(workshop, elsewhere):
    model = CTSampler(workshop.ddpm_ckpt, device="cpu")
    for parameter in model.generator.codec.vqgan.decoder.parameters():
        parameter.data.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"decoder gave NaN .*tile at voxel \(0, 0, 0\), in float32"):
        sample_ddpm_patches.sample(workshop.xray, model, "ct.nii.gz", shape=(16, 16, 16), steps=1)
    assert not list(Path().iterdir())


def test_a_codec_that_is_gone(workshop, drawing, refused):
    message = refused(sample_ddpm_patches, *settings_of(drawing, vqgan_ckpt="gone.ckpt"))
    assert "no vqgan checkpoint at gone.ckpt" in message
    assert not Path("ct.nii.gz").exists()


def test_a_folder_that_may_not_be_written(drawing, refused, monkeypatch):
    def denied(**_):
        raise PermissionError(13, "Permission denied", "locked/tmp0")

    monkeypatch.setattr(sample_files, "TemporaryFile", denied)  # a test that runs as root may write anywhere
    monkeypatch.setattr(CTSampler, "draw", lambda *_: pytest.fail("nothing is drawn"))
    assert "Permission denied: locked" in refused(sample_ddpm_patches, *settings_of(drawing, output="locked/ct.nii"))


def test_the_python_call_refuses_an_output_before_it_draws(workshop, elsewhere, monkeypatch):
    model = CTSampler(workshop.ddpm_ckpt, device="cpu")
    monkeypatch.setattr(model.generator, "latent", lambda *_: pytest.fail("nothing is drawn"))
    for output, said in (("ct.mha", ".nii.gz"), ("/proc/cts/ct.nii.gz", "/proc")):
        with pytest.raises((ValueError, OSError), match=said):
            sample_ddpm_patches.sample(workshop.xray, model, output, shape=(16, 16, 16), steps=1)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"shape": 64}, {"steps": 2.5}, {"guidance_interval": 0.5}, {"spacing": "1"}, {"bf16": "yes"}),
        *({"num_samples": 0}, {"decode_tile": 1.5}, {"device": "tpu"}),
        *({"guidance": float("nan")}, {"guidance": float("inf")}),
    ],
    ids=str,
)
def test_the_python_call_names_a_value_of_another_type(wrong, workshop):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name} (needs|must)"):
        sample_ddpm_patches.sample(workshop.xray, workshop.ddpm_ckpt, **wrong)


def test_a_picture_that_the_preview_would_overwrite(workshop, drawing, refused):
    shutil.copy(workshop.xray, "ct.png")
    assert "overwrite" in refused(sample_ddpm_patches, *settings_of(drawing, xray="ct.png"))
