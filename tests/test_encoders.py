import pytest
import torch

from medclip_cond.encoders import XrayEncoder
from medclip_cond.tiny_random import TinyRandomEncoder


@pytest.fixture(scope="module")
def encoder():
    return TinyRandomEncoder(size=64, patch=16)


def test_features_have_the_announced_shapes(encoder):
    features = encoder(torch.rand(2, 3, 64, 64))
    assert features.pooled.shape == (2, encoder.pooled_dim)
    assert features.tokens.shape == (2, encoder.grid[0] * encoder.grid[1], encoder.token_dim)


def test_the_weights_follow_the_seed_and_leave_the_global_random_state_alone():
    state = torch.get_rng_state()
    weights = [TinyRandomEncoder(seed).state_dict() for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), state)
    same, other = ([torch.equal(a, w[k]) for k, a in weights[0].items()] for w in weights[1:])
    assert all(same)
    assert not all(other)


def test_an_encoder_is_frozen(encoder):
    encoder.train()
    image = torch.rand(1, 3, 64, 64, requires_grad=True)
    assert not any(m.training for m in encoder.modules())
    assert not any(p.requires_grad for p in encoder.parameters())
    assert not encoder(image).tokens.requires_grad


def test_tokens_run_row_by_row_from_the_top_left(encoder):
    dark = torch.zeros(1, 3, 64, 64)
    lit = dark.clone()
    lit[:, :, 16:32, 48:64] = 5  # row 1, column 3 of 4
    embed = encoder.vit.embeddings
    change = (embed(lit) - embed(dark)).abs().sum((0, 2))[1:]  # before attention mixes them
    assert change.nonzero().flatten().tolist() == [1 * 4 + 3]
    assert (encoder(lit).tokens - encoder(dark).tokens).abs().sum((0, 2)).argmax() == 1 * 4 + 3


def test_different_xrays_have_different_features(encoder):
    a, b = (encoder(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(i))) for i in range(2))
    assert (a.pooled - b.pooled).abs().max() > 1e-3


def test_autocast_changes_no_bit_of_the_features(encoder):
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    exact = encoder(image)
    with torch.autocast("cpu", torch.bfloat16):
        found = encoder(image)
    assert torch.equal(found.pooled, exact.pooled)
    assert torch.equal(found.tokens, exact.tokens)


def test_an_image_of_another_size_is_refused(encoder):
    with pytest.raises(ValueError, match=r"takes images \(B, 3, 64, 64\), got \(1, 3, 32, 32\)"):
        encoder(torch.zeros(1, 3, 32, 32))


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="size must be a multiple of patch"):
        TinyRandomEncoder(size=60, patch=16)


@pytest.mark.parametrize("missing", ["encode", "network"])
def test_an_encoder_with_a_method_missing_cannot_be_made(missing):
    methods = {name: lambda self, *_: None for name in ("encode", "network") if name != missing}
    with pytest.raises(TypeError, match=f"abstract method '?{missing}"):
        type("Incomplete", (XrayEncoder,), methods)()
