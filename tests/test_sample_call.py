"""`sample` draws what the command draws with the same settings, by default too."""

from dataclasses import fields
from inspect import signature
from pathlib import Path

import numpy as np
import pytest
import torch

import sample_ddpm_patches
from dataset.scans.volume_io import read_ct
from ddpm.denoiser import PatchDenoiser
from ddpm.plan import SamplingPlan
from pipeline.sampling.ct_sampler import CTSampler
from pipeline.settings import plain
from sample_ddpm_patches import sample
from tests.test_configs import composed
from tests.tiny import run

QUICK = {"shape": (20, 24, 18), "steps": 2}
OF_THE_COMMAND = {"dry_run", "distribute"}  # which writes files, perhaps with several processes


@pytest.fixture
def command(workshop, elsewhere):
    """Runs the command with these settings on the workshop's X-ray and model."""

    def draw(output="ct.nii.gz", **settings):
        settings = {"xray": workshop.xray, "output": output, "ckpt": workshop.ddpm_ckpt} | settings
        words = [f"{key}={str(value).replace(' ', '')}" for key, value in settings.items()]
        run(sample_ddpm_patches, *(word.replace("(", "[").replace(")", "]") for word in words))
        return read_ct(output) if Path(output).is_file() else None

    return draw


def test_one_seed_is_one_ct(command, workshop):
    expected = command()
    hu, affine = sample(workshop.xray, workshop.ddpm_ckpt)
    np.testing.assert_array_equal(hu, expected.hu)
    np.testing.assert_allclose(affine, expected.affine)


def test_command_call_and_plan_have_the_same_settings_and_defaults():
    shipped = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in plain(composed("sample_ddpm", "xray=x", "output=y")).items()
        if key not in OF_THE_COMMAND
    }
    call = {name: argument.default for name, argument in signature(sample).parameters.items() if name != "plan"}
    plan = {field.name: field.default for field in fields(SamplingPlan)}
    assert not call.keys() & plan.keys()
    required = ("xray", "ckpt", "output")
    assert {**call, **plan} | dict.fromkeys(required) == shipped | dict.fromkeys(required)


@pytest.mark.parametrize(
    "change",
    [
        {"averaged": False, "decode_tile": 3},
        {"seed": 7, "sampler": "heun", "mode": "independent"},
        {"guidance": 2, "guidance_interval": (0, 0.6), "bf16": True, "window_batch": 3},
    ],
    ids=str,
)
def test_a_setting_means_the_same_in_both(change, command, workshop, monkeypatch):
    monkeypatch.setattr(PatchDenoiser, "knows_no_xray", True)  # its few steps dropped none
    settings = QUICK | change
    expected = command(**settings).hu
    np.testing.assert_array_equal(sample(workshop.xray, workshop.ddpm_ckpt, **settings)[0], expected)
    np.testing.assert_array_equal(sample(workshop.xray, workshop.ddpm_ckpt, "own.nii", **settings)[0], expected)
    assert Path("own.json").read_bytes() != b""


def test_several_cts(command, workshop):
    model = CTSampler(workshop.ddpm_ckpt, device="cpu")
    cts, _ = sample(workshop.xray, model, num_samples=3, **QUICK)
    assert cts.shape == (3, 20, 24, 18)
    assert cts.dtype == np.int16
    for i in range(3):
        np.testing.assert_array_equal(cts[i], sample(workshop.xray, model, seed=42 + i, **QUICK)[0])
    written, _ = sample(workshop.xray, model, "own", num_samples=3, **QUICK)
    np.testing.assert_array_equal(written, cts)
    command("theirs", num_samples=3, **QUICK)
    assert {p.name for p in Path("own").iterdir()} == {p.name for p in Path("theirs").iterdir()}
    for path in Path("own").glob("*.nii.gz"):
        assert path.read_bytes() == Path("theirs", path.name).read_bytes()


def test_a_loaded_model_takes_no_settings_of_loading(workshop):
    model = CTSampler(workshop.ddpm_ckpt, device="cpu")
    for wrong in ({"averaged": False}, {"device": "cpu"}, {"vqgan_ckpt": "x"}, {"xray_weights": "x"}):
        with pytest.raises(ValueError, match="loaded already"):
            sample(workshop.xray, model, **QUICK, **wrong)


def test_networks_may_lie_elsewhere(workshop):
    with pytest.raises(FileNotFoundError, match=r"gone\.ckpt"):
        sample(workshop.xray, workshop.ddpm_ckpt, vqgan_ckpt="gone.ckpt", **QUICK)


def test_float32_is_the_commands_within_the_call_and_the_callers_after_it(workshop, monkeypatch):
    model, seen = CTSampler(workshop.ddpm_ckpt, device="cpu"), []
    latent = model.generator.latent

    def watched(*arguments):
        seen.append(torch.get_float32_matmul_precision())
        return latent(*arguments)

    monkeypatch.setattr(model.generator, "latent", watched)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # CPUs keep float32 as it is
    before = torch.get_float32_matmul_precision()
    sample(workshop.xray, model, **QUICK)
    assert (seen, torch.get_float32_matmul_precision()) == (["high"], before)
