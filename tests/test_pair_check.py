"""Preparation says which X-rays do not show their CT: another patient's, mirrored, turned, a negative."""

import re
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from dataset.phantom.anatomy import draw_anatomy
from dataset.phantom.thorax import render
from dataset.prepare.conversion import REFUSE, REPORT, Conversion
from dataset.prepare.run import prepare
from dataset.scans import camera as cam
from dataset.scans.camera import Film
from dataset.scans.drr import project, to_intensity
from dataset.scans.volume_io import write_ct
from dataset.scans.xray_io import write_xray

SIDE, MM = 160, 3.0
VOXELS, VOXEL_MM = (78, 66, 78), (4.0, 4.0, 4.0)
DECLARED = Film().square(SIDE, SIDE * MM)
CHECK = Conversion(pair_check=REPORT, xray_fov_mm=SIDE * MM)


@pytest.fixture(scope="module")
def bodies():
    return [render(draw_anatomy(np.random.default_rng(seed)), VOXELS, VOXEL_MM) for seed in (3, 9)]


def shown(body):
    """A film that stands 9 mm aside and is 5 % larger than declared."""
    change = np.array([[1.05, 0, 3.0 - 0.05 * SIDE / 2], [0, 1.05, -0.05 * SIDE / 2], [0, 0, 1]])
    return to_intensity(project(body.hu, VOXEL_MM, cam.of_pixels(change, DECLARED), (SIDE, SIDE)))


def add(root, name, body, image, synthetic=False):
    write_ct(root / name / f"{name}.nii.gz", body.hu, body.affine)
    write_xray(root / name / "x_pa_drr.png", image, DECLARED, synthetic)


WRONG = {
    "mirrored": lambda image: image[:, ::-1],
    "upside down": lambda image: np.rot90(image, 2),
    "turned left": lambda image: np.rot90(image, 1),
    "a negative": lambda image: 1 - image,
}


@pytest.mark.parametrize("synthetic", [False, True], ids=["film", "projection"])
@pytest.mark.parametrize("wrong", WRONG)
def test_an_xray_the_wrong_way_round_is_told_with_both_pictures(bodies, tmp_path, wrong, synthetic):
    image = shown(bodies[0])
    add(tmp_path, "good", bodies[1], shown(bodies[1]), synthetic)
    add(tmp_path, "bad", bodies[0], WRONG[wrong](image), synthetic)
    report = prepare(tmp_path, tmp_path / "store", conversion=CHECK)
    assert [case.patient_id for case in report.cases] == ["bad", "good"]  # reported, used
    (problem,) = report.problems
    assert (problem.patient_id, problem.path, problem.fatal) == ("bad", "bad/x_pa_drr.png", False)
    assert f"taken for {wrong} it fits better" in problem.found
    widths = {name: Image.open(tmp_path / "store" / "thumbnails" / f"{name}.png").width for name in ("good", "bad")}
    assert widths["bad"] - widths["good"] == 160 + 4  # of this one, the X-ray stands there as it should be, too
    assert wrong in (tmp_path / "store" / "report.html").read_text()


@pytest.mark.parametrize("synthetic", [False, True], ids=["film", "projection"])
def test_another_patients_xray_is_told(bodies, tmp_path, synthetic):
    add(tmp_path, "swapped", bodies[0], shown(bodies[1]), synthetic)
    (problem,) = prepare(tmp_path, tmp_path / "store", conversion=CHECK).problems
    assert re.search(r"likeness of 0\.\d\d, not 0\.88", problem.found)
    assert not problem.fatal


@pytest.mark.parametrize("synthetic", [False, True], ids=["film", "projection"])
def test_exchanged_xrays_name_each_other(bodies, tmp_path, synthetic):
    third = render(draw_anatomy(np.random.default_rng(15)), VOXELS, VOXEL_MM)
    add(tmp_path, "a", bodies[0], shown(bodies[1]), synthetic)
    add(tmp_path, "b", bodies[1], shown(bodies[0]), synthetic)
    add(tmp_path, "c", third, shown(third), synthetic)
    for anew in (3, 0):  # from records as well
        report = prepare(tmp_path, tmp_path / "store", conversion=CHECK)
        assert report.prepared == anew
        told = {problem.patient_id: problem for problem in report.problems}
        assert sorted(told) == ["a", "b"]
        for name, partner in (("a", "b"), ("b", "a")):
            assert f"it fits the CT of {partner} better: 0." in told[name].found
            assert f"that of {partner}." in told[name].remedy


def test_a_mirrored_xray_and_a_strangers_name_nobody(bodies, tmp_path):
    third = render(draw_anatomy(np.random.default_rng(15)), VOXELS, VOXEL_MM)
    add(tmp_path, "a", bodies[0], shown(bodies[0])[:, ::-1])
    add(tmp_path, "b", bodies[1], shown(third))
    problems = prepare(tmp_path, tmp_path / "store", conversion=CHECK).problems
    assert sorted(problem.patient_id for problem in problems) == ["a", "b"]
    assert not any("fits the CT of" in problem.found for problem in problems)


def test_another_study_of_the_patient_is_no_partner(bodies, tmp_path):
    add(tmp_path, "a", bodies[0], shown(bodies[1]))
    add(tmp_path, "b", bodies[1], shown(bodies[1])[::-1, ::-1])
    rows = [f"p,{name}/{name}.nii.gz,{name}/x_pa_drr.png" for name in ("a", "b")]
    (tmp_path / "pairs.csv").write_text("\n".join(["patient_id,ct,xray", *rows]))
    problems = prepare(tmp_path, tmp_path / "store", conversion=CHECK).problems
    assert sorted(p.patient_id for p in problems if "X-ray" in p.rule) == ["p", "p_2"]
    assert not any("fits the CT of" in problem.found for problem in problems)


def test_a_lost_affine_is_found_by_the_xray(bodies, tmp_path):
    """Of an identity left is right, and front is back."""
    add(tmp_path, "lost", bodies[0], shown(bodies[0]))
    path = tmp_path / "lost" / "lost.nii.gz"
    voxels = np.asanyarray(nib.load(path).dataobj)
    nib.save(nib.Nifti1Image(voxels, np.diag([*VOXEL_MM[::-1], 1.0])), path)
    (problem,) = prepare(tmp_path, tmp_path / "store", conversion=CHECK).problems
    assert "taken for mirrored it fits better" in problem.found


def test_pairs_that_do_not_fit_are_left_out_on_request_or_not_looked_for(bodies, tmp_path):
    add(tmp_path, "good", bodies[1], shown(bodies[1]))
    add(tmp_path, "bad", bodies[0], shown(bodies[0])[:, ::-1])
    report = prepare(tmp_path, tmp_path / "store", conversion=replace(CHECK, pair_check=REFUSE))
    assert [case.patient_id for case in report.cases] == ["good"]
    assert report.problems[0].fatal
    again = prepare(tmp_path, tmp_path / "store", conversion=replace(CHECK, pair_check="off"))
    assert (len(again.cases), again.problems) == (2, [])
    with pytest.raises(UserError, match="report, refuse or off"):
        Conversion(pair_check="maybe")
