"""The denoiser with a second view: where its tokens lie, what it adds, what is left where it is missing."""

import pytest
import torch

from dataset.scans.camera import Film
from ddpm.denoiser import token_positions_mm
from ddpm.position import view_token_positions_mm
from tests.test_denoiser import CAMERA, GRID, make_denoiser, places, predict

LATERAL = torch.tensor(Film("ll", None).square(64, 128)[None], dtype=torch.float32)


def with_views(denoiser, seed=0, batch=1, missing=False, drop=None, camera=LATERAL):
    """A condition of a frontal X-ray that is always the same and a lateral by the seed."""
    streams = [torch.Generator().manual_seed(number) for number in (99, seed)]
    frontal, other = ([torch.rand(batch, *s, generator=g) for s in ((5,), (6, 6), (1, 64, 64))] for g in streams)
    views = [value[:, None] for value in (*other, camera.expand(batch, -1, -1))]
    views.append(torch.full((batch, 1), missing))
    pooled, tokens, xray = frontal
    return denoiser.encode_condition(pooled, tokens, GRID, xray, CAMERA.expand(batch, -1, -1), drop, views)


def two_views(cond=("pooled", "tokens", "lifted")):
    return make_denoiser(cond, views=("lateral",))


def test_frontal_tokens_lie_at_x_and_z_lateral_ones_at_y_and_z():
    both = torch.cat([CAMERA, LATERAL])
    frontal, lateral = view_token_positions_mm((2, 4), both, (64, 64))
    assert torch.equal(frontal[:, :2], token_positions_mm((2, 4), CAMERA, (64, 64))[0])
    assert frontal[:, 2].isnan().all()
    assert lateral[:, 0].isnan().all()
    torch.testing.assert_close(lateral[:, 2].view(2, 4), torch.tensor([[-48.0, -16.0, 16.0, 48.0]] * 2))  # front first
    torch.testing.assert_close(lateral[:, 1], frontal[:, 1])
    oblique = torch.tensor(Film("ll", 1800.0, turn_deg=30).square(64, 128)[None], dtype=torch.float32)
    assert view_token_positions_mm((2, 4), oblique, (64, 64))[0, :, 0].isnan().all()


@pytest.mark.parametrize("cond", [("pooled",), ("tokens",), ("lifted",)])
def test_a_further_view_matters_unless_it_is_missing(cond):
    denoiser = two_views(cond)
    seen = [predict(denoiser, with_views(denoiser, seed)) for seed in (0, 1)]
    missing = [predict(denoiser, with_views(denoiser, seed, missing=True)) for seed in (0, 1)]
    assert not torch.equal(*seen)
    torch.testing.assert_close(*missing)
    assert not torch.allclose(seen[0], missing[0], atol=1e-4)


def test_no_views_given_is_all_views_missing():
    denoiser = two_views()
    alone = denoiser.encode_condition(
        *[torch.rand(1, *s, generator=torch.Generator().manual_seed(7)) for s in ((5,), (6, 6))],
        GRID,
        torch.zeros(1, 1, 64, 64),
        CAMERA,
    )
    assert [view.dropped.tolist() for view in alone.views] == [[True]]
    assert torch.isfinite(predict(denoiser, alone)).all()


def test_with_the_xray_all_views_are_dropped():
    denoiser, drop = two_views(), torch.tensor([True])
    cameras = (LATERAL, CAMERA)
    dropped = [predict(denoiser, with_views(denoiser, i, drop=drop, camera=camera)) for i, camera in enumerate(cameras)]
    torch.testing.assert_close(*dropped)


def test_lifting_two_views_to_a_patch_is_cropping_the_lifted_whole():
    denoiser = two_views(("lifted",))
    condition = with_views(denoiser)
    for lifter, seen in ((denoiser.lifter, condition), (denoiser.views["lateral"].lifter, condition.views[0])):
        whole = lifter.lift(seen.maps, seen.xray_camera, places(size=(16, 16, 16)))
        patch = lifter.lift(seen.maps, seen.xray_camera, places(coord=(8, 0, 20), size=(4, 6, 5)))
        torch.testing.assert_close(patch, whole[:, :, 2:6, 0:6, 5:10])
    lateral = denoiser.views["lateral"].lifter.lift(
        condition.views[0].maps, condition.views[0].xray_camera, places(size=(16, 16, 16))
    )
    assert torch.equal(lateral[..., 3], lateral[..., 9])  # along the rays, from the right to the left
    assert not torch.equal(lateral[:, :, :, 3], lateral[:, :, :, 9])


def test_one_condition_of_two_views_serves_a_batch_of_windows():
    denoiser = two_views()
    condition = with_views(denoiser)
    windows = [places(coord=(0, 4 * i, 8 * i)) for i in range(3)]
    together = predict(denoiser, condition, torch.cat(windows), batch=3)
    alone = torch.cat([predict(denoiser, condition, w) for w in windows])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_every_parameter_takes_part_with_and_without_the_view():
    for missing in (True, False):
        denoiser = two_views()
        condition = with_views(denoiser, batch=2, missing=missing)
        predict(denoiser, condition, places().expand(2, -1, -1, -1, -1), batch=2).sum().backward()
        assert [name for name, p in denoiser.named_parameters() if p.grad is None or p.grad.isnan().any()] == []
