"""What two views show comes back to the side it is on: left, front and high stay so, on a phantom and on a real CT."""

import numpy as np
import pytest
import torch

from common.patches import positions_mm
from dataset.phantom.anatomy import draw_anatomy
from dataset.phantom.thorax import render
from dataset.scans.camera import Film
from dataset.scans.drr import project
from dataset.scans.volume_io import read_ct
from medclip_cond.lifting import pixels_of, sample_plane

SIDE = 160
FILMS = {
    "parallel": [Film("pa", None), Film("ll", None)],
    "cone": [Film("pa"), Film("ll")],
    "bedside": [Film("ap", 1100.0, 100.0), Film("rl")],
}


@pytest.fixture(scope="module", params=["phantom", "lidc"])
def chest(request):
    """HU (D, H, W) and spacing, at about 5 mm."""
    if request.param == "phantom":
        return render(draw_anatomy(np.random.default_rng(2)), (60, 48, 60), (6.0, 6.0, 6.0)).hu, (6.0, 6.0, 6.0)
    scan = read_ct(request.getfixturevalue("shared_data") / "lidc_idri_0001" / "ct.nii.gz")
    return scan.hu[::2, ::7, ::7].copy(), tuple(n * s for n, s in zip((2, 7, 7), scan.spacing, strict=True))


def lifted(image, camera, shape, spacing):
    """Of each voxel, what an image (SIDE, SIDE) shows there: (D, H, W)."""
    places = positions_mm(torch.zeros(1, 3), torch.tensor([spacing]), torch.tensor([shape]), shape)
    pixels = pixels_of(torch.tensor(camera[None], dtype=torch.float32), places)
    plane = sample_plane(torch.from_numpy(image)[None, None], pixels.view(1, shape[0], -1, 2), (SIDE, SIDE))
    return plane.view(shape).numpy()


@pytest.mark.parametrize("films", FILMS)
@pytest.mark.parametrize("place", [(0.7, 0.3, 0.7), (0.4, 0.65, 0.3)], ids=["left in front", "right at the back"])
def test_a_bead_is_where_both_views_show_it(chest, films, place):
    hu, spacing = chest
    at = np.round(np.multiply(place, hu.shape)).astype(int)
    marked = hu.copy()
    marked[tuple(slice(n - 1, n + 2) for n in at)] = 3000
    seen = np.ones(hu.shape)
    for film in FILMS[films]:
        camera = film.square(SIDE, 420.0)
        shown = [project(volume, spacing, camera, (SIDE, SIDE)) for volume in (marked, hu)]
        seen *= lifted(np.abs(shown[0] - shown[1]), camera, hu.shape, spacing)
    found = np.unravel_index(seen.argmax(), hu.shape)
    assert np.abs(found - at).max() <= 1


@pytest.mark.parametrize("films", FILMS)
def test_the_anatomy_fits_no_mirrored_view(chest, films):
    hu, spacing = chest
    dense = np.clip(hu, -1000, 500).astype(float)
    for film, along in zip(FILMS[films], (1, 2), strict=True):
        camera = film.square(SIDE, 420.0)
        shown = lifted(project(hu, spacing, camera, (SIDE, SIDE)), camera, hu.shape, spacing).mean(along)
        right, mirrored = (np.corrcoef(shown.ravel(), dense.mean(along)[:, ::way].ravel())[0, 1] for way in (1, -1))
        assert right > mirrored + 0.02
        assert right > 0.9
