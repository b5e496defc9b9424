"""What SLURM's variables change: trainings are started by torchrun alone, once per machine."""

import os
import subprocess

import pytest

import train_vqgan_patches_4gpu
from common import launcher
from tests.conftest import ROOT
from tests.tiny import VQGAN, run

JOB = {"SLURM_NTASKS": "4", "SLURM_JOB_ID": "7"}
STEP = JOB | {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "1"}


@pytest.fixture
def slurm(monkeypatch):
    """Sets SLURM's variables; what the command changes of them is undone."""

    def set_all(variables):
        monkeypatch.setenv("SLURM_JOB_NAME", "train")
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_all


@pytest.mark.parametrize("per_node", ["4", "2(x2)", "1(x4)"])
def test_srun_without_torchrun_is_refused(per_node, slurm, tiny_data, elsewhere, refused):
    slurm(STEP | {"SLURM_STEP_TASKS_PER_NODE": per_node})
    message = refused(train_vqgan_patches_4gpu, tiny_data.data, *VQGAN)
    assert "srun started 4 tasks" in message
    assert "launch_slurm.sbatch" in message
    assert not list(elsewhere.iterdir())


def test_a_launcher_looks_before_it_starts_on_each_machine(slurm, tiny_data, elsewhere):
    slurm(STEP | {"SLURM_STEP_TASKS_PER_NODE": "1(x4)"})
    run(train_vqgan_patches_4gpu, tiny_data.data, *VQGAN, "check=true")


def test_a_job_of_several_tasks_that_starts_the_launcher_once_is_no_error(slurm, tiny_data, elsewhere):
    slurm(JOB | {"SLURM_PROCID": "0"})  # a batch script's
    run(train_vqgan_patches_4gpu, tiny_data.data, *VQGAN, "check=true")


def test_torchrun_within_srun_counts(monkeypatch):
    for name, value in {**STEP, "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert launcher.srun_tasks() == (1, 1)
    assert launcher.local_rank() == 0


def test_the_job_starts_one_launcher_on_every_machine(tmp_path):
    stand_ins = {
        "srun": 'shift; exec "$@"',
        "scontrol": "printf 'node7\\nnode8\\n'",
        "launcher.sh": 'echo "$NGPU $NNODES $NODE_RANK $MASTER_ADDR $@"',
    }
    for name, text in stand_ins.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    variables = {"SLURM_JOB_NUM_NODES": "2", "SLURM_NODEID": "1", "SLURM_JOB_NODELIST": "node[7-8]"}
    env = os.environ | variables | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = ["bash", str(ROOT / "launch_slurm.sbatch"), "./launcher.sh", "a=1", "b=[1, 2]"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "4 2 1 node7 a=1 b=[1, 2]\n"
