"""evaluate_files.py: CTs of other systems get the scores that ours get, in one table."""

import json
from pathlib import Path

import numpy as np
import pytest

import evaluate_ddpm_patches
import evaluate_files
from common.errors import UserError
from dataset.scans.volume_io import write_ct
from evaluation.common_grid import CommonGrid, to_grid
from evaluation.compare import means, paired
from evaluation.metrics import psnr
from evaluation.report.volumes import choose, embed
from pipeline.sampling import extractors
from pipeline.sampling.file_pairs import FilePairs
from tests.tiny import run

WINDOW, SHAPE, SPACING = (-1000.0, 1000.0), (20, 24, 28), (5.0, 3.0, 3.0)
SMALL = CommonGrid((24, 24, 24), (5.0, 5.0, 5.0))


def write(path, hu, spacing=SPACING, axes="LPS"):
    path.parent.mkdir(parents=True, exist_ok=True)
    d, h, w = spacing
    write_ct(path, hu.astype(np.int16), np.diag([-w, -h, d, 1]), axes)


def body(seed):
    """A dense ellipsoid in air."""
    rng = np.random.default_rng(seed)
    radius = sum(
        ((o - n / 2) / (n / rng.uniform(2.5, 3))) ** 2 for o, n in zip(np.ogrid[:20, :24, :28], SHAPE, strict=True)
    )
    return np.round(np.where(radius < 1, 40, -1000) + rng.normal(0, 20, SHAPE))


@pytest.fixture
def folders(elsewhere):
    """Five real CTs, and drawn ones that are off by some noise."""
    for seed in range(5):
        real = body(seed)
        write(Path(f"real/p{seed}.nii.gz"), real)
        write(Path(f"drawn/p{seed}.nii.gz"), real + np.random.default_rng(9).normal(0, 50, SHAPE), axes="RAS")


def evaluated(*settings):
    run(evaluate_files, "real=real", "device=cpu", "anatomy=false", *settings)
    return json.loads(Path("outputs/evaluation_files/metrics.json").read_text())


def test_files_are_scored_with_presets_and_distributions(folders, monkeypatch):
    monkeypatch.setattr(extractors, "GRID", SMALL)
    found = evaluated("generated=drawn", "presets=[x2ct_compat]", "extractors.random=true")
    assert list(found["scores"]) == [f"p{i}" for i in range(5)]
    summary = found["summary"]
    assert 25 < summary["psnr_right"] < 35
    assert "psnr_right x2ct_compat" in summary
    assert summary["fid_random_volume"] > 0
    assert "psnr" in Path("outputs/evaluation_files/report.html").read_text()


def test_what_an_evaluation_of_a_model_left_there_is_not_shown(folders):
    out = Path("outputs/evaluation_files")
    choose(out, ["p0"])
    embed(out, "p0", [body(0)] * 2, np.eye(4), 10**6)
    (out / "p0.png").touch()
    evaluated("generated=drawn")
    page = (out / "report.html").read_text()
    assert "p0.png" not in page
    assert "report/p0.js" not in page


def test_bad_files_are_named_together_and_the_other_scores_are_kept(folders, refused, monkeypatch):
    settings = ["generated=drawn", "real=real", "device=cpu", "anatomy=false"]
    for name in ("p1", "p3"):
        write(Path(f"drawn/{name}.nii.gz"), (body(0) + 1000) / 2000)  # not in HU, which voxels alone tell
    message = refused(evaluate_files, *settings)
    assert "2 files cannot be used" in message
    assert "drawn/p1.nii.gz: CTs are in HU" in message
    assert "drawn/p3.nii.gz: CTs are in HU" in message
    assert "run the same command again" in message
    assert not Path("outputs/evaluation_files/metrics.json").exists()
    for name in ("p1", "p3"):
        write(Path(f"drawn/{name}.nii.gz"), body(int(name[1])))
    read, done = FilePairs.read, []
    monkeypatch.setattr(FilePairs, "read", lambda self, name, window: done.append(name) or read(self, name, window))
    found = evaluated("generated=drawn")
    assert done == ["p1", "p3"]
    assert list(found["scores"]) == [f"p{i}" for i in range(5)]
    assert not Path("outputs/evaluation_files/unfinished").exists()


def test_scores_are_kept_of_the_same_files_and_settings_alone(folders, refused):
    write(Path("drawn/p4.nii.gz"), (body(0) + 1000) / 2000)
    refused(evaluate_files, "generated=drawn", "real=real", "device=cpu", "anatomy=false")
    for name in ("p0", "p4"):
        write(Path(f"drawn/{name}.nii.gz"), body(int(name[1])))
    whole = evaluated("generated=drawn", "presets=[hu2000]")
    assert [case["hu_mae"] > 0 for case in whole["cases"]] == [False, True, True, True, False]
    assert all("hu_mae hu2000" in case for case in whole["cases"])


def test_fields_of_view_are_compared_before_anything_is_scored(folders, refused):
    for name in ("p1", "p3"):
        write(Path(f"drawn/{name}.nii.gz"), body(0)[:10])
    Path("drawn/p2.nii.gz").write_bytes(b"none")
    message = refused(evaluate_files, "generated=drawn", "real=real", "device=cpu", "anatomy=false")
    assert "3 files cannot be used" in message
    assert message.count("shows the field of view of the real one") == 2
    assert "drawn/p2.nii.gz" in message
    assert not Path("outputs/evaluation_files").exists()


def test_the_truth_is_perfect(folders):
    found = evaluated("generated=real")
    assert [case["psnr"] for case in found["cases"]] == [None] * 5  # infinite
    assert found["summary"]["ssim_right"] == pytest.approx(1)
    assert found["summary"]["hu_mae_right"] == 0
    assert found["summary"]["gradient_energy"] == 1


def test_a_preset_sees_all_that_its_window_holds(elsewhere):
    hu = body(0)
    hu[8:12, 10:14, 10:18] = 1400  # dense bone: clipped on one side alone, it would count as an error
    for folder in ("drawn", "real"):
        write(Path(f"{folder}/p0.nii.gz"), hu)
    [case] = evaluated("generated=drawn", "presets=[x2ct_compat]")["cases"]
    assert case["psnr x2ct_compat"] == 100
    assert (case["hu_mae"], case["hu_mae x2ct_compat"]) == (0, 0)


def test_bone_beyond_the_window_stays_on_another_grid(elsewhere):
    hu = np.full(SHAPE, 1400.0)
    hu[0] = -1000
    write(Path("real/p0.nii.gz"), hu)
    write(Path("drawn/p0.nii.gz"), hu[::2, ::2, ::2], (10.0, 6.0, 6.0))
    pair = FilePairs.find(Path("drawn"), Path("real")).read("p0", WINDOW)
    assert pair.drawn[5:].min() == 1400
    np.testing.assert_allclose(pair.real[5:], 1400, atol=0.01)


def test_another_grid_of_the_same_field_of_view_is_compared_where_it_is(folders):
    real = body(0)
    coarse = CommonGrid((10, 12, 14), (10.0, 6.0, 6.0))
    shown = to_grid(real, SPACING, coarse, WINDOW)
    write(Path("coarse/p0.nii.gz"), shown, coarse.spacing)
    pair = FilePairs.find(Path("coarse"), Path("real")).read("p0", WINDOW)
    assert pair.spacing == coarse.spacing
    assert psnr(pair.drawn, pair.real, WINDOW) > 70  # but for rounding
    write(Path("coarse/p0.nii.gz"), (shown + 1000) / 2000, coarse.spacing)  # as networks have it
    with pytest.raises(UserError, match="CTs are in HU, in which air and fat are below 0; got"):
        FilePairs.find(Path("coarse"), Path("real")).read("p0", WINDOW)
    write(Path("coarse/p0.nii.gz"), shown, (1.0, 1.0, 1.0))  # as those write them who know no spacing
    with pytest.raises(UserError, match=r"shows the field of view of the real one; got \[10.0, 12.0, 14.0\] mm"):
        FilePairs.find(Path("coarse"), Path("real")).read("p0", WINDOW)


@pytest.mark.parametrize("step", [1, 2])
def test_masks_lie_where_the_file_lies_that_they_are_of(step, elsewhere):
    """Other systems write their CTs about another origin, some on a coarser grid."""
    blocks, spacing = np.zeros((10, 12, 14), bool), tuple(step * size for size in SPACING)
    blocks[3:6, 4:9, 5:11] = True
    coarse = np.kron(blocks, np.ones((2 // step,) * 3, bool)).astype(bool)
    fine = np.kron(blocks, np.ones((2, 2, 2), bool)).astype(bool)
    for side, mask, voxel, origin in (("real", fine, SPACING, 70), ("generated", coarse, spacing, 0)):
        affine = np.diag([-voxel[2], -voxel[1], voxel[0], 1])
        affine[:3, 3] = origin
        for path, array in ((f"{side}/p0.nii.gz", np.where(mask, 300, -1000)), (f"masks/{side}/p0/heart.nii.gz", mask)):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            write_ct(Path(path), array.astype(np.int16), affine)
    [case] = evaluated("generated=generated", "masks=masks")["cases"]
    assert case["dice_mask:heart"] == 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["generated=nowhere"], ("generated=nowhere is no folder",)),
        (["generated=empty"], ("generated=empty holds no CT",)),
        (["generated=drawn", "real=one"], ("4 have none: p1, p2, p3, p4",)),
        (["generated=drawn", "masks=empty"], ("masks=empty has no folder real/",)),
    ],
)
def test_what_cannot_be_scored(settings, said, folders, refused):
    Path("empty").mkdir()
    write(Path("one/p0/p0.nii.gz"), body(0))
    message = refused(evaluate_files, "real=real", *settings)
    assert all(words in message for words in said)


def test_what_a_model_drew_gets_the_numbers_of_its_own_evaluation_and_stands_beside_it(workshop, elsewhere):
    settings = [workshop.data, f"ckpt={workshop.ddpm_ckpt}", "run_dir=own", "split=train", "num_cases=2", "steps=1"]
    run(evaluate_ddpm_patches, *settings, "device=cpu", "controls=false")
    names = [path.name.partition(".")[0] for path in Path("own/volumes").iterdir()]
    for name in names:
        Path("real").mkdir(exist_ok=True)
        Path(f"real/{name}.nii.gz").symlink_to(workshop.root / name / f"{name}.nii.gz")
    run(evaluate_files, "generated=own/volumes", "real=real", "run_dir=files")
    own, files = (json.loads(Path(f"{folder}/metrics.json").read_text()) for folder in ("own", "files"))
    rows = {row.name: row for row in paired(own, files)}
    assert {"psnr", "ssim", "hu_mae", "dice_lung", "gradient_energy"} <= set(rows)
    for row in rows.values():
        assert row.first == pytest.approx(row.second, rel=1e-4), row.name
    table = means({"own": own, "files": files, "again": files})
    assert table["psnr"] == pytest.approx([rows["psnr"].first] * 3, rel=1e-4)
