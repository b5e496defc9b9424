"""Start a script from its Hydra config, and turn a user's mistake into one readable message."""

import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from functools import wraps
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException, InstantiationException, OverrideParseException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from common.geometry import STEP, three_quarters

CONFIG_DIR = Path(__file__).parents[1] / "config"
USER_ERROR = 2  # exit status, as of argparse

Task = Callable[[DictConfig], None]


def _gpu_bf16() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def _precision(wanted: str) -> str:
    if wanted != "auto":
        return str(wanted)
    if not torch.cuda.is_available():
        return "32-true"
    return "bf16-mixed" if _gpu_bf16() else "16-mixed"


def _local_processes() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _nodes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1")) // _local_processes()


def register_resolvers() -> None:
    """The derived values of the configs."""
    resolvers: dict[str, Callable[..., Any]] = {
        "three_quarters": lambda sizes: ListConfig(three_quarters(sizes)),  # plain lists cannot be resolved in place
        "latent_size": lambda voxels: int(voxels) // STEP,
        "precision": _precision,
        "local_processes": _local_processes,  # of torchrun
        "nodes": _nodes,
        "processes": lambda: min(16, os.cpu_count() or 1),
        "demo_for_device": lambda: "demo_gpu" if torch.cuda.is_available() else "demo",
        "half": lambda n: int(n) // 2,
        "repeated": lambda value, times: ListConfig([value] * int(times)),
        "strategy": lambda: "ddp" if int(os.environ.get("WORLD_SIZE", "1")) > 1 else "auto",
    }
    for name, resolver in resolvers.items():
        OmegaConf.register_new_resolver(name, resolver, replace=True)


def script(config_name: str) -> Callable[[Task], Callable[[], None]]:
    """`hydra.main` for our scripts: exit status 2 and one message for mistakes, a traceback for our bugs."""

    def decorate(task: Task) -> Callable[[], None]:
        @wraps(task)
        def start() -> None:
            mistakes: list[BaseException] = []

            @wraps(task)
            def guarded(cfg: DictConfig) -> None:
                del os.environ["HYDRA_FULL_ERROR"]  # the commands that a script starts report for themselves
                try:
                    task(cfg)
                except USER_MISTAKES as error:
                    mistakes.append(error)  # out of Hydra's sight, which would print a report of its own
                finally:
                    os.environ["HYDRA_FULL_ERROR"] = "1"  # a bug of ours keeps its whole traceback

            _prepare_process()
            wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
            os.environ["HYDRA_FULL_ERROR"] = "1"  # errors of composing reach us
            main = hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name=config_name)
            try:
                main(task if wants_traceback else guarded)()
            except USER_MISTAKES as error:
                if wants_traceback:
                    raise
                mistakes.append(error)
            finally:
                if not wants_traceback:
                    del os.environ["HYDRA_FULL_ERROR"]
            if mistakes:
                _report(explain(mistakes[0], config_name))

        return start

    return decorate


def _prepare_process() -> None:
    register_resolvers()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")  # our sampler is


USER_MISTAKES = (
    ValueError,
    OSError,
    HydraException,
    OmegaConfBaseException,
    torch.OutOfMemoryError,
)

_SAMPLING = (
    "mode=fused, window_batch=1 (a batch of N takes about N times as much), latent_device=cpu (seven copies of the"
    " latent fewer), bf16=true (about half)"
)
SAVING_MEMORY = {  # which knob frees how much, by script
    "train_ddpm": "model.batch_size=1 (about half of batch 2), model.checkpointing=true (about a third of the"
    " activations), model.patch_size=[96,96,96] (0.42 of the voxels), model.dim_mults=[1,2,4]",
    "sample_ddpm": f"{_SAMPLING}, decode_tile=16 (a tile takes about a quarter of that of 32); dry_run=true"
    " tells how much",
    "evaluate_ddpm": _SAMPLING,
}


FIRST_SPEAKS_S = 5.0  # seconds after which a process that is not the first tells its mistake


def _report(message: str) -> None:
    rank = int(os.environ.get("RANK", "0"))
    if rank:
        time.sleep(FIRST_SPEAKS_S)  # a mistake of all is the first one's to tell: torchrun then ends this one here
    whose = f"[rank {rank}] " if rank else ""
    print(f"\n{whose}error: {message}\n(HYDRA_FULL_ERROR=1 shows the traceback)", file=sys.stderr)
    sys.exit(USER_ERROR)


def explain(error: BaseException, config_name: str) -> str:
    """One message for a mistake: the rule, what was found, what to do."""
    while isinstance(error, InstantiationException | InterpolationResolutionError) and error.__cause__:
        error = error.__cause__
    missing = re.search(r"Missing mandatory value: (\S+)", str(error))
    if missing:
        return f"{missing[1]} has no value; give one on the command line: {missing[1]}=..."
    if isinstance(error, torch.OutOfMemoryError):
        return (
            f"out of GPU memory: {error}\nTo need less: {SAVING_MEMORY.get(config_name, SAVING_MEMORY['train_ddpm'])}"
        )
    in_worker = re.search(r"Original Traceback.*\n\S+: (.*)", str(error), re.DOTALL)
    if in_worker:  # as torch's loader passes it on
        return in_worker[1].strip()
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        return f"{error.strerror}: {error.filename}"
    unknown = re.search(r"Could not override '([^']+)'|Could not find '([^']+)'", str(error))
    if isinstance(error, HydraException | OmegaConfBaseException) and unknown:
        return _unknown(str(error), unknown[1] or unknown[2], config_name)
    if isinstance(error, OverrideParseException):
        return (
            f"cannot read {error.override!r} as key=value; values with =, commas, spaces or brackets"
            " need quotes inside quotes, e.g. 'dataset.root=\"/data/a=b\"'"
        )
    return str(error)


def _unknown(message: str, key: str, config_name: str) -> str:
    if "/" in key:
        return message.strip()  # a group's choice that does not exist; Hydra lists those that do
    known = list(_leaf_keys(_composed(config_name)))
    full = [k for k in known if k.rsplit(".", 1)[-1] == key]
    meant = full or get_close_matches(key, known, n=2)
    hint = f"did you mean {' or '.join(meant)}?" if meant else "--cfg job lists the settings there are"
    return f"unknown setting {key!r}; {hint}"


def _composed(config_name: str) -> Mapping[Any, Any]:
    groups = [setting for setting in sys.argv[1:] if (CONFIG_DIR / setting.partition("=")[0]).is_dir()]
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        config = OmegaConf.to_container(compose(config_name, groups), resolve=False)
    if not isinstance(config, Mapping):
        raise TypeError(f"{config_name}.yaml is not a mapping")
    return config


def _leaf_keys(config: Mapping[Any, Any], prefix: str = "") -> Iterator[str]:
    # What users set: the values of the groups, not the parts that a script builds from them.
    for key, value in config.items():
        if isinstance(value, Mapping):
            if "_target_" not in value or not prefix:
                yield from _leaf_keys(value, f"{prefix}{key}.")
        elif not re.search(rf"\.{key}}}", str(value)):  # else it follows from the group's value of this name
            yield f"{prefix}{key}"
