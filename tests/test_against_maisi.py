"""MONAI's MAISI as a yardstick: its published sizes, and a comparison per voxel."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from benchmarks import against_maisi, full_volume
from benchmarks.measure import gflop, parameters

CPU = torch.device("cpu")


def test_the_networks_have_their_published_sizes():
    with torch.device("meta"):
        denoiser, codec = against_maisi.unet(flash=False), against_maisi.autoencoder(norm_float16=True)
        x, t, modality, spacing = torch.empty(1, 4, 32, 32, 32), torch.empty(1), torch.ones(1).long(), torch.empty(1, 3)
        step = gflop(lambda: denoiser(x, t, class_labels=modality, spacing_tensor=spacing))
    assert parameters(denoiser) == pytest.approx(180.5e6, rel=1e-3)
    assert parameters(codec) == pytest.approx(20.94e6, rel=1e-3)
    assert step == pytest.approx(299, rel=0.01)


def test_the_latent_covers_the_ct_and_can_be_halved():
    assert against_maisi.latent_size((604, 512, 512)) == (152, 128, 128)
    assert against_maisi.latent_size((128, 33, 1)) == (32, 16, 8)


def test_a_known_velocity_is_followed_to_the_end():
    """With velocity = clean - noise, the straight way from noise ends at the clean latent."""
    clean, noise = torch.randn(2, 1, 4, 8, 8, 8)
    scheduler = against_maisi.RFlowScheduler(use_discrete_timesteps=False, use_timestep_transform=True)
    seen = []

    def denoiser(latent, t, class_labels, spacing_tensor):
        seen.append(float(t))
        return clean - noise

    drawn = against_maisi.diffuse(denoiser, scheduler, noise, 5)
    assert len(seen) == 5
    assert seen == sorted(seen, reverse=True)
    assert float((drawn - clean).abs().max()) < 0.02  # its scheduler rounds times to float16, and the next to integers


class Doubles(nn.Module):
    """A codec whose decoder repeats each latent voxel four times per side."""

    def decode_stage_2_outputs(self, latent):
        return nn.functional.interpolate(latent[:, :1], scale_factor=4)


@pytest.mark.parametrize("window", [(80, 80, 96), (8, 8, 16)])
def test_a_ct_is_drawn_and_decoded_with_windows_where_it_is_large(window, monkeypatch):
    monkeypatch.setattr(against_maisi, "WINDOW", window)
    monkeypatch.setattr(against_maisi, "unet", lambda flash: nn.Identity())
    monkeypatch.setattr(against_maisi, "diffuse", lambda denoiser, scheduler, latent, steps: latent)
    monkeypatch.setattr(against_maisi, "autoencoder", lambda norm_float16: Doubles())
    assert against_maisi.draw((40, 30, 60), CPU, 1)["voxels"] == 64 * 32 * 64


def test_both_are_compared_per_voxel(monkeypatch):
    theirs = {"voxels": 8000, "seconds_diffusion": 30.0, "seconds_decode": 10.0, "cpu_seconds": 90.0, "own_gb": 6.0}
    started = []

    def run(words, **_):
        started.append(words)
        return SimpleNamespace(stdout=b"progress\n" + json.dumps(theirs).encode())

    monkeypatch.setattr(subprocess, "run", run)
    ours = {"seconds_diffusion": 8.0, "seconds_decode": 2.0, "cpu_seconds": 15.0, "own_gb": 2.0}
    ours["plan"] = {"steps": 7}
    found = full_volume.beside_maisi(ours, (10, 20, 20), CPU)
    ratios = [found[f"ratio_{name}"] for name in ("time", "cpu_time", "memory")]
    assert ratios == [2.0, 3.0, 1.5]  # for twice as many voxels
    assert started == [
        [sys.executable, "-m", "benchmarks.against_maisi", "shape=[10, 20, 20]", "device=cpu", "steps=7"]
    ]
