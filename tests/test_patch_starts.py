"""Where the patches of a training begin."""

import numpy as np
import pytest

from dataset.patch_starts import RandomStarts, centred_starts

SHAPE, PATCH = (32, 24, 28), (16, 12, 12)
BODY = ((10, 6, 14), (20, 13, 24))


def starts(draws=400, body=BODY, **settings):
    drawn = RandomStarts(PATCH, **settings)
    return [drawn.draw(np.random.default_rng(seed), SHAPE, body) for seed in range(draws)]


def centre_inside(start, region=BODY):
    """Whether the patch's centre lies in the region, or the patch stands at the volume's edge on that side."""
    room = [n - p for n, p in zip(SHAPE, PATCH, strict=True)]
    return all(
        (low <= s + p / 2 or s == most) and (s + p / 2 <= high or s == 0)
        for s, p, low, high, most in zip(start, PATCH, *region, room, strict=True)
    )


def test_a_share_of_the_draws_lies_in_the_body():
    nowhere, half, everywhere = (starts(foreground_share=share) for share in (0.0, 0.5, 1.0))
    assert all(map(centre_inside, everywhere))
    assert len(set(everywhere)) > 5
    kept = [a == b for a, b in zip(nowhere, half, strict=True)]
    assert 0.4 < np.mean(kept) < 0.65  # the others are the same draws as without the bias
    assert all(centre_inside(b) for a, b in zip(nowhere, half, strict=True) if a != b)
    assert np.mean(list(map(centre_inside, nowhere))) < 0.5


@pytest.mark.parametrize("region", [((0, 0, 0), (3, 3, 3)), ((29, 21, 25), (30, 22, 26)), ((13, 9, 9), (14, 10, 10))])
def test_a_body_at_the_edge_or_small_gets_the_nearest_patches(region):
    first, last = centred_starts(region, SHAPE, PATCH)
    for a, b, low, high, p, n in zip(first, last, *region, PATCH, SHAPE, strict=True):
        assert 0 <= a <= b <= n - p
        assert a % 4 == b % 4 == 0
        wanted = min(max((low + high) / 2 - p / 2, 0), n - p)
        assert abs(a - wanted) <= 4
        assert abs(b - wanted) <= 4


@pytest.mark.parametrize("overhang", [0, 4])
def test_draws_reach_as_far_beyond_the_faces_as_they_may(overhang):
    for axis, n, p in zip(zip(*starts(overhang=overhang), strict=True), SHAPE, PATCH, strict=True):
        assert set(axis) == set(range(-overhang, n - p + overhang + 1, 4))


@pytest.mark.parametrize("overhang", [-4, 2, 8])
def test_an_overhang_that_cannot_be_is_refused(overhang):
    with pytest.raises(ValueError, match=rf"from 0 to half a patch, got {overhang} for patches of \[16, 12, 12\]"):
        RandomStarts(PATCH, overhang=overhang)


def test_a_share_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"foreground_share must lie in \[0, 1\], got 1.5"):
        RandomStarts(PATCH, foreground_share=1.5)
