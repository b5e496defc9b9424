"""sample_ddpm_patches.py beyond one CT: several samples, lists, finished files, estimates, several processes."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import sample_ddpm_patches
from common.errors import UserError
from common.voxel_file import VoxelFile
from dataset.scans.volume_io import read_ct
from ddpm.denoiser import PatchDenoiser
from pipeline.sampling import files as sample_files
from pipeline.sampling.ct_sampler import CTSampler
from pipeline.sampling.files import is_finished, jobs
from tests.tiny import run

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def drawing(workshop, elsewhere):
    """Settings of a drawing that works; `draw` runs the command with them."""

    def draw(**changes):
        settings = {"xray": workshop.xray, "output": "ct.nii.gz", "ckpt": workshop.ddpm_ckpt, "steps": 2}
        settings |= {"shape": "[20,24,18]", "device": "cpu"} | changes
        run(sample_ddpm_patches, *(f"{key}={value}" for key, value in settings.items()))

    return draw


def changed(paths, before):
    return sorted(p.name for p in paths if p.stat().st_mtime_ns != before.get(p.name))


def times(folder="."):
    return {p.name: p.stat().st_mtime_ns for p in Path(folder).iterdir()}


def test_several_samples_with_their_mean_and_deviation(drawing):
    drawing(num_samples=3, seed=5)
    first, second, third = (read_ct(f"ct_s{i}.nii.gz").hu for i in range(3))
    assert (first != second).any()
    assert (second != third).any()
    stack = np.stack([first, second, third])
    np.testing.assert_allclose(read_ct("ct_mean.nii.gz").hu, stack.mean(0), atol=0.51)
    np.testing.assert_allclose(read_ct("ct_std.nii.gz").hu, stack.std(0, ddof=1), atol=0.51)
    assert [json.loads(Path(f"ct_s{i}.json").read_text())["seed"] for i in range(3)] == [5, 6, 7]
    assert json.loads(Path("ct_mean.json").read_text())["seeds"] == [5, 6, 7]
    assert not Path("ct.nii.gz").exists()
    drawing(seed=6)
    np.testing.assert_array_equal(read_ct("ct.nii.gz").hu, second)  # sample i of seed s is the CT of seed s + i


def test_finished_files_are_skipped_and_others_drawn_again(drawing, caplog):
    drawing(num_samples=2)
    before = times()
    with caplog.at_level("INFO"):
        drawing(num_samples=2, window_batch=4)  # how it is made does not matter
    assert times() == before
    assert caplog.text.count("is finished, skipped") == 2
    Path("ct_s1.json").unlink()  # as after an interruption
    drawing(num_samples=2)
    made = changed(Path().iterdir(), before)
    assert made == [
        f"ct_{n}.{e}"
        for n in ("mean", "s1", "std")
        for e in ("json", "nii.gz", "png")
        if (n, e[0]) not in {("mean", "p"), ("std", "p")}
    ]
    np.testing.assert_array_equal(read_ct("ct_s0.nii.gz").hu.shape, (20, 24, 18))


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"steps": 3}, {"guidance": 2}, {"averaged": "false"}, {"xray_fov_mm": 300}, {"shape": "[20,24,20]"}],
)
def test_another_ct_is_never_taken_for_the_finished_one(change, drawing, workshop, monkeypatch):
    monkeypatch.setattr(PatchDenoiser, "knows_no_xray", True)  # its few steps dropped none
    shutil.copy(workshop.xray, "film.png")  # without its geometry, so that xray_fov_mm counts
    drawing(xray="film.png", output="cts")
    before = Path("cts/film.json").read_text()
    drawing(xray="film.png", output="cts", **change)
    assert Path("cts/film.json").read_text() != before


def test_an_interruption_between_the_files_leaves_no_false_facts(drawing, monkeypatch):
    drawing()
    facts = {"seed": json.loads(Path("ct.json").read_text())["seed"]}
    assert is_finished(Path("ct.nii.gz"), facts)
    monkeypatch.setattr(sample_files, "preview", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(SystemExit):
        drawing(seed=7)
    assert not Path("ct.json").exists()  # the NIfTI is the new one, and the old JSON would lie about it
    assert not is_finished(Path("ct.nii.gz"), facts)


def test_a_list_of_xrays_and_folders(drawing, workshop):
    films = Path("films")
    films.mkdir()
    shutil.copy(workshop.xray, films / "a.png")
    other = workshop.root / "phantom0001" / "phantom0001_pa_drr.png"
    drawing(xray=f"[{other},films]", output="cts")
    assert sorted(p.name for p in Path("cts").glob("*.nii.gz")) == ["a.nii.gz", "phantom0001_pa_drr.nii.gz"]


def test_files_that_would_overwrite_each_other(tmp_path):
    for name in ("a/x.png", "b/x.png", "c/x.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match="would both become"):
        jobs([tmp_path / "a/x.png", tmp_path / "b/x.png"], tmp_path / "out")
    with pytest.raises(ValueError, match="another folder"):
        jobs([tmp_path / "c/x.jpg"], tmp_path / "c")  # its x.json would be read as the X-ray's geometry


@pytest.mark.parametrize(
    ("output", "given"),
    [
        ("lat", {"views": {"lateral": "lat"}}),
        ("link", {"views": {"lateral": "lat"}}),
        ("lat/new.nii.gz", {"views": {"lateral": "lat"}}),  # the next drawing would take its preview for an X-ray
        (".", {"views": {"lateral": "."}}),
        ("lat/p1.nii.gz", {"views": {"lateral": "lat/p1.png"}}),
        ("lat/p1.nii.gz", {"views": {"lateral": "other.png"}}),  # a link to it
        ("lat/p1.nii.gz", {"views": {"xray_2": "lat/p1.dcm"}}),  # its geometry
        ("lat/p.nii.gz", {"views": {"lateral": "lat/p_s1.png"}, "num_samples": 2}),
        ("front_s0.nii.gz", {}),
        ("front.nii.gz", {"num_samples": 2}),
        ("lat/ct.nii.gz", {"reference": "lat/ct.nii.gz"}),
    ],
)
def test_what_a_ct_is_drawn_from_stays(output, given, elsewhere):
    Path("lat").mkdir()
    Path("link").symlink_to("lat")
    for name in ("front_s0.png", "lat/p1.png", "lat/p1.dcm", "lat/p_s1.png", "lat/ct.nii.gz"):
        Path(name).touch()
    Path("other.png").symlink_to("lat/p1.png")
    views = {name: Path(path) for name, path in given.pop("views", {}).items()}
    reference = Path(given.pop("reference")) if "reference" in given else None
    with pytest.raises(UserError, match="another folder"):
        jobs([Path("front_s0.png")], Path(output), **given, views=views, reference=reference)
    assert jobs([Path("front_s0.png")], Path("cts"), **given, views=views, reference=reference)


def test_the_command_keeps_the_further_views(elsewhere, refused):
    for name in ("front/p1.png", "lat/p1.png"):
        Path(name).parent.mkdir()
        Path(name).touch()
    assert "among the images of lat" in refused(
        sample_ddpm_patches, "xray=front", "lateral=lat", "output=lat", "ckpt=none"
    )
    message = refused(sample_ddpm_patches, "xray=front/p1.png", "lateral=lat/p1.png", "output=lat/p1.nii", "ckpt=none")
    assert "lat/p1.png would overwrite" in message


def test_nothing_that_is_written_names_the_xray(drawing, workshop):
    shutil.copy(workshop.xray, "Mueller_Anna.png")
    drawing(xray="Mueller_Anna.png", output="case1.nii.gz")
    assert b"Mueller" not in Path("case1.json").read_bytes() + Path("case1.nii.gz").read_bytes()
    assert b"Mueller" not in Path("case1.png").read_bytes()
    facts = json.loads(Path("case1.json").read_text())
    assert facts["xray_sha256"] == sample_files.file_hash(Path("Mueller_Anna.png"))


def test_a_dry_run_tells_what_it_will_take_and_draws_nothing(drawing, workshop, caplog):
    with caplog.at_level("INFO"):
        drawing(dry_run="true", steps=7, output="out/ct.nii.gz")
    assert not Path("out").exists()
    assert "4 × 5 × 6 × 5 (C, D, H, W)" in caplog.text
    model = CTSampler(workshop.ddpm_ckpt, device="cpu")
    place = model.placement((20, 24, 18))
    windows = model.generator.windows(place.grid)
    assert f"evaluations       {7 * windows} of the network" in caplog.text
    assert "mode              fused" in caplog.text
    assert f"windows           {windows}, " in caplog.text
    with caplog.at_level("INFO"):
        drawing(dry_run="true", steps=7, mode="whole")
    assert "windows           1, one at once" in caplog.text
    assert "evaluations       7 of the network" in caplog.text


def test_auto_draws_whole_what_one_training_patch_covers(drawing):
    for name, shape, mode in (("small", "[16,12,16]", "whole"), ("large", "[16,20,16]", "fused")):
        drawing(output=f"{name}.nii.gz", shape=shape)
        assert json.loads(Path(f"{name}.json").read_text())["plan"]["mode"] == mode


def test_a_full_disk_is_one_message_and_leaves_nothing(drawing, monkeypatch, capsys):
    def full(self, start, slab):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(VoxelFile, "write", full)
    with pytest.raises(SystemExit):
        drawing(output="cts/ct.nii.gz")
    message = capsys.readouterr().err
    assert "no space left" in message
    assert "ct.nii.gz" in message
    assert list(Path("cts").iterdir()) == []


def test_room_for_one_ct_but_perhaps_not_for_all_is_a_warning(drawing, monkeypatch, caplog):
    usage = shutil.disk_usage(".")
    one = sample_files.bytes_on_disk((20, 24, 18), 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=one))
    drawing()
    assert "are free" not in caplog.text
    drawing(output="many.nii.gz", num_samples=2)
    assert "4 CTs take up to" in caplog.text  # two samples, their mean and deviation
    assert Path("many_std.nii.gz").is_file()


def test_too_little_room_is_seen_before_the_drawing(drawing, monkeypatch, capsys):
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    monkeypatch.setattr(CTSampler, "load_xray", lambda *_: pytest.fail("nothing is drawn"))
    with pytest.raises(SystemExit):
        drawing()
    assert "no room" in capsys.readouterr().err


def test_tiles_agree_to_rounding(drawing):
    drawing()
    drawing(decode_tile=2, output="tiled.nii")
    assert np.abs(read_ct("tiled.nii").hu - read_ct("ct.nii.gz").hu).max() <= 1


def test_one_number_of_spacing_holds_for_all_axes(drawing):
    drawing(spacing=9, steps=1)
    assert json.loads(Path("ct.json").read_text())["spacing"] == [9, 9, 9]


@pytest.mark.slow
def test_memory_does_not_grow_with_depth():
    words = [sys.executable, "-m", "benchmarks.decode_memory"]
    done = subprocess.run(words, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["ratio"] <= 1.15
    assert result["volume_mb"]["604"] - result["volume_mb"]["302"] > 0.2 * result["peak_mb"]["302"]  # it would show
