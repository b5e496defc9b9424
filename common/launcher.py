"""Which of several processes this one is, as torchrun, srun or launch.sh say it in the environment."""

import ctypes
import os
import re
import signal
import sys

_PR_SET_PDEATHSIG = 1  # of linux/prctl.h
_TORCHRUN = ("RANK", "WORLD_SIZE")
_SRUN = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")  # not SLURM_NTASKS: a batch script has it too, although it runs once


def rank_and_world() -> tuple[int, int]:
    """This process' number and how many torchrun started; (0, 1) without it."""
    return _pair(_TORCHRUN) or (0, 1)


def end_with_torchrun() -> None:
    """Let this process be told SIGTERM when the torchrun that started it is gone; else it would go on, unseen."""
    if _pair(_TORCHRUN) and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def rank_and_world_of_any() -> tuple[int, int]:
    """The same of torchrun, or else of srun; for work whose processes need not know one another."""
    return _pair(_TORCHRUN) or _pair(_SRUN) or (0, 1)  # torchrun may run inside SLURM


def srun_tasks() -> tuple[int, int]:
    """How many tasks srun started, in all and on one machine, if no torchrun runs in this one; else (1, 1)."""
    found = None if _pair(_TORCHRUN) else _pair(_SRUN)
    tasks = found[1] if found else 1
    per_node = re.match(r"\d+", os.environ.get("SLURM_STEP_TASKS_PER_NODE", "")) if found else None  # such as 4(x2)
    return tasks, int(per_node[0]) if per_node else tasks


def hide_slurm() -> None:
    """Keep Lightning from taking SLURM's tasks for its processes: here, torchrun starts those."""
    if "SLURM_NTASKS" in os.environ:
        os.environ["SLURM_JOB_NAME"] = "interactive"


def local_rank() -> int:
    """This process' number on its machine."""
    return int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or "0")


def local_processes() -> int:
    """How many processes torchrun started on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def planned_processes() -> int:
    """How many are or, at the check of launch.sh, will be started on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("NGPU", "1"))


def nodes() -> int:
    return rank_and_world()[1] // local_processes()


def _pair(names: tuple[str, str]) -> tuple[int, int] | None:
    rank, world = names
    return (int(os.environ[rank]), int(os.environ[world])) if rank in os.environ and world in os.environ else None
