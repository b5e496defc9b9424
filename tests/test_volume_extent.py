"""The network may be told how much of the patient a CT holds: of the case in training, of the grid in drawing."""

import numpy as np
import pytest
import torch

import train_ddpm_patches_4gpu
from dataset.store.store import VolumeStore
from ddpm.latent_scale import LatentScale
from ddpm.plan import Grid, SamplingPlan
from ddpm.position import extent_embedding
from pipeline.sampling.ct_sampler import CTSampler
from tests.tiny import CHANNELS, built_ddpm, run

EXTENT = "model.volume_extent=true"


@pytest.fixture
def settings(workshop, elsewhere):
    return [*workshop.ddpm, EXTENT]


def predicted(module, batch):
    module.eval()
    with torch.no_grad():
        return module._eager(*module._noised(batch)[0])


def test_extents_are_told_apart():
    chest, abdomen = extent_embedding(torch.tensor([[300.0, 350, 350], [600, 350, 350]]))
    assert (chest - abdomen).abs().max() > 0.5
    assert chest.isfinite().all()


@pytest.mark.parametrize("told", [True, False])
def test_a_larger_ct_of_the_same_patient_changes_the_prediction_where_it_is_told(settings, told):
    """The volume ends 8 voxels later on both sides; the patch lies where it lay."""
    made, stream = built_ddpm(*settings[: None if told else -1]), torch.Generator().manual_seed(0)
    made.module.latent_scale = LatentScale(torch.zeros(CHANNELS), torch.ones(CHANNELS))
    for parameter in made.module.denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=stream)  # those that begin at 0 hide what is behind them
    larger = {"volume_shape": made.batch["volume_shape"] + 16, "patch_coord": made.batch["patch_coord"] + 8}
    before, after = predicted(made.module, made.batch), predicted(made.module, made.batch | larger)
    assert before.isfinite().all()
    assert torch.allclose(before, after, rtol=1e-4, atol=1e-4) is not told


def test_drawing_takes_the_extent_of_the_grid(workshop, tmp_path):
    run(train_ddpm_patches_4gpu, *workshop.ddpm, EXTENT, f"run_dir={tmp_path}/run", f"checkpoint_dir={tmp_path}")
    model, store = CTSampler(tmp_path / "last.ckpt", device="cpu"), VolumeStore(workshop.store)
    told, inner = [], model.generator.denoiser.forward
    model.generator.denoiser.forward = lambda *a: told.append(a[-1]) or inner(*a)
    shown = model.stored_xray(store, store.cases[0])
    model.draw(shown, Grid((20, 16, 24), (5.0, 6.0, 7.0)), SamplingPlan(2), 0)
    assert np.unique(torch.cat(told).numpy(), axis=0).tolist() == [[100.0, 96.0, 168.0]]
