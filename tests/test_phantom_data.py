"""The phantom data set on disk: what is written is what was rendered, once."""

import csv
import json
from typing import Any

import numpy as np
import pytest

from common.organs import lung_volume_ml
from dataset.phantom.data_set import SETTINGS, TRUTH_TABLE, make_phantom_data
from dataset.phantom.film import XraySettings
from dataset.prepare.cases import find_cases
from dataset.prepare.conversion import Conversion
from dataset.prepare.run import prepare
from dataset.scans import camera as cam
from dataset.scans.drr import frontal_drr, to_intensity
from dataset.scans.volume_io import read_ct
from dataset.scans.xray_io import read_xray

SMALL: dict[str, Any] = {
    "seed": 5,
    "shape_range": ((26, 22, 26), (30, 26, 28)),
    "spacing_range": ((11, 12, 12), (12, 14, 14)),
    "xray": XraySettings(size=64),
}


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def contents(root):
    return {p.relative_to(root): p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("phantoms")
    make_phantom_data(root, 4, **SMALL)
    return root


def test_every_case_can_be_read_back(made):
    cases, problems = find_cases(made, "", "")
    assert all(problem.note for problem in problems)  # that a column is its own
    assert len(cases) == 4
    truths = {row["patient_id"]: row for row in rows(made / TRUTH_TABLE)}
    volumes = []
    for case in cases:
        assert case.xray is not None
        ct, xray = read_ct(case.ct), read_xray(case.xray)
        assert xray.camera is not None
        assert all(low <= n <= high for low, n, high in zip((26, 22, 26), ct.hu.shape, (30, 26, 28), strict=True))
        assert ct.spacing[1] == pytest.approx(ct.spacing[2])
        assert all(11 <= s <= 14 for s in ct.spacing)
        integrals, camera = frontal_drr(ct.hu, ct.spacing, 64)
        np.testing.assert_allclose(xray.image, to_intensity(integrals), atol=1e-4)
        np.testing.assert_allclose(xray.camera, camera, atol=1e-6)
        assert xray.synthetic
        assert case.target in (0, 1)
        volumes.append([lung_volume_ml(ct.hu, ct.spacing), float(truths[case.patient_id]["lung"])])
    measured, true = np.transpose(volumes)
    np.testing.assert_allclose(measured, true, rtol=0.3)  # voxels of 12 mm


def test_shapes_spacings_and_axes_vary(tmp_path):
    make_phantom_data(tmp_path, 6, **SMALL | {"axes": ["LPS", "RAS", "SAL"]})
    volumes = [read_ct(case.ct) for case in find_cases(tmp_path, "", "")[0]]
    assert len({v.hu.shape for v in volumes}) > 1
    assert len({v.spacing for v in volumes}) == 6
    assert len({v.source_axes for v in volumes}) > 1
    assert {v.source_axes for v in volumes} <= {"LPS", "RAS", "SAL"}


def test_a_second_run_writes_nothing_and_a_larger_one_adds(made):
    before = contents(made)
    make_phantom_data(made, 4, **SMALL)
    assert contents(made) == before
    make_phantom_data(made, 5, **SMALL)
    after = contents(made)
    assert {p: t for p, t in after.items() if p in before and p.suffix != ".csv"} == {
        p: t for p, t in before.items() if p.suffix != ".csv"
    }
    assert len(rows(made / "pairs.csv")) == 5


def test_processes_do_not_change_the_result(tmp_path):
    make_phantom_data(tmp_path / "one", 2, **SMALL)
    make_phantom_data(tmp_path / "two", 2, num_workers=2, **SMALL)
    for case, same in zip(*(find_cases(tmp_path / n, "", "")[0] for n in ("one", "two")), strict=True):
        np.testing.assert_array_equal(read_ct(case.ct).hu, read_ct(same.ct).hu)
        assert case.xray.read_bytes() == same.xray.read_bytes()


def test_another_setting_is_refused_by_name(made):
    with pytest.raises(ValueError, match=r"seed=5 there, 6 asked for.*another folder"):
        make_phantom_data(made, 4, **SMALL | {"seed": 6})


def test_other_data_are_not_overwritten(tmp_path):
    (tmp_path / "pairs.csv").write_text("patient_id,ct,xray\n")
    with pytest.raises(ValueError, match="not of phantoms"):
        make_phantom_data(tmp_path, 1, **SMALL)
    assert not (tmp_path / SETTINGS).exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape_range": ((30, 30, 30), (20, 30, 30))}, "shape_range is"),
        ({"spacing_range": ((1, 1), (2, 2))}, "spacing_range is"),
        ({"shape_range": ((30, 22, 1), (30, 22, 9))}, "at least 2 voxels"),
        ({"embolism_share": 2}, "embolism_share"),
        ({"axes": []}, "axes needs"),
        ({"num_cases": 0}, "num_cases"),
    ],
)
def test_bad_settings_are_named(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        make_phantom_data(tmp_path, **{"num_cases": 1, **SMALL, **change})


def test_film_like_x_rays_say_no_more_than_films_and_are_registered(tmp_path):
    """Their true camera, which no sidecar tells, is found on the CT when they are prepared."""
    film = {"source_mm": 1700.0, "rotation_deg": 5.0, "shift_mm": 20.0, "magnification": 1.2, "size": 192}
    sizes = {"shape_range": [[60, 56, 64], [60, 56, 64]], "spacing_range": [[5.0] * 3, [5.0] * 3]}
    make_phantom_data(tmp_path, 3, **sizes, xray=film | {"breath_mm": 10.0, "degrade": True})
    cases = prepare(tmp_path, tmp_path / "store", conversion=Conversion(register_films=True)).cases
    errors = []
    for case in cases:
        assert not case.xray_synthetic
        truth = json.loads((tmp_path / case.patient_id / f"{case.patient_id}_truth.json").read_text())
        true = cam.of_pixels(cam.resized(512 / 192, (0, 0)), np.array(truth["xray_camera"]))
        places = np.stack(np.meshgrid([-90, 0, 90], [-60, 0, 60], [0, 60, 120]), -1).reshape(-1, 3)
        seen = [cam.pixels(np.array(c), places) for c in (case.xray_camera, case.xray_camera_declared, true)]
        errors.append([np.linalg.norm(one - seen[2], axis=1).mean() * 320 / 512 for one in seen[:2]])
    found, declared = np.median(errors, axis=0)
    assert found < 5 < 8 < declared
