"""Preparation finds where a film stood on its CT, keeps what was declared, and names what it does not find."""

from dataclasses import replace

import numpy as np
import pytest

from dataset.phantom.anatomy import draw_anatomy
from dataset.phantom.thorax import render
from dataset.prepare.conversion import Conversion
from dataset.prepare.file_store import FileStore
from dataset.prepare.run import prepare
from dataset.scans import camera as cam
from dataset.scans.camera import Film
from dataset.scans.drr import project, to_intensity
from dataset.scans.volume_io import write_ct
from dataset.scans.xray_io import write_xray
from dataset.store.store import VolumeStore

SIDE, MM = 160, 3.0
VOXELS, VOXEL_MM = (78, 66, 78), (4.0, 4.0, 4.0)
DECLARED = Film().square(SIDE, SIDE * MM)
REGISTER = Conversion(register_films=True, xray_fov_mm=SIDE * MM)


def turned(camera, degrees, shift, zoom):
    c, s = zoom * np.cos(np.radians(degrees)), zoom * np.sin(np.radians(degrees))
    change, middle = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]), np.full(2, (SIDE - 1) / 2)
    change[:2, 2] = middle + shift - change[:2, :2] @ middle
    return cam.of_pixels(change, camera)


TRUE = turned(DECLARED, 4.0, (-6.0, 5.0), 1.1)


@pytest.fixture(scope="module")
def bodies():
    return [render(draw_anatomy(np.random.default_rng(seed)), VOXELS, VOXEL_MM) for seed in range(3)]


def film(body):
    return to_intensity(project(body.hu, VOXEL_MM, TRUE, (SIDE, SIDE)))


def add(root, name, body, image, synthetic=False):
    write_ct(root / name / f"{name}.nii.gz", body.hu, body.affine)
    write_xray(root / name / "x_pa_drr.png", image, DECLARED, synthetic)


def squared(camera):
    """As the 512 pixels of the store see it."""
    return cam.of_pixels(cam.resized(512 / SIDE, (0, 0)), camera)


def apart(found, true):
    """Largest distance in the store's pixels, of 1 mm, at which two cameras see places of the chest."""
    places = np.stack(np.meshgrid([-100, 0, 100], [-60, 0, 60], [-100, 0, 100]), -1).reshape(-1, 3)
    return np.linalg.norm(cam.pixels(np.array(found), places) - cam.pixels(squared(true), places), axis=1).max()


def test_the_manifest_holds_the_camera_found_beside_the_declared_one(bodies, tmp_path):
    root, store = tmp_path / "pairs", tmp_path / "store"
    add(root, "told", bodies[0], film(bodies[0]))
    add(root, "bare", bodies[1], film(bodies[1]))
    (root / "bare" / "x_pa_drr.json").unlink()
    add(root, "drr", bodies[2], film(bodies[2]), synthetic=True)
    report = prepare(root, store, conversion=REGISTER)
    assert report.problems == []
    assert VolumeStore(store).cases == report.cases == FileStore(root, conversion=REGISTER).cases
    bare, drr, told = report.cases
    assert apart(told.xray_camera, TRUE) < 5
    assert apart(told.xray_camera_declared, TRUE) > 20
    np.testing.assert_allclose(told.xray_camera_declared, squared(DECLARED))
    assert apart(bare.xray_camera, TRUE) < 5
    assert bare.xray_camera_declared is None
    assert bare.registration["ok"]
    assert drr.registration is None  # it says that it is a projection
    assert drr.xray_camera == drr.xray_camera_declared
    again = prepare(root, store)
    assert again.prepared == 3
    assert all(case.xray_camera == case.xray_camera_declared for case in again.cases)
    assert [case.source_hash for case in again.cases] == [case.source_hash for case in report.cases]


def test_a_film_that_does_not_fit_keeps_its_declared_camera_and_is_named(bodies, tmp_path):
    add(tmp_path, "swapped", bodies[0], film(bodies[2]))
    report = prepare(tmp_path, tmp_path / "store", conversion=REGISTER)
    (case,), (problem,) = report.cases, report.problems
    assert not case.registration["ok"]
    assert case.xray_camera == case.xray_camera_declared
    assert (problem.patient_id, problem.fatal) == ("swapped", False)
    assert "a likeness of" in problem.found


def test_a_camera_found_counts_from_the_stored_volumes_centre(bodies, tmp_path):
    add(tmp_path, "a", bodies[0], film(bodies[0]))
    whole = prepare(tmp_path, tmp_path / "whole", conversion=REGISTER).cases[0]
    cropped = prepare(tmp_path, tmp_path / "crop", conversion=replace(REGISTER, crop_to_body=True)).cases[0]
    centre = (np.sum(whole.body_box, axis=0) - whole.shape) / 2 * VOXEL_MM
    assert apart(whole.xray_camera, TRUE) < 5
    assert apart(cropped.xray_camera, cam.of_centre(TRUE, centre[::-1])) < 5
