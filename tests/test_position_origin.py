"""Positions that count from the patient: fields of view that lie otherwise in the same chest change no input."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import evaluate_ddpm_patches
import sample_ddpm_patches
import train_ddpm_patches_4gpu
from dataset.prepare import examine
from dataset.scans import camera as cam
from dataset.scans.volume_io import Volume
from dataset.store.store import VolumeStore, write_manifest
from dataset.store.views import StoredView
from ddpm.guided import GuidedDenoiser
from ddpm.plan import Grid, SamplingPlan, XrayInput
from ddpm.position import about_origin
from pipeline.sampling import film_frame
from pipeline.sampling.ct_sampler import CTSampler
from pipeline.sampling.evaluated_field import Field
from pipeline.sampling.shown_films import ShownFilms
from tests.test_store import stored_case
from tests.tiny import built_ddpm, run

PATIENT = "model.position_origin=patient"
ORIGIN = (12.0, -20.0, 8.0)  # d, h, w in mm


@pytest.fixture
def settings(workshop, elsewhere):
    return [*workshop.ddpm, PATIENT]


@pytest.fixture(scope="module")
def trained(workshop, tmp_path_factory):
    folder = tmp_path_factory.mktemp("patient")
    where = [f"run_dir={folder}/run", f"checkpoint_dir={folder}"]
    run(train_ddpm_patches_4gpu, *workshop.ddpm, PATIENT, *where, "model.train_lr=0.01")
    return folder / "last.ckpt"


@pytest.mark.parametrize("film", [cam.PARALLEL, cam.Film(), cam.Film("ll"), cam.Film("ap", turn_deg=30)])
def test_a_camera_shows_the_same_points_whatever_they_count_from(film):
    camera, points = film.square(512, 400.0), np.random.default_rng(0).uniform(-150, 150, (20, 3))
    moved = about_origin(torch.tensor(camera), torch.tensor(ORIGIN, dtype=torch.float64)).numpy()
    np.testing.assert_allclose(cam.pixels(moved, points - ORIGIN[::-1]), cam.pixels(camera, points), atol=1e-9)
    np.testing.assert_allclose(moved, cam.of_centre(camera, ORIGIN[::-1]), atol=1e-12)
    kept = about_origin(torch.tensor(camera), torch.zeros(3))
    assert torch.equal(kept, torch.tensor(camera))


def inputs(module, batch):
    """What the network is given of places: cameras and positions."""
    module.eval()
    given = module._noised(batch)[0]
    return given[5], given[7]


def test_a_field_of_view_that_lies_otherwise_changes_no_input(settings):
    """Of a volume that was cut by 4 voxels of 3 mm at its low ends, the lungs lie 6 mm nearer to them."""
    made = built_ddpm(*settings)
    batch = made.batch | {"spacing": torch.full((2, 3), 3.0), "origin": torch.tensor([ORIGIN] * 2)}
    cut = {
        "patch_coord": batch["patch_coord"] - 4,
        "volume_shape": batch["volume_shape"] - 4,
        "origin": batch["origin"] - 6,
        "xray_camera": about_origin(batch["xray_camera"], torch.full((2, 3), 6.0)),
    }
    for one, other in zip(inputs(made.module, batch), inputs(made.module, batch | cut), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-3)
    assert not torch.allclose(inputs(made.module, batch)[1], inputs(made.module, batch | {"origin": cut["origin"]})[1])


def test_by_default_they_count_from_the_volume(settings):
    made = built_ddpm(*settings[:-1])
    batch = made.batch
    for one, other in zip(
        inputs(made.module, batch), inputs(made.module, batch | {"origin": batch["origin"] + 50}), strict=True
    ):
        assert torch.equal(one, other)


def test_items_tell_where_the_lungs_lie(settings, workshop):
    store = VolumeStore(workshop.store)
    known = {case.name: case.origin_mm for case in store.cases}
    assert any(origin is not None and max(map(abs, origin)) > 2 for origin in known.values())
    data = built_ddpm(*settings).data.train
    for item in (data[i] for i in range(0, len(data), data.patches_per_volume)):
        assert item["origin"].tolist() == pytest.approx(known[item["patient_id"]] or (0, 0, 0))


def test_cases_without_lungs_are_named_and_a_data_set_of_such_is_refused(settings, workshop, refused, caplog):
    folder = Path(shutil.copytree(workshop.store, "store"))
    cases = [replace(case, origin_mm=ORIGIN) for case in VolumeStore(folder).cases]
    settings = [*settings, f"dataset.store={folder}"]
    write_manifest(folder, [replace(cases[0], origin_mm=None), *cases[1:]])
    built_ddpm(*settings)
    said = [record.getMessage() for record in caplog.records if "no whole lungs" in record.getMessage()]
    assert len(said) == 1
    assert cases[0].name in said[0]
    assert cases[1].name not in said[0]
    write_manifest(folder, [replace(case, origin_mm=None) for case in cases])
    assert "run prepare_data.py" in refused(train_ddpm_patches_4gpu, *settings)
    built_ddpm(*settings, "model.position_origin=volume")


def test_a_windows_positions_count_from_the_grids_origin():
    seen = []

    def denoiser(x, t, condition, positions, spacing, extent):
        seen.append(positions)
        return x

    device = torch.device("cpu")
    for origin in ((0.0, 0.0, 0.0), ORIGIN):
        grid = Grid((16, 16, 16), (3.0, 3.0, 3.0), origin)
        predict = GuidedDenoiser(denoiser, Rows(), grid, SamplingPlan(1, window_batch=1), device)
        predict(torch.zeros(1, 1, 4, 4, 4), torch.full((1,), 0.5), torch.zeros(1, 3, dtype=torch.int64))
    torch.testing.assert_close(seen[0] - seen[1], torch.tensor(ORIGIN).view(1, 3, 1, 1, 1).expand_as(seen[0]))


class Rows(dict):
    """A condition that nobody looks at."""

    def __getitem__(self, index):
        return self


def test_a_checkpoint_knows_what_its_positions_count_from(trained, workshop):
    store = VolumeStore(workshop.store)
    case = next(case for case in store.cases if case.origin_mm is not None)
    model, plain = CTSampler(trained, device="cpu"), CTSampler(workshop.ddpm_ckpt, device="cpu")
    assert (model.origin_of(case), plain.origin_of(case)) == (case.origin_mm, (0, 0, 0))
    camera = np.array(case.xray_camera)
    np.testing.assert_allclose(plain.stored_xray(store, case).camera, camera, rtol=1e-6)
    moved = model.stored_xray(store, case).camera.numpy()
    np.testing.assert_allclose(moved, cam.of_centre(camera, case.origin_mm[::-1]), rtol=1e-4, atol=1e-3)
    grid, plan = Field.of(case).place.grid, SamplingPlan(2)
    shown = model.stored_xray(store, case)
    here, there = (model.draw(shown, replace(grid, origin=origin), plan, 0) for origin in ((0, 0, 0), case.origin_mm))
    assert not np.array_equal(here, there)


def test_a_film_alone_defines_the_frame(trained, workshop, tmp_path, monkeypatch):
    """The lungs on it are where the grid's centre lies, and the JSON beside the CT says so."""
    monkeypatch.setattr(film_frame, "lungs_on_film", lambda film, camera: np.array(ORIGIN[::-1]))
    model, plain = CTSampler(trained, device="cpu"), CTSampler(workshop.ddpm_ckpt, device="cpu")
    told, found = plain.load_xray(workshop.xray), model.load_xray(workshop.xray)
    assert (told.lungs, found.lungs) == (None, ORIGIN)
    np.testing.assert_allclose(found.camera, cam.of_centre(told.camera.numpy(), ORIGIN[::-1]), rtol=1e-4, atol=1e-3)
    command = [f"xray={workshop.xray}", f"ckpt={trained}", "shape=[16,16,16]", "steps=2", "device=cpu"]
    run(sample_ddpm_patches, *command, f"output={tmp_path}/found.nii.gz")
    monkeypatch.setattr(film_frame, "lungs_on_film", lambda film, camera: None)
    run(sample_ddpm_patches, *command, f"output={tmp_path}/lost.nii.gz")
    assert torch.equal(model.load_xray(workshop.xray).camera, told.camera)
    beside = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in ("found", "lost")}
    assert beside["found"]["position_origin"] == "the lungs on the X-ray"
    assert beside["found"]["lungs_mm"] == list(ORIGIN)
    assert "no lungs found" in beside["lost"]["position_origin"]
    assert beside["found"]["xray_camera"] != beside["lost"]["xray_camera"]


def test_further_views_share_the_frontal_ones_frame(monkeypatch):
    monkeypatch.setattr(film_frame, "lungs_on_film", lambda film, camera: np.array(ORIGIN[::-1]))
    frontal, lateral = (torch.tensor(cam.Film(view).square(64, 400.0)) for view in ("pa", "ll"))
    image = torch.zeros(1, 64, 64)
    given = XrayInput(image, image, frontal, views={"lateral": XrayInput(image, image, lateral)})
    shown = film_frame.in_patients_frame(given)
    for old, new in ((frontal, shown.camera), (lateral, shown.views["lateral"].camera)):
        np.testing.assert_allclose(new, cam.of_centre(old.numpy(), ORIGIN[::-1]), atol=1e-5)


def test_where_a_ct_cuts_the_lungs_its_registered_film_tells_where_they_lie(workshop, monkeypatch):
    monkeypatch.setattr(examine, "lungs_on_film", lambda film, camera: np.array([7.0, 0.0, -9.0]))
    volume = Volume(np.zeros((20, 40, 30), np.int16), np.diag([-1.0, -2.0, 3.0, 1.0]), "LPS", np.eye(4))
    body = ((0, 4, 0), (20, 30, 30))
    camera = examine.as_tuples(cam.PARALLEL.square(512, 400.0).tolist())
    for registration, expected in (({"ok": True}, (-9, -6, 7)), ({"ok": False}, None), (None, None)):
        film = StoredView("a.png", "uint8", (0.0, 1.0), camera, False, camera, registration)
        assert examine._lungs_on(np.zeros((512, 512)), film, volume, body) == expected


def test_projections_are_compared_where_the_cameras_count_from():
    rng = np.random.default_rng(0)
    hu, camera = rng.integers(-1000, 1000, (30, 28, 26)).astype(np.int16), cam.Film().square(128, 360.0)
    image = torch.from_numpy(rng.random((1, 128, 128), np.float32))
    cameras = torch.tensor(camera), about_origin(torch.tensor(camera), torch.tensor(ORIGIN, dtype=torch.float64))
    case = stored_case("0")
    here, there = (
        ShownFilms(lambda case, camera=camera: XrayInput(image, image, camera)).compare(
            hu, (9.0,) * 3, case, [], origin
        )
        for camera, origin in zip(cameras, ((0.0, 0.0, 0.0), ORIGIN), strict=True)
    )
    assert there == pytest.approx(here, abs=1e-6)


def test_an_evaluation_draws_in_the_patients_frame(trained, workshop, elsewhere, monkeypatch):
    origins, draw = [], CTSampler.draw
    monkeypatch.setattr(CTSampler, "draw", lambda *a: origins.append(a[2].origin) or draw(*a))
    settings = ["split=train", "steps=2", "num_cases=2", "device=cpu", "anatomy=false"]
    run(evaluate_ddpm_patches, workshop.data, f"ckpt={trained}", *settings)
    cases = VolumeStore(workshop.store).split("train")[:2]
    own = [case.origin_mm or (0.0, 0.0, 0.0) for case in cases]
    assert own[0] != own[1]
    assert origins == [own[0], own[0], own[1], own[1]]  # each with its own X-ray and the other's, on one grid
