"""Several processes that draw or evaluate together, as torchrun starts them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import evaluate_ddpm_patches
import sample_ddpm_patches
from dataset.scans.volume_io import read_ct
from tests.forks import forked
from tests.tiny import load, run

ROOT = Path(__file__).resolve().parents[1]


def torchrun(script, *settings, cwd, status=0):
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
        + [str(word) for word in (ROOT / f"{script.__name__}.py", *settings)],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stderr
    return done.stderr


@pytest.mark.slow
def test_two_processes_share_the_windows_of_a_ct(workshop, elsewhere):
    settings = [f"xray={workshop.xray}", f"ckpt={workshop.ddpm_ckpt}", "steps=2", "shape=[20,24,18]"]
    torchrun(sample_ddpm_patches, *settings, "output=two.nii.gz", "distribute=windows", cwd=elsewhere)
    run(sample_ddpm_patches, *settings, "output=ct.nii.gz", "device=cpu")
    assert np.abs(read_ct("two.nii.gz").hu - read_ct("ct.nii.gz").hu).max() <= 1
    facts = json.loads(Path("two.json").read_text())
    assert facts["run"]["processes"] == 2


@pytest.mark.slow
def test_two_processes_share_the_xrays_of_a_folder(workshop, elsewhere):
    Path("films").mkdir()
    for i in range(3):
        shutil.copy(workshop.xray, f"films/{i}.png")
    settings = ["xray=films", "output=cts", f"ckpt={workshop.ddpm_ckpt}", "steps=1", "shape=[16,16,16]"]
    said = torchrun(sample_ddpm_patches, *settings, cwd=elsewhere)
    assert sorted(p.name for p in Path("cts").glob("*.nii.gz")) == ["0.nii.gz", "1.nii.gz", "2.nii.gz"]
    assert said.count("→") == 3


@pytest.mark.slow
def test_a_process_whose_xrays_are_unreadable_lets_the_others_finish(workshop, elsewhere):
    Path("films").mkdir()
    Path("films/0.png").write_text("not an image")  # the first process' only one
    shutil.copy(workshop.xray, "films/1.png")
    settings = [f"ckpt={workshop.ddpm_ckpt}", "steps=8", "shape=[40,40,40]", "num_samples=2"]
    said = torchrun(sample_ddpm_patches, "xray=films", "output=cts", *settings, cwd=elsewhere, status=1)
    assert sorted(p.name for p in Path("cts").glob("1_s?.nii.gz")) == ["1_s0.nii.gz", "1_s1.nii.gz"]
    assert "films/0.png" in said


@pytest.mark.slow
def test_two_processes_share_the_cases_of_an_evaluation(workshop, elsewhere):
    settings = [workshop.data, f"ckpt={workshop.ddpm_ckpt}", "split=train", "steps=1"]
    torchrun(evaluate_ddpm_patches, *settings, "run_dir=two", cwd=elsewhere)
    run(evaluate_ddpm_patches, *settings, "run_dir=one", "device=cpu")
    two, one = (json.loads(Path(folder, "metrics.json").read_text())["cases"] for folder in ("two", "one"))
    assert len(two) == 4
    assert [case["psnr"] for case in two] == pytest.approx([case["psnr"] for case in one], abs=1e-3)
    assert not Path("two/unfinished").exists()


@pytest.mark.slow
@pytest.mark.parametrize("distribute", ["windows", "xrays"])
def test_processes_that_have_read_different_checkpoints_draw_nothing(distribute, workshop, elsewhere):
    """As where a training has replaced last.ckpt in between."""
    content = load(workshop.ddpm_ckpt)
    for rank in range(2):
        torch.save(content, f"of{rank}.ckpt")
        average = next(state for name, state in content["callbacks"].items() if name.startswith("WeightAverage"))
        next(iter(average["average"].values())).add_(1)
    settings = [f"xray={workshop.xray}", "output=ct.nii.gz", "ckpt=of${oc.env:RANK}.ckpt", f"distribute={distribute}"]
    with forked(sample_ddpm_patches, *settings, "steps=1", log=elsewhere / "log", processes=2) as ranks:
        assert ranks[0].status() == 2, ranks[0].said
    assert "all processes must draw with the same model" in ranks[0].said
    assert "denoiser_hash" in ranks[0].said
    assert not Path("ct.nii.gz").exists()
