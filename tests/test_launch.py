"""What `launch.sh` starts, with stand-ins for python and torchrun that only say what they were given."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def launched(tmp_path, monkeypatch):
    """Runs `launch.sh` with some settings; returns the commands that it started."""
    shutil.copy(ROOT / "launch.sh", tmp_path)
    for name in ("python", "torchrun"):
        path = tmp_path / name
        path.write_text(f'#!/bin/sh\necho {name} "$@"\n')
        path.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    for name in ("NGPU", "NNODES", "NODE_RANK", "MAX_RESTARTS", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)

    def launch(*settings, check=True, by=("env", "--default-signal=HUP")):
        words = [*by, str(tmp_path / "launch.sh"), "train.py", "29500", *settings]
        done = subprocess.run(words, capture_output=True, text=True, check=check)
        return done.stdout.splitlines() if check else done

    return launch


def test_one_check_comes_before_all_processes(launched):
    check, start = launched("a=1", "b=[1, 2]")
    assert check == "python train.py check=true a=1 b=[1, 2]"
    assert start == (
        "torchrun --nproc_per_node=4 --nnodes=1 --node_rank=0 --max_restarts=0"
        " --master_addr=127.0.0.1 --master_port=29500 --signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"
        " train.py a=1 b=[1, 2]"
    )


def test_nohup_counts_for_torchrun_too(launched):
    """It hears every signal that it is given, whoever told the system to keep it away."""
    _, start = launched(by=["nohup"])
    assert "--signals-to-handle=SIGTERM,SIGINT,SIGQUIT,SIGUSR1 " in start


@pytest.mark.parametrize(
    "question",
    ["--help", "-h", "--hydra-help", "--version", "--cfg job", "--cfg=job", "-c job", "--info", "--info=all"],
)
def test_a_question_is_answered_and_starts_nothing(launched, question):
    words = ["a=1", *question.split()]
    assert launched(*words) == [" ".join(["python train.py", *words])]


@pytest.mark.parametrize(("per_node", "refused"), [("1", False), ("1(x4)", False), ("4", True), ("2(x2)", True)])
def test_srun_starts_one_launcher_on_a_machine(per_node, refused, launched, monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", per_node)
    done = launched(check=False)
    assert done.returncode == (2 if refused else 0)
    assert ("error: srun started 4 launchers" in done.stderr) == refused
    assert (done.stdout == "") == refused
