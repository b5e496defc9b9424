"""Hydra's `-m`, which runs one command several times: every job gets a folder of its own, or the command refuses it."""

import logging
import re
import sys
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from common.errors import UserError

log = logging.getLogger(__name__)

PLACES = {  # where a command writes, by its config; what others write is shared with other commands
    "evaluate_ddpm": ["run_dir"],
    "evaluate_files": ["run_dir"],
    "evaluate_task": ["run_dir"],
    "export_model": ["output"],
    "import_vqgan": ["output"],
    "sample_ddpm": ["output"],
    "train_ddpm": ["run_dir", "checkpoint_dir"],
    "train_vqgan": ["run_dir", "checkpoint_dir"],
}
FILES = (".ckpt", ".nii", ".nii.gz")
LONGEST = 150  # of a folder's name


def separate(command: str, cfg: DictConfig) -> None:
    """Where this process is one of `-m`'s jobs, put what it writes into a folder named after its own settings.

    Raises:
        UserError: a command whose jobs would all write to one place.
    """
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return
    if command not in PLACES:
        raise UserError(
            f"{Path(sys.argv[0]).name} takes no -m: all its jobs would write to one place; start it once for each"
            " setting, with a folder of its own"
        )
    swept = _swept()
    job = _name(swept)
    for key in PLACES[command]:
        if key in swept or OmegaConf.is_missing(cfg, key) or job in Path(str(cfg[key])).parts:
            continue  # the last: it follows from a place that has the job's folder already
        place = Path(str(cfg[key]))
        cfg[key] = str(place.parent / job / place.name if place.name.endswith(FILES) else place / job)
    log.info("job %d, %s: %s", HydraConfig.get().job.num, job, ", ".join(str(cfg[key]) for key in PLACES[command]))


def _swept() -> list[str]:
    """The settings with several values."""
    words = [word for word in sys.argv[1:] if "=" in word and not word.startswith("-")]
    overrides = OverridesParser.create().parse_overrides(words)
    return [override.get_key_element().lstrip("+~") for override in overrides if override.is_sweep_override()]


def _name(swept: list[str]) -> str:
    number = str(HydraConfig.get().job.num)
    given = dict(word.lstrip("+").partition("=")[::2] for word in HydraConfig.get().overrides.task)
    name = re.sub(r"[^\w.+-]+", "_", "_".join(f"{key}-{given[key]}" for key in swept if key in given))
    return f"{name[:LONGEST]}_{number}" if len(name) > LONGEST else name or number
