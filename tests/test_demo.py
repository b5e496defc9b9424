"""What the demo would run, without running it."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import run_demo
from common.memory import PeakMemory
from pipeline import cli
from tests.test_architecture import MAY_IMPORT
from tests.tiny import composed

ROOT = Path(__file__).resolve().parents[1]

EXPERIMENTS = sorted(path.stem for path in (cli.CONFIG_DIR / "experiment").glob("*.yaml"))
CONFIGS = {
    "make_phantom_data.py": "make_phantom_data",
    "prepare_data.py": "prepare_data",
    "train_vqgan_patches_4gpu.py": "train_vqgan",
    "encode_latents.py": "encode_latents",
    "train_ddpm_patches_4gpu.py": "train_ddpm",
    "evaluate_ddpm_patches.py": "evaluate_ddpm",
}


def stages(*overrides):
    return {stage.name: stage for stage in run_demo.stages(composed("demo", "dir=/demo", *overrides))}


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_the_commands_of_every_size_name_settings_that_their_scripts_have(experiment):
    made = stages(f"experiment={experiment}")
    assert len(made) == len(CONFIGS)
    for stage in made.values():
        cfg = composed(CONFIGS[stage.script], *stage.command[1:])
        OmegaConf.resolve(cfg)
        if "model" in cfg:
            assert all(n % 4 == 0 for n in cfg.model.patch_size)


def test_a_machine_without_a_gpu_runs_the_small_demo_and_one_with_a_gpu_the_large_one(monkeypatch):
    small, large = stages("experiment=demo"), stages("experiment=demo_gpu")
    for available, expected in ((False, small), (True, large)):
        monkeypatch.setattr("torch.cuda.is_available", lambda available=available: available)
        monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda **_: False)
        assert [stage.command for stage in stages().values()] == [stage.command for stage in expected.values()]


def test_a_variant_shares_everything_before_stage_2_and_overwrites_nothing():
    plain, variant = stages("experiment=demo"), stages("experiment=demo_pooled")
    shared = ["phantom", "prepare", "vqgan", "latents"]
    assert [plain[name].command for name in shared] == [variant[name].command for name in shared]
    assert set(variant) - set(plain) == {"ddpm_pooled", "evaluate_pooled"}
    assert "run_dir=/demo/ddpm_pooled" in variant["ddpm_pooled"].command
    assert 'model.cond=["pooled"]' in variant["ddpm_pooled"].command
    assert "ckpt=/demo/ddpm_pooled/checkpoints/last.ckpt" in variant["evaluate_pooled"].command
    assert "run_dir=/demo/evaluation_pooled" in variant["evaluate_pooled"].command


@pytest.fixture
def counted(monkeypatch):
    """Commands that the demo starts, in place of starting them."""
    started = []

    class Ended:
        returncode = 0

        def __init__(self, command, **_):
            started.append(command[1:])

        def poll(self):
            return 0

    monkeypatch.setattr(subprocess, "Popen", Ended)
    return started


@pytest.fixture
def ran(tmp_path, counted):
    """Runs three stages that leave files `0`, `1` and `2`, with a setting of the second; returns which were started."""

    def start(setting=1):
        counted.clear()
        every = [
            run_demo.Stage(str(i), f"{i}.py", {"a": {"b": setting if i == 1 else 1}}, tmp_path / str(i))
            for i in range(3)
        ]
        run_demo.run_all(every, tmp_path / "stages", PeakMemory())
        for stage in every:
            stage.product.touch()
        return [" ".join(command) for command in counted]

    return start


def test_stages_run_again_only_after_a_change(ran):
    assert ran() == ["0.py a.b=1", "1.py a.b=1", "2.py a.b=1"]
    assert ran() == []
    assert ran(setting=2) == ["1.py a.b=2", "2.py a.b=1"]
    assert ran(setting=2) == []


def test_a_stage_whose_product_was_removed_runs_again_and_those_after_it(ran, tmp_path):
    ran()
    (tmp_path / "1").unlink()
    assert ran() == ["1.py a.b=1", "2.py a.b=1"]


@pytest.mark.parametrize("folder", ["a,b", "a=b", "a (1)", 'a"b', "[a]", "{a}", "a b", "~a", "ä"])
def test_the_demo_may_lie_in_a_folder_of_any_name(folder):
    made = {stage.name: stage for stage in run_demo.stages(composed("demo", f"dir='/demo/{folder}'"))}
    for stage in made.values():
        cfg = composed(CONFIGS[stage.script], *stage.command[1:])
        assert cfg.dataset.root == f"/demo/{folder}/data"
    assert composed("evaluate_ddpm", *made["evaluate"].command[1:]).ckpt == f"/demo/{folder}/ddpm/checkpoints/last.ckpt"


@pytest.mark.parametrize(
    ("given", "expected"), [({}, "unset"), ({"DEMO_DIR": ""}, "unset"), ({"DEMO_DIR": "a b"}, "HERE/a b")]
)
def test_the_script_leaves_an_experiment_its_folder_unless_one_is_given(given, expected, tmp_path):
    project, here = tmp_path / "project", tmp_path / "here"
    (project / ".venv/bin").mkdir(parents=True)
    here.mkdir()
    shutil.copy(ROOT / "run_demo.sh", project)
    for name, line in (("make_env.sh", "true"), (".venv/bin/python", 'echo "${DEMO_DIR-unset}" "$@"')):
        (project / name).write_text(f"#!/usr/bin/env bash\n{line}\n")
        (project / name).chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name != "DEMO_DIR"} | given
    command = [project / "run_demo.sh", "experiment=demo_film"]
    said = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, check=True).stdout
    assert said == f"{expected.replace('HERE', str(here))} run_demo.py experiment=demo_film\n"


def test_films_have_a_folder_of_their_own(monkeypatch):
    monkeypatch.delenv("DEMO_DIR", raising=False)
    folders = {Path(composed("demo", f"experiment={name}").dir).name for name in ("demo", "demo_film")}
    assert folders == {"demo", "demo_film"}


@pytest.mark.parametrize("room", sorted(set(MAY_IMPORT) - {"commands", "benchmarks", "tests"}))
def test_changed_code_changes_the_fingerprint(room, tmp_path, monkeypatch):
    monkeypatch.setattr(run_demo, "HERE", tmp_path)
    file = Path(tmp_path, room, "module.py")
    file.parent.mkdir(parents=True)
    file.write_text("a = 1\n")
    before = run_demo.code_hash()
    assert run_demo.code_hash() == before
    file.write_text("a = 2\n")
    assert run_demo.code_hash() != before
