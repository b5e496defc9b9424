"""Every command line of README.md and docs/ is one that the project has; those of the README's table run, tiny."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib import import_module
from importlib.metadata import metadata, version
from inspect import getsource, signature

import pytest
from omegaconf import OmegaConf

from pipeline.schema import check
from tests import pages, tiny
from tests.pages import PAGES, README, ROOT, Call, call_of
from tests.test_docs import SCRIPTS, composed, has

LINES = sorted({line for page in PAGES for line in pages.commands(page)} - {"python -m benchmarks.NAME"})
SHELL = ("export", "source")
OTHERS = ("tensorboard", "pip")  # programs of the environment
TOOLS = ("docker", "apptainer", "pip-audit")  # that a machine may have
TWO_STEPS = ["steps=2", "device=cpu"]
TINY = {  # what each command needs besides to take seconds
    "prepare_data.py": ["dataset.prepare_workers=0"],
    "train_vqgan_patches_4gpu.py": tiny.VQGAN,
    "encode_latents.py": [*tiny.FROZEN, tiny.PATCHES[0]],
    "train_ddpm_patches_4gpu.py": tiny.DDPM,
    "sample_ddpm_patches.py": TWO_STEPS,
    "evaluate_ddpm_patches.py": TWO_STEPS,
    "evaluate_task.py": [*TWO_STEPS, "target=tall", "epochs=1", "common_grid=20"],
    "evaluate_files.py": [],
    "export_model.py": [],
}


def calls():
    return {line: call_of(shlex.split(line, comments=True)) for line in LINES}


def of_python(call):
    """A launcher's call as that of the script that it starts."""
    if not call.program.endswith(".sh"):
        return call
    started = re.search(r"(?:launch\.sh|python) (\w+\.py)", (ROOT / call.program).read_text(encoding="utf-8"))
    return Call(started[1], call.arguments) if started else call


@pytest.mark.parametrize("line", LINES)
def test_a_command_is_one_that_there_is(line, elsewhere, capsys):
    call = calls()[line]
    if call.program.endswith(".sh"):
        assert os.access(ROOT / call.program, os.X_OK)
    call = of_python(call)
    if call.program.endswith(".py"):
        asked = () if "--cfg" in call.arguments else ("--cfg", "job")
        module = import_module(call.program.removesuffix(".py"))
        words = list(call.arguments)
        if "-m" in words:  # of several jobs, the first
            words = [word.partition(",")[0] for word in words if word != "-m"]
        tiny.run(module, *words, *asked)
        name = re.search(r'^@script\("(\w+)"\)$', getsource(module), re.MULTILINE)[1]
        check(name, OmegaConf.create(capsys.readouterr().out))
    elif call.program.startswith("benchmarks."):
        known = signature(import_module(call.program).main).parameters
        for key in (word.partition("=")[0] for word in call.arguments if "=" in word):
            assert key in known or any(has(composed(name), key) for name in SCRIPTS), key
    elif call.program.startswith("evaluation."):
        assert callable(import_module(call.program).main)
    elif call.program in TOOLS:
        files = [word for word in call.arguments if word.startswith("./") or word.endswith((".def", "file", ".txt"))]
        assert all((ROOT / name).is_file() for name in files if name != "--file")
    elif not call.program.endswith(".sh"):
        assert call.program in (*SHELL, *OTHERS)
        files = [word for word in call.arguments if word.endswith(".txt")]
        assert all((ROOT / name).is_file() for name in files)
        assert call.program in SHELL or version(call.program)


def test_the_table_of_licences_is_what_the_packages_say():
    (table,) = (t for t in pages.tables(ROOT / "docs" / "clusters.md") if t.kind == "licences")
    pins = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    assert {name.strip("`") for name, _ in table.rows} == set(re.findall(r"^([\w.-]+)==", pins, re.MULTILINE))
    for name, licence in table.rows:
        about = metadata(name.strip("`"))
        words = [about.get("License-Expression"), about.get("License"), *(about.get_all("Classifier") or [])]
        assert licence.partition("-")[0] in " ".join(map(str, words)), name


def test_shell_scripts_can_be_read_and_started():
    for path in ROOT.glob("*.sh"):
        assert os.access(path, os.X_OK), path
        subprocess.run(["bash", "-n", path], check=True)
        assert max(map(len, path.read_text(encoding="utf-8").splitlines())) <= 120, path


def test_the_job_for_slurm_tells_the_launcher_where_it_is(tmp_path):
    (job,) = (code for code in pages.blocks(ROOT / "docs" / "clusters.md", "bash") if "#SBATCH" in code)
    stand_ins = {
        "srun": 'exec "$@"',
        "scontrol": "printf 'node7\\nnode8\\n'",
        "launch_ddpm_patches_4gpu.sh": 'echo "$NGPU $NNODES $NODE_RANK $MASTER_ADDR $@"',
    }
    for name, text in stand_ins.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {"SLURM_JOB_NUM_NODES": "2", "SLURM_NODEID": "1", "SLURM_JOB_NODELIST": "node[7-8]"}
    env = os.environ | slurm | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-e", "-c", job], cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "4 2 1 node7 dataset.root=/data/pairs\n"


@pytest.mark.slow
def test_the_tasks_of_the_readme_leave_what_it_says(tiny_data, elsewhere):
    pairs = elsewhere / "pairs"
    shutil.copytree(tiny_data.root, pairs)
    shutil.rmtree(pairs / "store")
    head, *rows = (pairs / "pairs.csv").read_text().splitlines()
    told = ["tall,split", "1,train", "0,train", "1,train", "1,val", "0,val"]  # few as they are, both classes in both
    lines = [f"{line},{more}" for line, more in zip([head, *rows], told, strict=True)]
    (pairs / "pairs.csv").write_text("\n".join(lines) + "\n")
    shutil.copy(tiny_data.xray, "chest.png")
    for folder in ("drawn", "real"):
        shutil.copytree(
            pairs, elsewhere / folder, ignore=lambda _, names: [n for n in names if n.endswith((".csv", ".png"))]
        )
    (tasks,) = (table for table in pages.tables(README) if table.head == ("task", "command", "result"))
    for _, command, result in tasks.rows:
        call = of_python(call_of(shlex.split(command.strip("`"))))
        if call.program in OTHERS:
            continue
        settings = [word.replace("/data/", f"{elsewhere}/") for word in call.arguments]
        tiny.run(import_module(call.program.removesuffix(".py")), *settings, *TINY[call.program])
        made = [pairs.parent / name.replace("/data/", "") for name in pages.code_spans(result)]
        for path in made:
            assert path.exists() or (made[0] / path.name).exists(), f"{command} left no {path}"


def test_the_script_of_the_docs_runs_in_another_folder(workshop, tmp_path):
    script, *_ = pages.blocks(ROOT / "docs" / "python.md", "python")
    assert len([line for line in script.splitlines() if line]) == 6
    assert "from_store" in script
    files = {"/data/pairs": workshop.root, "last.ckpt": workshop.ddpm_ckpt, "chest.png": workshop.xray}
    for name, there in files.items():
        assert f'"{name}"' in script
        script = script.replace(f'"{name}"', f'"{there}"')
    words, env = [sys.executable, "-c", script], os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "torch.Size([1, 128, 128, 128])" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ct.json", "ct.nii.gz", "ct.png"]


def test_the_other_python_of_the_docs_runs(workshop, elsewhere):
    shutil.copy(workshop.xray, "chest.png")
    shutil.copy(workshop.ddpm_ckpt, "last.ckpt")
    for code in pages.blocks(ROOT / "docs" / "python.md", "python")[1:]:
        exec(code, {})
