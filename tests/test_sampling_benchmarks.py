"""The benchmarks of sampling measure what they say, on tiny networks."""

import json
import math
import sys

import nibabel as nib
import numpy as np
import pytest
import torch

import run_demo
from benchmarks import few_steps, full_volume, measure
from benchmarks.demo_model import Demo, HeldOut
from benchmarks.networks import write_random_model
from benchmarks.seams import Windows
from common.tensor_hash import tensor_hash
from dataset.intensity import hu_to_unit
from ddpm.plan import Grid, XrayInput
from pipeline.sampling.ct_sampler import CTSampler

TINY = (
    "model.patch_size=[16,16,16]",
    "model.dim=4",
    "model.dim_mults=[1,2]",
    "model.attention_levels=[1]",
    "vqgan.model.n_hiddens=4",
)
XRAY = XrayInput(
    torch.rand(1, 512, 512), torch.rand(3, 224, 224), torch.tensor([[1.0, 0, 0, 256], [0, 0, -1, 256], [0, 0, 0, 1]])
)


@pytest.fixture(scope="module")
def sampler(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.ckpt"
    write_random_model(path, small=True, overrides=TINY)
    return CTSampler(path, device="cpu")


def test_a_random_model_has_the_sizes_asked_for(sampler):
    generator = sampler.generator
    assert (generator.window, generator.stride) == ((4, 4, 4), (3, 3, 3))
    assert generator.denoiser.unet.stem.weight.shape[0] == 4
    assert generator.denoiser.latent_channels == generator.codec.vqgan.embedding_dim == 4
    assert sampler.hashes["denoiser_hash"] == tensor_hash(generator.denoiser)


def test_a_full_volume_is_drawn_written_and_measured(tmp_path, monkeypatch, capsys):
    settings = ["shape=[18,20,24]", "device=cpu", "steps=2", f"out={tmp_path}", "measured_steps=1", "guide_steps=50"]
    monkeypatch.setattr(sys, "argv", ["full_volume", *settings, *TINY])
    full_volume.main()
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    image = nib.Nifti1Image.from_filename(tmp_path / "ct.nii.gz")
    assert image.shape == tuple(result["shape_whd"]) == (24, 20, 18)
    assert np.asarray(image.dataobj).std() > 1
    assert (result["windows"], result["evaluations"]) == (2 * 2 * 2, 2 * 8)
    stages = [result[f"seconds_{name}"] for name in ("xray", "diffusion", "decode", "write")]
    assert sum(stages) == pytest.approx(result["seconds"], abs=0.03)
    assert 0.1 < result["peak_gb"] < 8
    assert result["ratio_guide_over_ours"] == pytest.approx(result["guide_seconds"] / result["seconds"], rel=0.1)
    assert result["guide_seconds"] > result["seconds"]


def test_few_steps_are_compared_at_equal_evaluations(sampler):
    plans = few_steps.plans(few=30, many=250)
    grid = Grid((20, 20, 20), (1.0, 1.0, 1.0))
    looks = {name: sampler.generator.evaluations(grid, plan) for name, plan in plans.items()}
    assert looks["ddim"] == looks["dpmpp_2m"] == looks["heun"]
    assert looks[few_steps.REFERENCE] / looks["ddim"] == pytest.approx(250 / 30)


def test_gradient_energy_sums_the_squared_slopes():
    d, h, w = np.mgrid[:6.0, :6.0, :6.0]
    assert few_steps.squared_slopes(2 * d - h + 3 * w) == pytest.approx(4 + 1 + 9)


def test_few_steps_against_many(sampler):
    grid = Grid((18, 17, 20), (1.0, 1.0, 1.0))
    real = np.random.default_rng(0).integers(-1000, 1000, grid.shape, dtype=np.int16)
    result = few_steps.compare(sampler, [HeldOut(XRAY, grid, real)], few_steps.plans(few=4, many=8))
    assert result.keys() == {"ddim", "dpmpp_2m", "heun"}
    drawn = {name: sampler.draw(XRAY, grid, plan, 0) for name, plan in few_steps.plans(4, 8).items()}
    error = np.mean((drawn["heun"].astype(float) - real) ** 2)
    assert result["heun"]["psnr_few"] == pytest.approx(10 * math.log10(2000**2 / error), abs=1e-3)
    energy = {name: few_steps.squared_slopes(hu_to_unit(hu, (-1000, 1000))) for name, hu in drawn.items()}
    assert result["ddim"]["gradient_energy_ratio"] == pytest.approx(energy["ddim"] / energy["many"], abs=1e-4)
    assert result["ddim"]["evaluations_ratio"] == 2


def test_a_demo_that_is_not_there_is_trained_with_the_same_settings(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(measure, "run", lambda script, settings: started.append((script, *settings)))
    with pytest.raises(FileNotFoundError):  # since nothing was trained
        Demo(["experiment=demo_ci", f"dir={tmp_path}"], "cpu")
    assert started == [(run_demo.__file__, "experiment=demo_ci", f"dir={tmp_path}")]


def test_seams_are_looked_for_where_the_sampler_has_its_windows(sampler):
    case = HeldOut(XRAY, Grid((18, 16, 30), (1.0, 1.0, 1.0)), np.zeros((18, 16, 30), dtype=np.int16))
    windows = Windows(sampler, case)  # latent (5, 4, 8), windows of 4 with stride 3
    assert windows.planes == [[4, 16], [], [12, 16, 28]]
    assert windows.covered.shape == (18, 16, 30)
    assert windows.covered[:, 0, 0].tolist() == [1.0] * 4 + [2.0] * 12 + [1.0] * 2
