"""Which of several processes this one is, as torchrun says it in the environment, or srun or launch.sh."""

import ctypes
import os
import re
import signal
import sys

_PR_SET_PDEATHSIG = 1  # of linux/prctl.h
_TORCHRUN = ("RANK", "WORLD_SIZE")
_SRUN = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")  # not SLURM_NTASKS: a batch script has it too, although it runs once
_PORTS = range(20_000, 40_000)  # jobs that share a machine take different ones


def rank_and_world() -> tuple[int, int]:
    """This process' number and how many torchrun or srun started; (0, 1) without them."""
    return _pair(_TORCHRUN) or (0, 1)


def end_with_torchrun() -> None:
    """Let this process be told SIGTERM when the torchrun that started it is gone; else it would go on, unseen."""
    if _pair(_TORCHRUN):
        end_with_parent()


def meet_anew() -> None:
    """Let processes that torchrun has started again find one another by a store of their own, on another port.

    torchrun's own store, at its --master_port, still holds the addresses of those that are gone (torch 2.13).
    """
    times = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    if times and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        port = int(os.environ["MASTER_PORT"]) + 100 * times  # the launchers' ports are neighbours
        os.environ |= {
            "MASTER_PORT": str(port if port < 2**16 else port - 2**15),
            "TORCHELASTIC_USE_AGENT_STORE": "False",
        }


def end_with_parent() -> None:
    """Let this process be told SIGTERM when the thread that started it is gone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def join_srun() -> None:
    """Where srun, not torchrun, started this process beside others: the variables that torchrun would have set."""
    found = _pair(_SRUN)
    if _pair(_TORCHRUN) or found is None or found[1] == 1:
        return  # torchrun may run inside SLURM
    per_node = re.match(r"\d+", os.environ.get("SLURM_STEP_TASKS_PER_NODE", ""))  # such as 4(x2)
    job, step = (int(os.environ.get(name, "0")) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    os.environ |= {
        "RANK": str(found[0]),
        "WORLD_SIZE": str(found[1]),
        "LOCAL_RANK": os.environ.get("SLURM_LOCALID", "0"),
        "LOCAL_WORLD_SIZE": per_node[0] if per_node else str(found[1]),
        "GROUP_RANK": os.environ.get("SLURM_NODEID", "0"),
        "MASTER_ADDR": os.environ.get("MASTER_ADDR") or _first_of(os.environ.get("SLURM_STEP_NODELIST", "")),
        "MASTER_PORT": os.environ.get("MASTER_PORT") or str(_PORTS.start + (job + step) % len(_PORTS)),
        "TORCHELASTIC_RUN_ID": str(job),  # by which Lightning knows that the other processes are there
    }


def _first_of(machines: str) -> str:
    """The first of SLURM's list of machines, such as gpu[07-08,11]-ib,cpu1."""
    before, number, after = re.match(r"([^,\[]*)(?:\[(\w+)[^]]*\])?([^,\[]*)", machines).groups()  # type: ignore[union-attr]
    return f"{before}{number or ''}{after}" or "127.0.0.1"


def hide_slurm() -> None:
    """Keep Lightning from looking at SLURM itself; `join_srun` has, or torchrun started the processes."""
    if "SLURM_NTASKS" in os.environ:
        os.environ["SLURM_JOB_NAME"] = "interactive"


def local_rank() -> int:
    """This process' number on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def local_processes() -> int:
    """How many processes torchrun or srun started on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def planned_processes() -> int:
    """How many are or, at the check of launch.sh, will be started on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("NGPU", "1"))


def nodes() -> int:
    return rank_and_world()[1] // local_processes()


def _pair(names: tuple[str, str]) -> tuple[int, int] | None:
    rank, world = names
    return (int(os.environ[rank]), int(os.environ[world])) if rank in os.environ and world in os.environ else None
