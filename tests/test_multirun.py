"""Several jobs of one command, by Hydra's -m: each has a folder of its own, or the command refuses."""

from pathlib import Path

import pytest

import encode_latents
import make_phantom_data
import prepare_data
import sample_ddpm_patches
import train_ddpm_patches_4gpu
import train_vqgan_patches_4gpu
from tests.tiny import load, run


@pytest.mark.parametrize("stage", ["vqgan", "ddpm"])
def test_every_job_trains_in_a_folder_of_its_own(stage, workshop, elsewhere):
    script = train_vqgan_patches_4gpu if stage == "vqgan" else train_ddpm_patches_4gpu
    command = [
        "-m",
        *getattr(workshop, stage),
        "model.train_lr=1e-3,2e-3",
        "+callbacks.record._target_=tests.tiny.Record",
    ]
    run(script, *command)
    checkpoints = sorted(Path().glob("*/**/last.ckpt"))
    assert len(checkpoints) == 2
    for path, rate in zip(checkpoints, ("0.001", "0.002"), strict=True):
        assert f"model.train_lr-{rate}" in path.parts
        content = load(path)
        assert content["xray2ctpa"]["config"]["model"]["train_lr"] == float(rate)
        assert content["global_step"] > 0
    written = [path.stat().st_mtime_ns for path in checkpoints]
    run(script, *command)  # resumes each
    assert sorted(Path().glob("*/**/last.ckpt")) == checkpoints
    assert [path.stat().st_mtime_ns for path in checkpoints] == written
    assert {path.parent.name for path in Path().glob("outputs/**/versions.json")} == {
        "model.train_lr-0.001",
        "model.train_lr-0.002",
    }


def test_drawings_lie_apart(workshop, elsewhere):
    settings = [f"xray={workshop.xray}", f"ckpt={workshop.ddpm_ckpt}", "output=cts/ct.nii.gz", "shape=[16,16,16]"]
    run(sample_ddpm_patches, "-m", *settings, "steps=1", "seed=3,4")
    assert sorted(map(str, Path("cts").rglob("*.nii.gz"))) == ["cts/seed-3/ct.nii.gz", "cts/seed-4/ct.nii.gz"]


@pytest.mark.parametrize(
    ("script", "settings"),
    [
        (prepare_data, ["dataset.crop_to_body=true,false"]),
        (encode_latents, ["bf16=true,false", "xray_encoder=tiny_random"]),
        (make_phantom_data, ["seed=1,2"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_commands_whose_jobs_would_share_a_place_refuse(script, settings, tmp_path, elsewhere, refused):
    assert "takes no -m" in refused(script, "-m", f"dataset.root={tmp_path}/pairs", *settings)
    assert not (tmp_path / "pairs").exists()
