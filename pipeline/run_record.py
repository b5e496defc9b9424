"""What a run folder says of how its results came about."""

import hashlib
import json
import shlex
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from common.atomic import write_text
from common.launcher import rank_and_world
from dataset.store.store import MANIFEST
from pipeline.versions import changes, versions

CONFIG, RUN, CHANGES, STARTS = "config.yaml", "run.json", "changes.diff", "starts"


def record_run(cfg: DictConfig, *folders: Path, **more: Any) -> None:
    """Write into run folders how a command was started, in place of what they say of an earlier start.

    config.yaml: the resolved settings. run.json: `facts`, and `more`. changes.diff: of the code since its commit, if
    there are any.
    """
    content, (changed, _) = more | facts(cfg), changes()
    for folder in folders:
        write_text(folder / CONFIG, OmegaConf.to_yaml(cfg, resolve=True))
        write_text(folder / RUN, json.dumps(content, indent=1))
        if changed:
            write_text(folder / CHANGES, changed)
        else:
            (folder / CHANGES).unlink(missing_ok=True)


def facts(cfg: DictConfig) -> dict[str, Any]:
    """Command, date, seed, processes, GPUs of this machine, hash of the store's manifest (None without a store),
    versions with the commit, files of code that git does not know.
    """
    store = cfg.dataset.store if "dataset" in cfg else None
    manifest = Path(store or "") / MANIFEST
    known = store is not None and manifest.is_file()  # a folder of X-rays alone has none
    return {
        "command": shlex.join(sys.argv),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": cfg.seed,
        "processes": rank_and_world()[1],
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "manifest_sha256": hashlib.sha256(manifest.read_bytes()).hexdigest() if known else None,
        "versions": versions(),
        "new_files": changes()[1],
    }


def record_training(cfg: DictConfig, step: int) -> None:
    """`record_run` in a training's folder, and in one for this start: a training that goes on adds to its history.

    Args:
        step: from which it goes on. What was recorded of starts from there or later is no longer part of the training.
    """
    folder = Path(cfg.run_dir)
    for start in (folder / STARTS).glob("step*"):
        if int(start.name.removeprefix("step")) >= step:
            shutil.rmtree(start)
    record_run(cfg, folder, start_folder(folder, step), step=step)
    write_text(folder / "versions.json", json.dumps(versions(), indent=1))


def start_folder(run_dir: Path, step: int) -> Path:
    """Where a training's folder keeps what it was started with at a step."""
    return run_dir / STARTS / f"step{step:08d}"
