"""The commands of the guide, end to end, on tiny phantoms: what a user runs and what lies there afterwards."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

import evaluate_ddpm_patches
import sample_ddpm_patches
from common.notice import NOTICE
from dataset.scans.drr import frontal_drr
from dataset.scans.volume_io import read_ct
from pipeline.sampling.ct_sampler import CTSampler
from tests.tiny import DDPM_CKPT, DDPM_FOLDER, VQGAN_CKPT, built_ddpm, free_port, load, run

ROOT = Path(__file__).resolve().parents[1]
TWO_STEPS = ["steps=2", "device=cpu"]


def command(*words, cwd, **env):
    """Run a command with this environment's Python first in the path; its output, or a failure that shows it."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [str(w) for w in words],
        cwd=cwd,
        env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, done.stderr


def test_training_leaves_the_checkpoints_of_the_guide(workshop):
    names = sorted(p.name for p in (workshop.folder / DDPM_FOLDER).iterdir() if not p.name.startswith("."))
    assert names[-1] == "last.ckpt"
    assert [re.fullmatch(r"ddpm-patches-epoch00-loss\d+\.\d{4}\.ckpt", n) is not None for n in names[:-1]] == [True]
    best = load(workshop.folder / DDPM_FOLDER / names[0])
    monitor = next(v for k, v in best["callbacks"].items() if "'monitor': 'val/loss'" in k)
    assert f"{float(monitor['best_model_score']):.4f}" in names[0]
    assert (workshop.folder / VQGAN_CKPT).is_file()


def test_tensorboard_logs_and_the_resolved_config_lie_in_the_run_folder(workshop):
    for name in ("ddpm_4gpu_patches", "vqgan_patches_4gpu"):
        folder = workshop.folder / "outputs" / name
        assert list((folder / "tensorboard").glob("events.out.tfevents.*"))
        assert "${" not in (folder / "config.yaml").read_text()


@pytest.fixture(scope="module")
def sampled(workshop, tmp_path_factory):
    target = tmp_path_factory.mktemp("sampled") / "ct.nii.gz"
    run(
        sample_ddpm_patches,
        f"xray={workshop.xray}",
        f"output={target}",
        f"ckpt={workshop.ddpm_ckpt}",
        "shape=[20,24,18]",
        "spacing=[9,10,11]",
        *TWO_STEPS,
    )
    return target


def test_a_sample_is_a_nifti_in_hu_on_the_grid_that_was_asked_for(sampled):
    image = nib.Nifti1Image.from_filename(sampled)
    hu = np.asarray(image.dataobj)
    assert (image.shape, image.get_data_dtype()) == ((18, 24, 20), np.int16)  # NIfTI order (w, h, d)
    assert image.header.get_zooms() == (11, 10, 9)
    assert -1000 <= hu.min() < hu.max() <= 1000
    assert nib.aff2axcodes(image.affine) == ("L", "P", "S")
    centre = image.affine @ [*(np.array(image.shape) - 1) / 2, 1]
    np.testing.assert_allclose(centre[:3], 0, atol=1e-4)


def test_beside_a_sample_lie_its_facts_and_a_picture(sampled):
    facts = json.loads(sampled.with_name("ct.json").read_text())
    assert (facts["generated"], facts["shape"], facts["seed"]) == (True, [20, 24, 18], 42)
    assert facts["plan"]["steps"] == 2
    assert facts["notice"] == nib.Nifti1Image.from_filename(sampled).header["descrip"].item().decode() == NOTICE
    assert sampled.with_name("ct.png").read_bytes()[:4] == b"\x89PNG"
    assert sorted(p.name for p in sampled.parent.iterdir()) == ["ct.json", "ct.nii.gz", "ct.png"]


def test_a_reference_gives_grid_axes_and_place(workshop, tmp_path):
    paths = sorted(workshop.root.glob("*/*.nii.gz"))
    axes = {nib.aff2axcodes(nib.load(p).affine): p for p in paths}
    reference = axes["L", "A", "S"]  # not the axes that we write by default
    target = tmp_path / "like.nii"
    run(
        sample_ddpm_patches,
        f"xray={workshop.xray}",
        f"output={target}",
        f"ckpt={workshop.ddpm_ckpt}",
        f"reference={reference}",
        *TWO_STEPS,
    )
    drawn, real = nib.load(target), nib.load(reference)
    assert drawn.shape == real.shape
    np.testing.assert_allclose(drawn.affine, real.affine, atol=1e-3)


def test_a_folder_of_xrays_gives_a_folder_of_cts(workshop, tmp_path):
    films = tmp_path / "films"
    films.mkdir()
    for i in range(2):
        source = workshop.root / f"phantom000{i}" / f"phantom000{i}_pa_drr.png"
        (films / f"film{i}.png").write_bytes(source.read_bytes())
    out = tmp_path / "cts"
    run(sample_ddpm_patches, f"xray={films}", f"output={out}", f"ckpt={workshop.ddpm_ckpt}", *TWO_STEPS)
    drawn = [read_ct(out / f"film{i}.nii.gz").hu for i in range(2)]
    assert sorted(p.name for p in out.glob("*.nii.gz")) == ["film0.nii.gz", "film1.nii.gz"]
    assert drawn[0].shape == tuple(CTSampler(workshop.ddpm_ckpt).description.shape)  # the training volumes' median


def test_the_seed_changes_the_sample_and_the_sampler_is_used(workshop):
    model = CTSampler(workshop.ddpm_ckpt)
    kwargs = {"shape": (16, 16, 16), "steps": 2}
    first, again, other, whole = (
        sample_ddpm_patches.sample(workshop.xray, model, **kwargs, **more)[0]
        for more in ({"seed": 1}, {"seed": 1}, {"seed": 2}, {"seed": 1, "sampler": "ddpm"})
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert (first != whole).any()


def test_evaluation_writes_numbers_a_report_and_volumes(workshop, tmp_path):
    out = tmp_path / "ev"
    settings = [workshop.data, f"ckpt={workshop.ddpm_ckpt}", f"run_dir={out}", "split=train", "num_cases=2"]
    run(evaluate_ddpm_patches, *settings, *TWO_STEPS)
    metrics = json.loads((out / "metrics.json").read_text())
    assert len(metrics["cases"]) == 2
    wanted = ("psnr_right", "psnr_wrong", "psnr_mean_volume", "psnr_codec")
    assert all(np.isfinite(metrics["summary"][key]) for key in wanted)
    assert metrics["summary"]["psnr_codec"] > metrics["summary"]["psnr_right"]
    regions = {"lung", "mediastinum", "body", "bone", "contrast"}
    assert {f"volume_correlation_{name}" for name in regions} <= metrics["summary"].keys()
    assert metrics["summary"]["dice_body_codec"] > 0
    assert "<html" in (out / "report.html").read_text().lower()
    for case in sorted((out / "volumes").iterdir()):
        source = nib.load(workshop.root / case.name.split(".")[0] / case.name)
        drawn = nib.load(case)
        assert drawn.shape == source.shape
        np.testing.assert_allclose(drawn.affine, source.affine, atol=1e-3)


def test_training_prepares_the_data_set_if_nobody_has(tiny_data, elsewhere, workshop):
    store = elsewhere / "store"
    assert len(built_ddpm(*workshop.ddpm, f"dataset.store={store}").data.train) == 8
    assert len((store / "manifest.jsonl").read_text().splitlines()) == 5


def test_the_phantom_xray_is_the_projection_of_its_ct(tiny_data):
    from dataset.store.store import VolumeStore

    store = VolumeStore(tiny_data.store)
    case = store.cases[0]
    hu = store.read_hu(case, (0, 0, 0), case.shape)
    drr, _ = frontal_drr(hu, case.spacing)
    film = store.read_xray(case)
    assert np.corrcoef(np.clip(drr, 0, 8).ravel(), film.ravel())[0, 1] > 0.9


@pytest.mark.slow
def test_the_guides_torchrun_line_trains_on_two_processes(workshop, elsewhere):
    _, said = command(
        *("torchrun", "--nproc_per_node=2", f"--master_port={free_port()}"),
        *(ROOT / "train_ddpm_patches_4gpu.py", "model=ddpm_4gpu_patches", *workshop.ddpm),
        cwd=elsewhere,
    )
    assert "Grad strides" not in said
    ranks = load(DDPM_CKPT)
    assert ranks["global_step"] == 2  # 8 draws, 2 processes, batches of 2
    assert all(torch.isfinite(v).all() for v in ranks["state_dict"].values())


@pytest.mark.slow
def test_the_launcher_passes_settings_on_and_starts_two_cpu_processes(workshop, tmp_path):
    folders = [f"run_dir={tmp_path}/run", f"checkpoint_dir={tmp_path}/ckpt"]
    command(
        *(ROOT / "launch_ddpm_patches_4gpu.sh", *workshop.ddpm, *folders, "model.max_epochs=2", "model.batch_size=1"),
        cwd=tmp_path,
        NGPU="2",
        MASTER_PORT=str(free_port()),
    )
    content = load(tmp_path / "ckpt" / "last.ckpt")
    assert (content["global_step"], content["epoch"]) == (8, 1)  # 8 draws, 2 processes, 2 epochs


@pytest.mark.slow
def test_a_launcher_answers_cfg_without_starting_anything(tmp_path):
    words = ("dataset.root=/data", "model.batch_size=4", "--cfg", "job")
    out, _ = command(ROOT / "launch_vqgan_patches_4gpu.sh", *words, cwd=tmp_path)
    assert "batch_size: 4" in out
