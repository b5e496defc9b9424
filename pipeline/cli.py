"""Start a script from its Hydra config; end it with one readable message where the mistake is the user's."""

import logging
import os
import re
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import wraps
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, InstantiationException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from common import launcher
from common.errors import FILE_ERRORS, AgreedError, UserError, of_a_file
from common.told import Told, hearing_signals
from pipeline.resolvers import register_resolvers

CONFIG_DIR = Path(__file__).parents[1] / "config"
USER_ERROR, INTERRUPTED = 2, 130  # exit statuses, as of argparse and of shells
GOES_ON = "what is finished is kept, and the same command goes on from there"

Task = Callable[[DictConfig], None]


def script(config_name: str) -> Callable[[Task], Callable[[], None]]:
    """`hydra.main` for our scripts.

    A user's mistake ends in one message and status 2; Ctrl-C, SIGTERM, SIGUSR1 and SIGHUP in one line and status 130,
    143, 138 or 129. Any other error is a fault of the program: its traceback, a line that says so, status 1.
    """

    def decorate(task: Task) -> Callable[[], None]:
        @wraps(task)
        def start() -> None:
            failed: list[Exception] = []

            @wraps(task)
            def guarded(cfg: DictConfig) -> None:
                from pipeline.multirun import separate  # here: these take a moment to load
                from pipeline.schema import check

                del os.environ["HYDRA_FULL_ERROR"]  # the commands that a script starts report for themselves
                try:
                    separate(config_name, cfg)
                    OmegaConf.set_readonly(cfg, True)  # what follows from settings is passed on, not written back
                    check(config_name, cfg)
                    task(cfg)
                except Exception as error:
                    failed.append(error)  # out of Hydra's sight, which would print a report of its own
                finally:
                    os.environ["HYDRA_FULL_ERROR"] = "1"

            _prepare_process()
            wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
            os.environ["HYDRA_FULL_ERROR"] = "1"  # errors of composing reach us
            try:
                with hearing_signals():
                    hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name=config_name)(guarded)()
            except (HydraException, OmegaConfBaseException) as error:
                failed.append(UserError(_of_composing(error, config_name)))
            except Told as told:
                print(f"\n{told.name}; {GOES_ON}", file=sys.stderr)
                raise
            except (KeyboardInterrupt, SystemExit) as ended:
                if not isinstance(ended, KeyboardInterrupt) and not isinstance(ended.__context__, KeyboardInterrupt):
                    raise  # else it is Lightning's answer to Ctrl-C
                print(f"\ninterrupted; {GOES_ON}", file=sys.stderr)
                sys.exit(INTERRUPTED)
            finally:
                if not wants_traceback:
                    del os.environ["HYDRA_FULL_ERROR"]
            if failed:
                end(failed[0], config_name)

        return start

    return decorate


def _prepare_process() -> None:
    launcher.join_srun()
    launcher.end_with_torchrun()
    launcher.meet_anew()
    register_resolvers()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("numexpr").setLevel(logging.WARNING)  # else it tells its number of threads
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(_is_news)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # of DDP, about kernels of 1 x 1 x 1 voxel: what differs are the strides of axes that have no second voxel
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    warnings.filterwarnings("ignore", message="The `srun` command is available")  # torchrun starts our processes
    warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")  # our sampler is


def _is_news(record: logging.LogRecord) -> bool:
    """Not Lightning's advertisements, nor its words on Ctrl-C and on the end, which have ours."""
    return not re.search("💡 Tip|Detected KeyboardInterrupt|`Trainer.fit` stopped", record.getMessage())


_SAMPLING = (
    "mode=fused, window_batch=1 (a batch of N takes about N times as much), latent_device=cpu (seven copies of the"
    " latent fewer), bf16=true (activations of half the size)"
)
# Which knob frees how much, by script; from benchmarks/results/memory_tally.json, to which a test holds it
SAVING_MEMORY = {
    "train_ddpm": "model.dim_mults=[1,2,4] (2.1 GB: 38 instead of 144 million parameters, 20 bytes each in training),"
    " model.checkpointing=true (6.0 of the 18.2 GB of a whole CT at batch 1, 0.9 of the 4.9 GB of patches at batch 8,"
    " next to nothing at batch 2), model.batch_size=1 (0.2 GB per sample of 128³), model.patch_size=[96,96,96]"
    " (0.42 of that per sample). The guide's network and patches take 3.6 GB at batch 2; nvidia-smi tells what else is"
    " on the GPU",
    "train_vqgan": "model.batch_size=1, model.patch_size=[96,96,96] (0.42 of the voxels). The guide's networks and"
    " patches take 7.1 GB at batch 2, most of it by the voxel; nvidia-smi tells what else is on the GPU",
    "sample_ddpm": f"{_SAMPLING}, decode_tile=16 (half of what a tile of 32 takes); dry_run=true tells how much",
    "evaluate_ddpm": _SAMPLING,
    "evaluate_task": f"{_SAMPLING}; of the classifier batch_size=2 and common_grid=64",
}

ALONE_SPEAKS_S = 60.0  # the same of a mistake that it knows to be that of the first, too
FIRST_SPEAKS_S = 5.0  # seconds after which a process that is not the first tells its mistake
FAULT = (
    "\nThis is a fault of the program, not of your settings or files. Please report the text above with the command"
    " line; names of files and patients may stand in it."
)


def end(error: Exception, config_name: str) -> None:
    """End the process after an error: by its message if it is a user's mistake, else by the error itself."""
    mistake = explain(error, config_name)
    if mistake is None:
        error.add_note(FAULT)
        raise error
    rank = launcher.rank_and_world()[0]
    if rank and launcher.local_rank():
        # a mistake of all is for the first one of each machine to tell: torchrun then ends this one here
        time.sleep(ALONE_SPEAKS_S if isinstance(error, AgreedError) else FIRST_SPEAKS_S)
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        traceback.print_exception(error)
    whose = f"[rank {rank}] " if rank else ""
    print(f"\n{whose}error: {mistake}\n(HYDRA_FULL_ERROR=1 shows the traceback)", file=sys.stderr)
    sys.exit(USER_ERROR)


def explain(error: BaseException, config_name: str) -> str | None:
    """One message for a user's mistake: the rule, what was found, what to do. None for a fault of the program."""
    met = error
    while isinstance(error, InstantiationException | InterpolationResolutionError) and error.__cause__:
        error = error.__cause__
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return (
            f"out of GPU memory: {error}\nTo need less: {SAVING_MEMORY.get(config_name, SAVING_MEMORY['train_ddpm'])}"
        )
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        return f"{error.strerror}: {error.filename}"
    by_itself = str(error) if isinstance(error, UserError) or of_a_file(error) else None
    return _of_worker(error) or by_itself or _of_parts(met)


MISTAKES: list[type[Exception]] = [UserError, *UserError.__subclasses__(), *FILE_ERRORS]


def _of_worker(error: BaseException) -> str | None:
    """The message of a user's mistake that a process of torch's loader met: it arrives as text, with a traceback."""
    killed = re.match(r"DataLoader worker \(pid[^)]*\) (is killed by signal: [\w ]+|exited unexpectedly)", str(error))
    if killed:
        return (
            f"a loader process {killed[1]}, as by a system that is out of memory; take fewer model.num_workers, or"
            " give the job more memory. The same command goes on from last.ckpt"
        )
    caught = re.match(r"Caught (\w+) in [^\n]*\nOriginal Traceback", str(error))
    if caught is None or caught[1] not in [mistake.__name__ for mistake in MISTAKES]:
        return None
    return re.split(rf"^(?:\w+\.)*{caught[1]}: ", str(error), flags=re.MULTILINE)[-1].strip()


_OF_PARTS = re.compile(r"~|\+*(module|trainer|callbacks)\.|[^=]*\._target_=")


def _of_parts(error: BaseException) -> str | None:
    """The message of an error in building, where what is built was given arguments by hand, or settings taken out."""
    given = [word for word in sys.argv[1:] if _OF_PARTS.match(word)]
    if not given or not isinstance(error, InstantiationException | OmegaConfBaseException):
        return None
    return f"{error}\nThis came of building what the settings describe; look at {' '.join(given)}"


def _of_composing(error: BaseException, config_name: str) -> str:
    """What is wrong with the settings, in place of Hydra's words."""
    while isinstance(error, InterpolationResolutionError) and error.__cause__:
        error = error.__cause__
    unknown = re.search(r"Could not override '([^']+)'|Could not find '([^']+)'", str(error))
    if unknown:
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
    groups = [setting for setting in sys.argv[1:] if (CONFIG_DIR / setting.partition("=")[0]).is_dir()]
    known = list(_leaf_keys(OmegaConf.to_container(composed(config_name, groups))))
    full = [k for k in known if k.rsplit(".", 1)[-1] == key]
    meant = full or get_close_matches(key, known, n=2)
    hint = f"did you mean {' or '.join(meant)}?" if meant else "--cfg job lists the settings there are"
    return f"unknown setting {key!r}; {hint}"


def composed(config_name: str, overrides: Sequence[str]) -> DictConfig:
    """A script's config with overrides, as the script would see it."""
    GlobalHydra.instance().clear()
    register_resolvers()
    try:
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            return compose(config_name, list(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_of_composing(error, config_name)) from error


def _leaf_keys(config: Any, prefix: str = "") -> Iterator[str]:
    # What users set: the values of the groups, not the parts that a script builds from them.
    for key, value in config.items():
        if isinstance(value, Mapping):
            if "_target_" not in value or not prefix:
                yield from _leaf_keys(value, f"{prefix}{key}.")
        elif not re.search(rf"\.{key}}}", str(value)):  # else it follows from the group's value of this name
            yield f"{prefix}{key}"
