"""How a latent is decoded on a GPU, as far as a CPU can tell: what is measured, and what follows from it."""

from types import SimpleNamespace

import pytest
import torch

from ddpm import gpu_memory
from ddpm.latent_scale import LatentScale
from pipeline.sampling.decoding import LARGE, PROBE, TILE, DecodingChoice


class Generator:
    """Decodes a latent to itself; in half precision some share of voxels comes out `apart` units off."""

    def __init__(self, device="cuda", apart=0.0, share=1.0, has_half=True):
        self.device = SimpleNamespace(type=device) if device == "cuda" else torch.device(device)
        self.codec = SimpleNamespace(decoder_halo=2, has_half=has_half)
        self.denoiser = SimpleNamespace(latent_channels=1)
        self.latent_scale = LatentScale(torch.zeros(1), torch.ones(1))
        self.apart, self.share = apart, share

    def decode(self, latent, tile, half=False):
        off = torch.zeros(latent.numel())
        if half:
            off[: round(self.share * len(off))] = self.apart
        yield (0, 0, 0), latent + off.view_as(latent)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"apart": 0.0005}, True),
        ({"apart": 0.002}, False),  # 2 HU
        ({"apart": 0.002, "share": 0.0005}, True),  # in fewer than a thousandth
        ({"apart": float("nan"), "share": 0.1}, False),
        ({"has_half": False}, False),
    ],
)
def test_half_precision_is_taken_only_where_it_was_seen_to_do(settings, expected, monkeypatch):
    monkeypatch.setattr(gpu_memory, "peak_bytes", lambda run, device: (run(), 1000)[1])
    measured = DecodingChoice(Generator("cpu", **settings), hu_per_unit=1000.0)._measured
    assert measured == (expected, 1000)


@pytest.mark.parametrize(("free", "expected"), [(60_000, LARGE), (40_000, TILE)])
def test_large_tiles_are_taken_where_they_fit(free, expected, monkeypatch):
    monkeypatch.setattr(gpu_memory, "free_bytes", lambda device: free)
    choose = DecodingChoice(Generator(), hu_per_unit=1000.0)
    choose.__dict__["_measured"] = (True, 1000)  # a tile of 64 takes 39.3 times what one of PROBE does
    assert pytest.approx(39.3, abs=0.01) == ((LARGE + 4) / (PROBE + 4)) ** 3
    assert choose("auto") == (expected, True)
    assert choose(8) == (8, True)


def test_a_cpu_decodes_small_tiles_exactly():
    choose = DecodingChoice(Generator("cpu"), hu_per_unit=1000.0)
    assert choose("auto") == (TILE, False)
    assert choose(8) == (8, False)
