"""`import_vqgan.py`: an older checkpoint becomes stage 1, and everything after it runs."""

import logging
import re
import sys
from contextlib import chdir

import nibabel as nib
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

import encode_latents
import import_vqgan
import sample_ddpm_patches
import train_ddpm_patches_4gpu
from pipeline.checkpoints.description import FORMAT
from pipeline.checkpoints.networks import load_codec
from tests import tiny
from tests.published_vqgan import GROUPS, random_state
from tests.test_restricted_pickle import WritesAFile

SIZES = (4, tiny.CHANNELS, 32)  # n_hiddens, embedding_dim, n_codes
WINDOW = "hu_window=[-1000,1000]"
AXES = "axes=zxy"


@pytest.fixture(scope="module")
def older(tmp_path_factory):
    """A Lightning file as medicaldiffusion writes it: settings of omegaconf, optimizers, callbacks."""
    path = tmp_path_factory.mktemp("older") / "older.ckpt"
    model = {"n_hiddens": 4, "downsample": [4, 4, 4], "num_groups": GROUPS, "norm_type": "group"}
    settings = OmegaConf.create({"model": model | {"padding_type": "replicate"}, "dataset": {"image_channels": 1}})
    state = random_state(*SIZES) | {"image_discriminator.model0.0.bias": torch.zeros(64)}
    content = {"epoch": 3, "pytorch-lightning_version": "1.8.0", "state_dict": state, "hparams_name": "cfg"}
    torch.save(content | {"hyper_parameters": {"cfg": settings}, "hparams_type": type(settings)}, path)
    return path


@pytest.fixture(scope="module")
def imported(older, tiny_data):
    output = older.with_name("imported.ckpt")
    cts = ",".join(str(tiny_data.root / name / f"{name}.nii.gz") for name in ("phantom0000", "phantom0001"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "vq_gan_3d.model", None)  # the older project's code is not needed
        tiny.run(
            import_vqgan, f"ckpt={older}", f"output={output}", WINDOW, AXES, f"statistics_from=[{cts}]", "device=cpu"
        )
    return output


def test_the_import_describes_itself(imported):
    content = tiny.load(imported)
    meta = content["xray2ctpa"]
    assert (meta["format"], meta["stage"], meta["hu_window"]) == (FORMAT, "vqgan", [-1000, 1000])
    quantizer = {"part": "VectorQuantizer", "n_codes": 32, "dim": 4}
    described = {"part": "GroupNormVQGAN", "n_hiddens": 4, "embedding_dim": 4, "groups": GROUPS, "quantizer": quantizer}
    assert meta["parts"]["vqgan"] == described
    codes = random_state(*SIZES)["codebook.embeddings"]
    assert meta["imported"]["axes"] == "zxy"
    low, high = meta["imported"]["codebook_minmax"]
    assert (low, high) == (float(codes.min()), float(codes.max()))
    codec, _ = load_codec(imported)
    theirs = random_state(*SIZES)["encoder.conv_first.conv.weight"]
    assert torch.equal(codec.vqgan.encoder.conv_first.weight, theirs.transpose(3, 4))
    assert torch.equal(codec.vqgan.quantizer.books.codes[0], codes)
    assert not torch.equal(codec.vqgan.norms[-1].variance, torch.ones(GROUPS))


def test_everything_after_stage_1_runs_with_it(imported, tiny_data, tmp_path):
    vqgan = f"model.vqgan_ckpt={imported}"
    latents = f"dataset.latents_dir={tmp_path / 'latents'}"
    tiny.run(encode_latents, tiny_data.data, *tiny.FROZEN, tiny.PATCHES[0], vqgan, latents)
    with chdir(tmp_path):
        tiny.run(train_ddpm_patches_4gpu, tiny_data.data, *tiny.DDPM, vqgan, latents)
        command = [f"xray={tiny_data.xray}", "output=ct.nii.gz", f"ckpt={tiny.DDPM_CKPT}"]
        tiny.run(sample_ddpm_patches, *command, "steps=1", "shape=[18,17,19]")
    hu = np.asarray(nib.load(tmp_path / "ct.nii.gz").dataobj)
    assert hu.shape == (19, 17, 18)
    assert -1000 <= hu.min() < hu.max() <= 1000


def test_the_import_says_how_well_the_codec_fits(older, tiny_data, tmp_path, caplog):
    ct = tiny_data.root / "phantom0000" / "phantom0000.nii.gz"
    settings = [f"ckpt={older}", f"output={tmp_path / 'new.ckpt'}", WINDOW, AXES, f"statistics_from={ct}"]
    with caplog.at_level(logging.INFO):
        tiny.run(import_vqgan, *settings, "tile=4", "tiles_per_volume=1")
    assert "phantom0000.nii.gz through the codec and back: PSNR" in caplog.text
    assert "model.diffusion_num_channels=4" in caplog.text


def test_a_harmful_file_harms_nothing(refused, tmp_path):
    path, victim = tmp_path / "bad.ckpt", tmp_path / "victim"
    torch.save({"state_dict": WritesAFile(victim, "shell")}, path)
    output = f"output={tmp_path / 'o'}"
    message = refused(import_vqgan, f"ckpt={path}", output, WINDOW, AXES, "statistics_from=ct.nii.gz")
    assert "no state_dict of tensors" in message
    assert not victim.exists()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["hu_window=[1000,-1000]"], "lowest < highest"),
        (["hu_window=[1000]"], r"two numbers \[lowest, highest\] .*, got \[1000\]"),
        ([WINDOW, AXES], "no such|No such|does not exist"),
        ([], "hu_window has no value"),
        ([WINDOW], "axes has no value.*axes=zxy for medicaldiffusion"),
        ([WINDOW, "axes=zzy"], "order of the letters x, y and z"),
    ],
)
def test_mistakes_are_one_message(refused, older, tmp_path, settings, said):
    ct = tmp_path / "none.nii.gz"
    message = refused(import_vqgan, f"ckpt={older}", f"output={tmp_path / 'o'}", f"statistics_from={ct}", *settings)
    assert re.search(said, message)


def test_an_earlier_import_is_not_overwritten(refused, older, imported):
    before = imported.read_bytes()
    message = refused(import_vqgan, f"ckpt={older}", f"output={imported}", WINDOW, AXES, "statistics_from=none.nii.gz")
    assert "overwrite=true" in message
    assert imported.read_bytes() == before


def test_a_network_of_another_shape_is_refused(refused, tmp_path):
    state = random_state(*SIZES)
    state["encoder.extra.weight"] = torch.zeros(1)
    path = tmp_path / "other.ckpt"
    torch.save({"state_dict": state, "hyper_parameters": {"args": {"n_hiddens": 4, "num_groups": GROUPS}}}, path)
    output = f"output={tmp_path / 'o'}"
    message = refused(import_vqgan, f"ckpt={path}", output, WINDOW, AXES, "statistics_from=ct.nii.gz")
    assert "another shape" in message
    assert "encoder.extra.weight" in message
