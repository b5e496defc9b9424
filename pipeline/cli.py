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
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from common import launcher
from common.errors import AgreedError, UserError
from common.told import Told, hearing_signals
from pipeline.mistakes import explain
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
    warnings.filterwarnings("ignore", message="The AccumulateGrad node's stream does not match")  # a graph's own
    warnings.filterwarnings("ignore", message="The `srun` command is available")  # torchrun starts our processes
    warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")  # our sampler is


def _is_news(record: logging.LogRecord) -> bool:
    """Not Lightning's advertisements, nor its words on Ctrl-C and on the end, which have ours."""
    return not re.search("💡 Tip|Detected KeyboardInterrupt|`Trainer.fit` stopped", record.getMessage())


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
