"""dataset.make_xray=film: people who own CTs alone train for films."""

import numpy as np
import pytest

from dataset.phantom.data_set import make_phantom_data
from dataset.prepare.conversion import Conversion
from dataset.prepare.conversion_file import check_conversion
from dataset.prepare.made_xray import make_film
from dataset.prepare.run import prepare
from dataset.scans.camera import PARALLEL
from dataset.scans.drr import project, to_intensity
from dataset.scans.volume_io import read_ct
from dataset.store.store import VolumeStore


@pytest.fixture
def lonely(tmp_path):
    """Two chests without an X-ray."""
    root = tmp_path / "data"
    make_phantom_data(root, 2, shape_range=[[40, 36, 44]] * 2, spacing_range=[[8.0, 8.0, 8.0]] * 2)
    for xray in root.glob("*/*_pa_drr.*"):
        xray.unlink()
    (root / "pairs.csv").unlink()
    return root


def test_a_ct_without_an_xray_gets_a_film_and_its_true_camera(lonely, tmp_path):
    store = tmp_path / "store"
    cases = prepare(lonely, store, conversion=Conversion(make_xray="film")).cases
    assert [(case.xray_synthetic, case.xray_kind) for case in cases] == [(True, "uint8")] * 2
    assert cases[0].xray_camera != cases[1].xray_camera  # each stood otherwise
    for case in cases:
        volume = read_ct(lonely / case.ct_source)
        film = make_film(case.patient_id, volume)
        np.testing.assert_allclose(case.xray_camera, film.camera)
        inner, likeness = slice(64, -64), []  # within the collimator
        for camera in (film.camera, PARALLEL.square(512, 44 * 8.0)):
            seen = to_intensity(project(volume.hu, volume.spacing, camera, (512, 512)))
            likeness.append(np.corrcoef(seen[inner, inner].ravel(), film.image[inner, inner].ravel())[0, 1])
        assert likeness[0] > 0.95
        assert likeness[0] > likeness[1] + 0.02


def test_the_film_of_a_ct_is_the_same_every_time(lonely, tmp_path, caplog):
    films = []
    for name in ("one", "other"):
        prepare(lonely, tmp_path / name, conversion=Conversion(make_xray="film"))
        store = VolumeStore(tmp_path / name)
        films.append(store.read_xray(store.cases[0]))
    assert np.array_equal(*films)
    check_conversion(tmp_path / "one", Conversion(make_xray="film"))
    assert caplog.text == ""
    check_conversion(tmp_path / "one", Conversion(make_xray=True))
    assert "make_xray=true, source null mm, but" in caplog.text
    assert 'prepared with "film"' in caplog.text
