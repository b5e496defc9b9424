"""What is predicted, in terms of what it errs, on which scale; and the expected CT, which is no draw."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import sample_ddpm_patches
from dataset.scans.volume_io import read_ct
from ddpm.diffusion import CosineDDPM, RectifiedFlow, Regression
from ddpm.plan import SamplingPlan
from ddpm.samplers import SAMPLERS
from tests.test_generator import GRID, XRAY, make_generator
from tests.tiny import DDPM_CKPT, run


def test_a_prediction_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="prediction must be one of .*'energy'"):
        CosineDDPM(10, "energy")


def test_the_expected_value_takes_one_look_at_noise_alone():
    def predict(x, t):
        assert t.tolist() == [1, 1]
        assert torch.equal(x, noise)
        return noise - 3.0  # the velocity, where x0 is known to be 3

    noise = torch.randn(2, 1, 2, 2, 2)
    torch.testing.assert_close(SAMPLERS["mean"](predict, RectifiedFlow(), noise, 1), torch.full_like(noise, 3.0))


def test_a_regression_sees_no_noise_and_no_data():
    path, x0, noise, t = Regression(), torch.randn(2, 1, 2, 2, 2), torch.randn(2, 1, 2, 2, 2), torch.ones(2)
    assert not path.add_noise(x0, noise, t).any()
    assert torch.equal(path.target(x0, noise, t), x0)
    assert path.training_time(torch.tensor([0.0, 0.5])).tolist() == [1, 1]
    given = SAMPLERS["mean"](lambda x, t: x + 2, path, noise, 1)
    assert torch.equal(given, torch.full_like(noise, 2.0))


def test_the_expected_ct_of_a_regression_does_not_depend_on_the_seed():
    generator, plan = make_generator(Regression()), SamplingPlan(50, "mean", mode="fused", window_batch=1)
    drawn = [generator.latent(XRAY, GRID, plan, seed) for seed in (1, 2)]
    assert torch.equal(*drawn)
    assert generator.evaluations(GRID, plan) == generator.windows(GRID) == len(generator.denoiser.calls) / 2


@pytest.mark.parametrize(
    ("diffusion", "sampler", "said"),
    [(Regression(), "ddim", "sampler=mean"), (CosineDDPM(50, "noise"), "mean", "another sampler")],
)
def test_a_sampler_that_the_model_cannot_follow_is_refused(diffusion, sampler, said):
    with pytest.raises(ValueError, match=said):
        make_generator(diffusion).latent(XRAY, GRID, SamplingPlan(4, sampler), 5)


def test_a_regression_is_trained_and_its_ct_is_labelled(workshop, elsewhere):
    import train_ddpm_patches_4gpu

    command = [*workshop.ddpm, "diffusion=regression", "model.max_steps=2"]
    run(train_ddpm_patches_4gpu, *command)
    settings = [f"xray={workshop.xray}", f"ckpt={DDPM_CKPT}", "shape=[20,24,18]", "device=cpu", "sampler=mean"]
    run(sample_ddpm_patches, *settings, "output=a.nii.gz")
    run(sample_ddpm_patches, *settings, "output=b.nii.gz", "seed=7")
    np.testing.assert_array_equal(read_ct("a.nii.gz").hu, read_ct("b.nii.gz").hu)
    assert json.loads(Path("a.json").read_text())["statistic"] == "expected CT, of one evaluation"
