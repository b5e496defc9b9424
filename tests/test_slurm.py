"""What SLURM's variables change: srun starts the processes of a command, or a launcher on every machine, which does."""

import os
import subprocess
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import pytest

import sample_ddpm_patches
import train_vqgan_patches_4gpu
from common import launcher
from tests.conftest import ROOT
from tests.processes import running, script
from tests.tiny import VQGAN, VQGAN_CKPT, free_port, load, run

JOB = {"SLURM_NTASKS": "4", "SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "train"}
STEP = {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1", "SLURM_NODEID": "1"}


TORCHRUN = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT"}


@pytest.fixture
def slurm():
    """Sets SLURM's variables; what the command changes of them is undone."""
    with mock.patch.dict(os.environ):
        for name in [n for n in os.environ if n in TORCHRUN or n.startswith(("SLURM_", "TORCHELASTIC_"))]:
            del os.environ[name]  # whatever a test before has left
        yield os.environ.update


def tasks(stack, folder, module, *settings, **variables):
    """Two tasks of srun on one machine."""
    of_step = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "2", "MASTER_PORT": str(free_port())}
    for task in ("0", "1"):
        own = JOB | of_step | {"SLURM_PROCID": task, "SLURM_LOCALID": task, "SLURM_NODEID": "0"} | variables
        yield stack.enter_context(running(script(module, *settings), folder / f"log{task}", **own))


@pytest.mark.parametrize(
    ("machines", "first"),
    [("node[07-08]", "node07"), ("gpu-a[1,3-4],cpu9", "gpu-a1"), ("n3", "n3"), ("n3,n4", "n3"), ("n[2-3]-ib", "n2-ib")],
)
def test_tasks_of_srun_are_processes_of_one_run(machines, first, slurm):
    more = {"SLURM_STEP_TASKS_PER_NODE": "4(x2)", "SLURM_STEP_NODELIST": machines, "SLURM_STEP_ID": "2"}
    slurm(JOB | STEP | more)
    launcher.join_srun()
    assert launcher.rank_and_world() == (5, 8)
    assert (launcher.local_rank(), launcher.local_processes(), launcher.nodes()) == (1, 4, 2)
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == (first, "20009")


@pytest.mark.parametrize(
    "variables", [JOB | {"SLURM_PROCID": "0"}, JOB | STEP | {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}]
)
def test_a_batch_script_and_a_single_task_run_alone(variables, slurm, tiny_data, elsewhere):
    slurm(variables)
    run(train_vqgan_patches_4gpu, tiny_data.data, *VQGAN, "check=true")
    assert launcher.rank_and_world() == (0, 1)


def test_torchrun_within_srun_counts(slurm):
    slurm({**STEP, "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"})
    launcher.join_srun()
    assert launcher.rank_and_world() == (0, 2)
    assert launcher.local_rank() == 0


def test_machines_of_unlike_numbers_of_tasks_are_refused(slurm, tiny_data, elsewhere, refused):
    slurm(JOB | STEP | {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_STEP_TASKS_PER_NODE": "5,3"})
    message = refused(train_vqgan_patches_4gpu, tiny_data.data, *VQGAN)
    assert "as many tasks on each machine, got 8 tasks, 5 of them on the first" in message
    assert not list(elsewhere.iterdir())


@pytest.mark.slow
def test_srun_trains_one_model_on_all_its_tasks(tiny_data, elsewhere):
    with ExitStack() as stack:
        first, second = tasks(stack, elsewhere, train_vqgan_patches_4gpu, tiny_data.data, *VQGAN)
        assert (first.status(), second.status()) == (0, 0), first.said + second.said
    assert "4 patches a step: batches of 2 on 2 processes" in first.said
    assert load(VQGAN_CKPT)["global_step"] == 2


@pytest.mark.slow
def test_srun_shares_the_films_among_its_tasks(workshop, elsewhere):
    Path("films").mkdir()
    for i in range(2):
        Path(f"films/{i}.png").write_bytes(workshop.xray.read_bytes())
    settings = ["xray=films", "output=cts", f"ckpt={workshop.ddpm_ckpt}", "steps=1", "shape=[16,16,16]"]
    with ExitStack() as stack:
        both = list(tasks(stack, elsewhere, sample_ddpm_patches, *settings))
        assert [task.status() for task in both] == [0, 0], both[0].said + both[1].said
    assert ["0.png → " in task.said for task in both] == [True, False]
    assert sorted(path.name for path in Path("cts").glob("*.nii.gz")) == ["0.nii.gz", "1.nii.gz"]


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
