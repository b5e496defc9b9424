"""The linear codecs that stage 1 starts from."""

import numpy as np
import pytest
import torch

from vq_gan_3d.linear import LinearDecoder, LinearEncoder, basis_functions, fit, lapped_transform, set_maps


def volumes(size=32, count=2):
    stream = torch.Generator().manual_seed(0)
    coarse = torch.randn(count, 1, 7, 7, 7, generator=stream)
    smooth = torch.nn.functional.interpolate(coarse, (size,) * 3, mode="trilinear", align_corners=True)
    return (smooth + 0.1 * torch.randn(smooth.shape, generator=stream)).tanh()


def codec(channels, lapped, patches):
    encoder, decoder = LinearEncoder(channels, lapped), LinearDecoder(channels, lapped)
    set_maps(encoder, decoder, *fit(patches, channels, lapped))
    return encoder, decoder


def test_the_lapped_transform_is_orthonormal_with_its_neighbours():
    rows, (lines, taps) = lapped_transform(), (4, 8)
    assert rows.shape == (lines, taps)
    np.testing.assert_allclose(rows @ rows.T, np.eye(4), atol=1e-12)
    np.testing.assert_allclose(rows[:, 4:] @ rows[:, :4].T, 0, atol=1e-12)
    assert np.abs(rows[:, [0, -1]]).max() < 0.15  # it fades out where it ends


@pytest.mark.parametrize("lapped", [False, True])
def test_basis_functions_are_orthonormal(lapped):
    functions = basis_functions(lapped).flatten(1)
    torch.testing.assert_close(functions @ functions.T, torch.eye(64, dtype=torch.float64))


@pytest.mark.parametrize("lapped", [False, True])
@torch.no_grad()
def test_all_components_together_reconstruct_exactly(lapped):
    patches = volumes().double()
    encoder, decoder = (network.double() for network in codec(64, lapped, patches))
    edge = 4 if lapped else 0  # what lies beyond the faces is not known
    inner = (..., *[slice(edge, -edge or None)] * 3)
    torch.testing.assert_close(decoder(encoder(patches))[inner], patches[inner])


@pytest.mark.parametrize("lapped", [False, True])
@torch.no_grad()
def test_latents_of_a_crop_with_context_are_the_crop_of_the_latents(lapped):
    patches = volumes()
    encoder, decoder = codec(5, lapped, patches)
    z = encoder(patches)
    torch.testing.assert_close(encoder(patches[..., 4:28, 4:28, 4:28])[..., 1:-1, 1:-1, 1:-1], z[..., 2:6, 2:6, 2:6])
    whole = decoder(z)[..., 12:20, 12:20, 12:20]
    for context in (1, 2):
        crop = z[(..., *[slice(3 - context, 5 + context)] * 3)]
        torch.testing.assert_close(decoder(crop, context), whole)


@torch.no_grad()
def test_errors_in_lapped_latents_make_no_blocks():
    patches, stream = volumes(48), torch.Generator().manual_seed(1)
    indices = {}
    for lapped in (False, True):
        encoder, decoder = codec(8, lapped, patches)
        z = encoder(patches)
        noise = 0.3 * z.std((0, 2, 3, 4), keepdim=True) * torch.randn(z.shape, generator=stream)
        difference = decoder(z + noise)[0, 0, 4:-4, 4:-4, 4:-4].diff(dim=0).abs().mean((1, 2))
        across = torch.arange(len(difference)) % 4 == 3
        indices[lapped] = float(difference[across].mean() / difference[~across].mean())
    assert indices[False] > 2
    assert indices[True] < 1.2


@torch.no_grad()
def test_few_lapped_components_tell_more_than_few_of_blocks():
    patches = volumes(48)
    errors = {}
    for lapped in (False, True):
        encoder, decoder = codec(4, lapped, patches)
        errors[lapped] = float((decoder(encoder(patches)) - patches)[..., 4:-4, 4:-4, 4:-4].square().mean())
    assert errors[True] < 0.97 * errors[False]


@torch.no_grad()
def test_latents_have_unit_root_mean_square():
    patches = volumes()
    encoder, _ = codec(6, True, patches)
    assert float(encoder(patches).square().mean().sqrt()) == pytest.approx(1, rel=1e-3)
