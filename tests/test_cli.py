"""What a command says about its settings, and how it ends."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

import encode_latents
import evaluate_ddpm_patches
import evaluate_files
import evaluate_task
import export_model
import import_vqgan
import make_phantom_data
import prepare_data
import run_demo
import sample_ddpm_patches
import train_ddpm_patches_4gpu
import train_vqgan_patches_4gpu
from benchmarks.measure import parameters
from benchmarks.networks import NO_DATA, on_paper
from common.geometry import three_quarters
from pipeline import cli, mistakes
from tests.tiny import run

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = {
    train_ddpm_patches_4gpu: ["dataset.root=/data"],
    train_vqgan_patches_4gpu: ["dataset.root=/data"],
    prepare_data: ["dataset.root=/data"],
    encode_latents: ["dataset.root=/data"],
    sample_ddpm_patches: ["xray=a.png", "output=a.nii.gz"],
    evaluate_ddpm_patches: ["dataset.root=/data"],
    evaluate_files: ["generated=a", "real=b"],
    evaluate_task: ["dataset.root=/data"],
    export_model: [],
    import_vqgan: ["ckpt=a.ckpt", "hu_window=[-1000,1000]", "statistics_from=a.nii.gz"],
    make_phantom_data: [],
    run_demo: [],
}
every_script = pytest.mark.parametrize(("script", "needed"), SCRIPTS.items(), ids=[s.__name__ for s in SCRIPTS])


@pytest.fixture
def job(capsys):
    """`--cfg job --resolve` of a command, as a config."""

    def resolve(script, *settings):
        run(script, *settings, "--cfg", "job", "--resolve")
        return OmegaConf.create(capsys.readouterr().out)

    return resolve


@every_script
def test_every_script_prints_its_settings_a_seed_only_where_chance_has_a_part(script, needed, capsys):
    run(script, *needed, "--cfg", "job")
    printed = OmegaConf.create(capsys.readouterr().out)
    without = {prepare_data, encode_latents, export_model, import_vqgan}
    assert (printed.get("seed") == 42) == (script not in without)
    assert all(OmegaConf.select(printed, setting.partition("=")[0]) is not None for setting in needed)


@every_script
def test_every_script_answers_help(script, needed, capsys):
    with pytest.raises(SystemExit) as stop:
        run(script, "--help")
    assert stop.value.code in (0, None)
    assert "Compose your configuration" in capsys.readouterr().out


def test_derived_values_are_printed(job):
    model = job(train_ddpm_patches_4gpu, "dataset.root=/data", "model.patch_size=[96,64,96]").model
    assert model.stride == [72, 48, 72]
    assert (model.diffusion_depth_size, model.diffusion_img_size) == (24, 24)


def test_the_guides_sizes_are_the_defaults(job):
    cfg = job(train_ddpm_patches_4gpu, "dataset.root=/data")
    model = cfg.model
    assert (model.patch_size, model.stride, model.patches_per_volume) == ([128] * 3, [96] * 3, 42)
    assert (model.diffusion_img_size, model.diffusion_depth_size, model.diffusion_num_channels) == (32, 32, 64)
    assert (model.batch_size, model.max_epochs, model.dim_mults) == (2, 30, [1, 2, 4, 8])
    assert model.vqgan_ckpt == "outputs/vqgan_patches_4gpu/checkpoints/last.ckpt"
    assert cfg.checkpoint_dir == "checkpoints/ddpm_4gpu_patches"
    assert cfg.run_dir == "outputs/ddpm_4gpu_patches"


def test_torchruns_processes_reach_the_trainer(job, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    trainer = job(train_ddpm_patches_4gpu, "dataset.root=/data").trainer
    assert (trainer.devices, trainer.num_nodes, trainer.strategy) == (4, 2, "ddp")


@pytest.mark.parametrize(
    ("setting", "answer"),
    [
        ("batch_size=4", "did you mean model.batch_size?"),
        ("patch_size=[96,96,96]", "did you mean model.patch_size?"),
        ("max_epochs=50", "did you mean model.max_epochs?"),
        ("perceptual_weight=0.05", "did you mean model.perceptual_weight?"),
        ("warmup_steps=5", "did you mean model.warmup_steps?"),
        ("precision=32", "did you mean model.precision?"),
        ("root=/data", "did you mean dataset.root?"),
        ("model.dim_mult=[1,2]", "model.dim_mults"),
        ("qqqqqqqq=3", "--cfg job lists the settings"),
    ],
)
def test_an_unknown_setting_is_answered_with_the_one_that_was_meant(setting, answer, refused):
    message = refused(train_ddpm_patches_4gpu, "dataset.root=/data", setting)
    assert f"unknown setting {setting.partition('=')[0]!r}" in message
    assert answer in message


def test_a_choice_that_does_not_exist_lists_those_that_do(refused):
    message = refused(train_ddpm_patches_4gpu, "dataset.root=/data", "xray_encoder=resnet")
    assert "xray_encoder/resnet" in message
    assert "tiny_random" in message


def test_an_unreadable_value_is_answered_with_how_to_quote(refused):
    assert "quotes" in refused(prepare_data, "dataset.root=/data/a=b")


def test_quoted_values_reach_the_config(job):
    assert job(prepare_data, 'dataset.root="/data/a=b, [c]"').dataset.root == "/data/a=b, [c]"


def test_a_value_that_must_be_given_is_asked_for(refused):
    message = refused(train_vqgan_patches_4gpu)
    assert "dataset.root has no value" in message
    assert "dataset.root=..." in message


def test_a_wrong_type_is_one_message(refused):
    message = refused(train_vqgan_patches_4gpu, "dataset.root=/nowhere", "resume=maybe")
    assert "/nowhere" in message or "resume" in message


@pytest.mark.parametrize("script", mistakes.SAVING_MEMORY)
def test_running_out_of_gpu_memory_names_knobs_that_the_script_has(script):
    message = mistakes.explain(torch.OutOfMemoryError("tried to allocate 3 GiB"), script)
    assert "3 GiB" in message
    knobs = re.findall(r"[\w.]+=(?:\[[\d,]+\]|\w+)", message)
    assert len(knobs) >= 2
    cli.composed(script, knobs)


def test_a_narrower_network_frees_what_the_message_says():
    sizes = []
    for knobs in ([], ["model.dim_mults=[1,2,4]"]):
        cfg = cli.composed("train_ddpm", [NO_DATA, *knobs])
        sizes.append(parameters(on_paper(cfg.module.denoiser, pooled_dim=512, token_dim=768)))
    message, (wide, narrow) = mistakes.SAVING_MEMORY["train_ddpm"], sizes
    assert f"{narrow / 1e6:.0f} instead of {wide / 1e6:.0f} million" in message
    assert f"{20 * (wide - narrow) / 1e9:.1f} GB" in message  # weight, gradient, two moments of AdamW, average


def test_running_out_of_gpu_memory_in_sampling_names_its_own_knobs():
    message = mistakes.explain(torch.OutOfMemoryError("tried to allocate 3 GiB"), "sample_ddpm")
    assert "model." not in message
    for knob in ("window_batch=1", "latent_device=cpu", "decode_tile=16", "3 GiB"):
        assert knob in message


def test_a_full_disk_names_the_file():
    error = OSError(28, "No space left on device", "/data/x")
    assert mistakes.explain(error, "train_ddpm") == "No space left on device: /data/x"


def test_another_process_lets_the_first_one_speak_and_then_says_who_it_is(refused, monkeypatch):
    waited = []
    monkeypatch.setattr("time.sleep", waited.append)
    assert refused(prepare_data, "dataset.root=/nowhere").startswith("\nerror: ")
    assert waited == []
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("common.launcher.end_with_torchrun", lambda: None)  # this one is of no torchrun
    refused(prepare_data, "dataset.root=/nowhere")  # the first of another machine, whose log is its own
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert refused(prepare_data, "dataset.root=/nowhere").startswith("\n[rank 1] error: ")
    assert waited == [cli.FIRST_SPEAKS_S]


def torchrun(tmp_path, where):
    """What two processes of a script print, of which those named by `where` (Python, of `rank`) make a mistake."""
    script = tmp_path / "script.py"
    script.write_text(f"""
import os, sys, time
sys.path.insert(0, {str(ROOT)!r})
from common.errors import UserError
from pipeline.cli import script
@script("make_phantom_data")
def main(cfg):
    rank = int(os.environ["RANK"])
    if {where}:
        raise UserError("this must not be")
    time.sleep(60)
main()
""")
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    return done.stderr


@pytest.mark.slow
def test_a_mistake_of_all_processes_is_told_once(tmp_path):
    assert torchrun(tmp_path, "rank >= 0").count("error: this must not be") == 1


@pytest.mark.slow
def test_a_mistake_of_another_process_is_told(tmp_path):
    assert "[rank 1] error: this must not be" in torchrun(tmp_path, "rank == 1")


@pytest.mark.parametrize(("patch", "stride"), [((128, 128, 128), [96] * 3), ((16, 20, 4), [12, 12, 4])])
def test_three_quarters_are_whole_latent_voxels(patch, stride):
    assert three_quarters(patch) == stride


@pytest.mark.slow
def test_a_command_ends_with_status_2_and_one_message(tmp_path):
    words = [sys.executable, str(ROOT / "prepare_data.py"), "dataset.root=/nowhere"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "/nowhere" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_commands_that_a_script_starts_do_not_inherit_its_error_handling(monkeypatch, elsewhere):
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    seen = []
    monkeypatch.setattr("sys.argv", ["prepare_data.py", "dataset.root=here"])
    cli.script("prepare_data")(lambda cfg: seen.append(os.environ.get("HYDRA_FULL_ERROR")))()
    assert seen == [None]
    assert "HYDRA_FULL_ERROR" not in os.environ
