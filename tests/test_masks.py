"""Regions from files: masks and maps of labels of real and drawn CTs, compared as MONAI does."""

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance

import evaluate_ddpm_patches
from common.errors import UserError
from dataset.prepare.conversion import Conversion
from dataset.prepare.run import prepare
from dataset.scans.volume_io import read_ct, write_ct
from dataset.store.store import VolumeStore
from pipeline.sampling.evaluated_field import Field
from pipeline.sampling.masks import MaskFolder
from pipeline.sampling.pairs import Pair
from tests.pairs import add_case, add_ct, thorax
from tests.tiny import run

SHAPE, SPACING = (12, 16, 20), (2.5, 1.5, 1.0)
WINDOW = (-1000.0, 1000.0)
TURNED = np.array([[0.96, 0.28, 0, 0], [-0.28, 0.96, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
AFFINE = np.diag([-SPACING[2], -SPACING[1], SPACING[0], 1])


def blob(seed, shape=SHAPE):
    rng = np.random.default_rng(seed)
    centre = [n / 2 + rng.uniform(-1.5, 1.5) for n in shape]
    return sum(((o - c) / (n / 4)) ** 2 for o, c, n in zip(np.ogrid[tuple(map(slice, shape))], centre, shape)) < 1  # noqa: B905


def write(path, array, affine=AFFINE, axes="LPS"):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_ct(path, array.astype(np.int16), affine, axes)


def middle(affine, shape):
    return affine @ [*((n - 1) / 2 for n in shape[::-1]), 1]


@pytest.fixture
def pair():
    drawn, real = np.random.default_rng(0).normal(0, 100, (2, *SHAPE))
    return Pair(drawn, real, SPACING, AFFINE, AFFINE)


def test_masks_are_compared_as_monai_compares_them_whatever_their_axes(tmp_path, pair):
    a, b = blob(1), blob(2)
    write(tmp_path / "generated" / "p0" / "heart.nii.gz", a)
    write(tmp_path / "real" / "p0" / "heart.nii.gz", b, axes="RAS")
    write(tmp_path / "real" / "p0" / "aorta.nii.gz", b)  # on one side alone
    masks = MaskFolder(tmp_path)
    masks.check(["p0", "p1"])
    found = masks.compare("p0", pair, WINDOW)
    one, other = (torch.from_numpy(mask)[None, None] for mask in (a, b))
    assert set(found) == {"mask:heart"}
    heart = found["mask:heart"]
    assert heart["dice"] == pytest.approx(float(compute_dice(one, other)))
    theirs = compute_hausdorff_distance(one, other, include_background=True, percentile=95, spacing=list(SPACING))
    assert heart["hd95_mm"] == pytest.approx(float(theirs))
    assert heart["ml_real"] == pytest.approx(b.sum() * np.prod(SPACING) / 1000)
    assert heart["hu_bias"] == pytest.approx((pair.drawn - pair.real)[b].mean())


def test_the_bias_of_hu_knows_the_window_alone(tmp_path, pair):
    b = blob(2)
    for side in ("real", "generated"):
        write(tmp_path / side / "p0" / "rib.nii.gz", b)
    bone = replace(pair, drawn=np.full(SHAPE, 1000), real=np.full(SHAPE, 1400))  # no model draws more than its window
    rib = MaskFolder(tmp_path).compare("p0", bone, WINDOW)["mask:rib"]
    assert (rib["hu_bias"], rib["hu_spread"]) == (0, 0)


def test_a_map_of_labels_holds_a_mask_each(tmp_path, pair):
    a, b = blob(1), blob(2)
    write(tmp_path / "generated" / "p0.nii.gz", 7 * a)
    write(tmp_path / "real" / "p0.nii", 7 * b + 3 * ~b)
    found = MaskFolder(tmp_path).compare("p0", pair, WINDOW)
    assert set(found) == {"mask:label_7"}
    assert found["mask:label_7"]["dice"] == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))


def test_masks_in_finer_voxels_serve_and_those_of_a_part_do_not(tmp_path, pair):
    fine = np.repeat(blob(1), 2, axis=0)
    halved = AFFINE @ np.diag([1, 1, 0.5, 1])
    write(tmp_path / "generated" / "p0" / "heart.nii.gz", fine, halved)
    write(tmp_path / "real" / "p0" / "heart.nii.gz", blob(1))
    assert MaskFolder(tmp_path).compare("p0", pair, WINDOW)["mask:heart"]["dice"] == 1
    write(tmp_path / "real" / "p0" / "heart.nii.gz", blob(1)[:6])
    with pytest.raises(UserError, match=r"a mask shows all that its CT shows; got \[15.0, 24.0, 20.0\] mm"):
        MaskFolder(tmp_path).compare("p0", pair, WINDOW)


def test_masks_of_whole_cts_serve_where_a_part_of_them_is_stored(tmp_path):
    add_case(tmp_path / "data", "p0", 0)
    add_ct(tmp_path / "data", "p0", np.roll(thorax(0), 3, axis=2))  # the body is not in the middle
    conversion = Conversion(crop_to_body=True)
    [case] = prepare(tmp_path / "data", tmp_path / "store", conversion=conversion, shares={"train": 1.0}).cases
    real = VolumeStore(tmp_path / "store").read_hu(case, (0, 0, 0), case.shape)
    file = tmp_path / "data" / "p0" / "p0.nii.gz"
    whole = read_ct(file)
    assert case.shape != whole.hu.shape
    affine = Field.of(case).affine
    assert not np.allclose(middle(affine, case.shape), middle(whole.affine, whole.hu.shape))
    write(tmp_path / "real" / "p0" / "lung.nii.gz", whole.hu < -500, whole.affine)
    write(tmp_path / "generated" / "p0" / "lung.nii.gz", real < -500, affine)  # of what was drawn on the store's grid
    pair = Pair(real, real, case.spacing, affine, affine)
    assert MaskFolder(tmp_path).compare("p0", pair, WINDOW)["mask:lung"]["dice"] == 1


@pytest.mark.parametrize(
    ("affine", "said"),
    [
        (AFFINE + np.eye(4, k=3) * 12, r"shows all that its CT shows; got .*, \[0.0, 0.0, -12.0\] mm off it"),
        (TURNED @ AFFINE, "a mask runs along the axes of its CT; got axes that part by up to 3.1 voxels"),
    ],
    ids=["elsewhere", "turned"],
)
def test_a_mask_lies_where_its_ct_lies(affine, said, tmp_path, pair):
    write(tmp_path / "generated" / "p0" / "heart.nii.gz", blob(1))
    write(tmp_path / "real" / "p0" / "heart.nii.gz", blob(1), affine)
    with pytest.raises(UserError, match=said):
        MaskFolder(tmp_path).compare("p0", pair, WINDOW)


def test_folders_that_hold_nothing_to_compare(tmp_path):
    with pytest.raises(UserError, match="no folder real/; masks are in DIR/real and DIR/generated"):
        MaskFolder(tmp_path).check(["p0"])
    for side in ("real", "generated"):
        write(tmp_path / side / ("p0" if side == "real" else "p1") / "heart.nii.gz", blob(1))
    with pytest.raises(UserError, match="no case in both folders, of p0, p1"):
        MaskFolder(tmp_path).check(["p0", "p1"])


def test_an_evaluation_takes_regions_from_files(workshop, elsewhere):
    for seed, side in enumerate(("real", "generated")):
        name = "phantom0001"
        ct = nib.load(workshop.root / name / f"{name}.nii.gz")
        mask = nib.Nifti1Image(blob(seed, ct.shape).astype(np.uint8), ct.affine)
        Path(f"masks/{side}/{name}").mkdir(parents=True)
        nib.save(mask, f"masks/{side}/{name}/heart.nii.gz")
    settings = [workshop.data, f"ckpt={workshop.ddpm_ckpt}", "run_dir=out", "split=train", "num_cases=2", "steps=1"]
    run(evaluate_ddpm_patches, *settings, "device=cpu", "anatomy=false", "controls=false", "masks=masks")
    found = json.loads(Path("out/metrics.json").read_text())
    dice = dict(zip(found["scores"], (case.get("dice_mask:heart") for case in found["cases"]), strict=True))
    assert dice["phantom0000"] is None
    assert 0 < dice["phantom0001"] < 1
    assert found["summary"]["dice_mask:heart"] == dice["phantom0001"]
    page = Path("out/report.html").read_text()
    assert "mask:heart" in page
    assert "The region is that of the masks that were given." in page
