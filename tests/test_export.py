"""One file for another machine: it needs no other, says what it is, and draws the same CT."""

import errno
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

import encode_latents
import evaluate_ddpm_patches
import export_model
import sample_ddpm_patches
import train_ddpm_patches_4gpu
from common.tensor_hash import tensor_hash
from medclip_cond.biomedclip import FILE, BiomedCLIPEncoder
from tests.test_pretrained_encoders import random_timm_vit
from tests.tiny import CHANNELS, DDPM, PATCHES, built_ddpm, load, run


@pytest.fixture
def training(workshop, elsewhere):
    """Copies of both stages' checkpoints in a folder of their own, which may vanish."""
    folder = elsewhere / "training"
    folder.mkdir()
    shutil.copy(workshop.vqgan_ckpt, folder / "vqgan.ckpt")
    content = load(workshop.ddpm_ckpt)
    content["xray2ctpa"]["codec"]["path"] = str(folder / "vqgan.ckpt")
    torch.save(content, folder / "last.ckpt")
    return folder


def take_biomedclip(folder):
    """Put an encoder that reads its weights from a file beside the checkpoint."""
    content = load(folder / "last.ckpt")
    meta = content["xray2ctpa"]
    denoiser = meta["parts"]["denoiser"]
    torch.save(random_timm_vit(denoiser["token_dim"], denoiser["pooled_dim"]), folder / FILE)
    meta["parts"]["xray_encoder"] = {"part": "BiomedCLIPEncoder", "weights": str(folder)}
    meta["encoder_hash"] = tensor_hash(BiomedCLIPEncoder(str(folder)))
    torch.save(content, folder / "last.ckpt")


def draw(workshop, ckpt, output):
    run(sample_ddpm_patches, f"xray={workshop.xray}", f"ckpt={ckpt}", f"output={output}", "steps=3")
    image = nib.Nifti1Image.from_filename(output)
    return np.asarray(image.dataobj), image.affine


@pytest.mark.parametrize("take", [None, take_biomedclip], ids=["tiny_random", "biomedclip"])
def test_the_file_alone_draws_the_same_ct(take, workshop, training):
    if take:
        take(training)
    expected, affine = draw(workshop, training / "last.ckpt", "expected.nii.gz")
    run(export_model, f"ckpt={training}/last.ckpt", "output=export/model.ckpt")
    Path("another").mkdir()
    Path("export/model.ckpt").rename("another/m.ckpt")
    shutil.rmtree(training)
    found, found_affine = draw(workshop, "another/m.ckpt", "found.nii.gz")
    assert np.array_equal(found, expected)
    assert np.array_equal(found_affine, affine)
    assert len(np.unique(found)) > 10


def strings(content):
    if isinstance(content, dict):
        for key, value in content.items():
            yield str(key)
            yield from strings(value)
    elif isinstance(content, list | tuple):
        for value in content:
            yield from strings(value)
    elif isinstance(content, str):
        yield content


def test_the_file_holds_averaged_weights_and_nothing_of_machine_or_patients(workshop, training):
    take_biomedclip(training)
    run(export_model, f"ckpt={training}/last.ckpt", "output=model.ckpt")
    stored, exported = load(training / "last.ckpt"), load("model.ckpt")
    assert exported.keys() == {"xray2ctpa", "state_dict", "MODEL_CARD"}
    (average,) = (v["average"] for k, v in stored["callbacks"].items() if k.startswith("WeightAverage"))
    assert all(torch.equal(exported["state_dict"][name], tensor) for name, tensor in average.items())
    assert not all(torch.equal(stored["state_dict"][name], tensor) for name, tensor in average.items())
    patients = [line.split(",")[0] for line in (workshop.root / "pairs.csv").read_text().splitlines()[1:]]
    assert patients
    for text in [*strings(exported), Path("model.md").read_text()]:
        assert str(training) not in text
        assert str(workshop.folder) not in text
        assert not text.startswith("/")
        assert not any(patient in text for patient in patients)


def test_the_card_tells_what_the_model_is_and_how_good(workshop, training):
    run(evaluate_ddpm_patches, f"ckpt={training}/last.ckpt", workshop.data, "run_dir=evaluation", "steps=1")
    metrics = json.loads(Path("evaluation/metrics.json").read_text())
    licence = "licence='CC BY 4.0'"
    run(export_model, f"ckpt={training}/last.ckpt", "output=model.ckpt", "metrics=evaluation/metrics.json", licence)
    card = Path("model.md").read_text()
    assert load("model.ckpt")["MODEL_CARD"] == card
    meta = load(training / "last.ckpt")["xray2ctpa"]
    count = sum(t.numel() for k, t in load("model.ckpt")["state_dict"].items() if k.startswith("denoiser."))
    psnr = metrics["summary"]["psnr_right"]
    rows = [
        "Not for diagnosis",
        "research",
        f"averaged weights | {count:,} |",
        "| X-ray encoder | TinyRandomEncoder |",
        "| cases | 4 train, 1 val |",
        "| HU window | -1000 to 1000 |",
        "| patch, stride | 16 × 16 × 16, 12 × 12 × 12 voxels |",
        f"| psnr_right | {psnr:.4g} |",
        "| lung_volume_correlation | – |",
        "Too few patients to say whether it beats the mean training CT",
        "CC BY 4.0",
        f"| torch | {torch.__version__} |",
        f"| VQ-GAN (SHA-256) | {meta['codec']['hash']} |",
        f"| denoiser (SHA-256) | {metrics['settings']['denoiser hash']} |",
    ]
    assert [row for row in rows if row not in card] == []


def test_the_card_says_of_which_x_rays_alone_it_tells(workshop, training):
    Path("films").mkdir()
    for path in sorted(workshop.root.glob("phantom*/*_pa_drr.png"))[:2]:
        shutil.copy(path, "films")
    settings = ["dataset.root=films", "xray_only=true", "controls=false", "run_dir=films_out", "steps=1"]
    run(evaluate_ddpm_patches, f"ckpt={training}/last.ckpt", *settings)
    run(export_model, f"ckpt={training}/last.ckpt", "output=model.ckpt", "metrics=films_out/metrics.json")
    card = Path("model.md").read_text()
    assert "2 X-rays alone, without real CTs, 1 steps of" in card
    assert "Split" not in card


def test_an_export_is_evaluated_as_its_checkpoint_is(workshop, training):
    settings = [workshop.data, "steps=1", "num_cases=1"]
    run(export_model, f"ckpt={training}/last.ckpt", "output=model.ckpt")
    run(evaluate_ddpm_patches, f"ckpt={training}/last.ckpt", "run_dir=of_checkpoint", *settings)
    run(evaluate_ddpm_patches, "ckpt=model.ckpt", "run_dir=of_export", *settings)
    expected, found = (
        json.loads(Path(folder, "metrics.json").read_text())["cases"] for folder in ("of_checkpoint", "of_export")
    )
    assert expected == found


def test_an_earlier_export_is_replaced_only_on_demand(training, refused):
    settings = [f"ckpt={training}/last.ckpt", "output=model.ckpt"]
    Path("model.ckpt").write_text("earlier")
    message = refused(export_model, *settings)
    assert "overwrite=true" in message
    assert "model.ckpt" in message
    assert Path("model.ckpt").read_text() == "earlier"
    run(export_model, *settings, "overwrite=true")
    assert "MODEL_CARD" in load("model.ckpt")


def test_metrics_of_another_model_are_refused(training, refused):
    settings = [f"ckpt={training}/last.ckpt", "output=model.ckpt", "metrics=m.json"]
    assert "m.json" in refused(export_model, *settings)
    Path("m.json").write_text("[1]")
    assert "not a metrics.json" in refused(export_model, *settings)
    Path("m.json").write_text(json.dumps({"settings": {"denoiser hash": "0" * 64}, "summary": {}, "cases": []}))
    assert "another model" in refused(export_model, *settings)
    assert not Path("model.ckpt").exists()


def test_what_cannot_be_exported(workshop, training, refused):
    own = f"ckpt={training}/last.ckpt"
    assert "must end in .ckpt" in refused(export_model, own, "output=model.pt")
    assert "must end in .ckpt" in refused(export_model, own, "output=/")
    assert "choose another file" in refused(export_model, own, f"output={training}/last.ckpt", "overwrite=true")
    assert "'vqgan'" in refused(export_model, f"ckpt={training}/vqgan.ckpt")
    content = load(training / "last.ckpt")
    torch.save(content | {"callbacks": {}}, "plain.ckpt")
    assert "no averaged weights" in refused(export_model, "ckpt=plain.ckpt")
    assert not Path("model.ckpt").exists()


def test_a_full_disk_leaves_nothing_half_written(training, refused, monkeypatch):
    def full(content, file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    message = refused(export_model, f"ckpt={training}/last.ckpt", "output=export/model.ckpt")
    assert "No space left on device: export/model.ckpt" in message
    assert list(Path("export").iterdir()) == []


@pytest.mark.parametrize("setting", ["averaged=false", "vqgan_ckpt=training/vqgan.ckpt", "xray_weights=training"])
def test_an_export_has_no_other_weights(setting, workshop, training, refused):
    run(export_model, f"ckpt={training}/last.ckpt", "output=model.ckpt")
    message = refused(sample_ddpm_patches, f"xray={workshop.xray}", "output=ct.nii.gz", "ckpt=model.ckpt", setting)
    assert "leave vqgan_ckpt, xray_weights and averaged out" in message


def test_a_changed_export_is_refused(workshop, training, refused):
    run(export_model, f"ckpt={training}/last.ckpt", "output=model.ckpt")
    content = load("model.ckpt")
    content["state_dict"]["xray_encoder.vit.layernorm.bias"] += 1
    torch.save(content, "changed.ckpt")
    message = refused(sample_ddpm_patches, f"xray={workshop.xray}", "output=ct.nii.gz", "ckpt=changed.ckpt")
    assert "another X-ray encoder" in message


@pytest.mark.parametrize("take", [None, take_biomedclip], ids=["tiny_random", "biomedclip"])
def test_an_export_alone_is_trained_further(take, workshop, training):
    if take:
        take(training)
    run(export_model, f"ckpt={training}/last.ckpt", "output=model.ckpt")
    shutil.rmtree(training)
    exported = load("model.ckpt")["state_dict"]
    sources = ["model.vqgan_ckpt=model.ckpt", "xray_encoder=exported", workshop.data, "dataset.latents_dir=latents"]
    run(encode_latents, *sources, PATCHES[0], f"model.diffusion_num_channels={CHANNELS}")
    settings = [*(s for s in DDPM if not s.startswith("xray_encoder")), *sources, "init_from=model.ckpt"]
    made = built_ddpm(*settings, "dataset.latents=always")
    state = made.module.state_dict()
    assert all(torch.equal(tensor, exported[name]) for name, tensor in state.items())
    run(train_ddpm_patches_4gpu, *settings, "model.name=fine", "dataset.latents=always")
    run(train_ddpm_patches_4gpu, *settings, "model.name=fine", "model.max_epochs=2")
    assert load("checkpoints/fine/last.ckpt")["global_step"] == 8
    draw(workshop, "checkpoints/fine/last.ckpt", "fine.nii.gz")
    run(export_model, "ckpt=checkpoints/fine/last.ckpt", "output=again.ckpt")
    Path("model.ckpt").unlink()
    found, _ = draw(workshop, "again.ckpt", "again.nii.gz")
    assert len(np.unique(found)) > 10
