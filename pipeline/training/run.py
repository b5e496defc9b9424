"""A training from its checks to its last checkpoint."""

import hashlib
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import nn

from common.errors import UserError, of_a_file
from common.launcher import hide_slurm, local_processes, nodes, planned_processes, rank_and_world
from dataset.datamodule import PatchDataModule
from pipeline import schema
from pipeline.checkpoints.checkpoint import StoredCheckpoint, init_weights, read
from pipeline.checkpoints.description import ModelDescription
from pipeline.checkpoints.restricted_pickle import OURS, load
from pipeline.checkpoints.seen import check_unseen
from pipeline.devices import fast_float32
from pipeline.run_record import record_training
from pipeline.settings import instantiated, sizes_of
from pipeline.training.agreement import SameStart
from pipeline.training.data import NotPrepared
from pipeline.training.folders import check_free, own_folders
from pipeline.training.loaders import check_loaders
from pipeline.training.sweeps import note_settings
from pipeline.versions import changes, versions

Build = Callable[[DictConfig], tuple[Any, PatchDataModule]]

log = logging.getLogger(__name__)


def run(cfg: DictConfig, build: Build) -> None:
    """Train as configured, from the last checkpoint if there is one; with `check: true` see only whether that would do.

    Args:
        build: makes the LightningModule, whose `meta` describes it, and its data.
    """
    hide_slurm()
    try:
        module, data, resume_from = prepared(cfg, build)
    except NotPrepared as reason:
        log.info("settings and checkpoints are in order; %s", reason)
        return
    check_loaders(data)
    try_optimizer(module)
    if cfg.check:
        rehearse(cfg, module, data)
        return
    with own_folders(cfg):
        fit(cfg, module, data, resume_from)


def prepared(cfg: DictConfig, build: Build) -> tuple[Any, PatchDataModule, str | None]:
    """Module, data and the checkpoint to resume from, if any, as they are when training begins.

    Raises:
        UserError: what is configured does not fit, is missing or damaged. NotPrepared: as `open_store`.
    """
    check_run(cfg)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    fast_float32()
    module, data = build(cfg)
    now = ModelDescription.from_plain(module.meta, "this training")
    resume_from, before = start_from(cfg, module, now)
    if before is not None:
        check_unseen(before.description, data.val.cases, before.path)
        module.meta["trained_on"] = sorted({*(now.trained_on or ()), *(before.description.trained_on or ())})
    return module, data, resume_from


def check_run(cfg: DictConfig) -> None:
    """UserError for sizes that disagree, more processes than GPUs, and machines of unlike numbers of processes."""
    sizes_of(cfg.model)
    wanted, found, world = planned_processes(), torch.cuda.device_count(), rank_and_world()[1]
    if 0 < found < wanted:
        raise UserError(
            f"NGPU={wanted} processes, but this machine has {found} GPUs; set NGPU={found}. If srun starts them, each"
            " must see all GPUs of its machine: --gpus-per-node, neither --gpus-per-task nor --gpu-bind"
        )
    if nodes() * local_processes() != world:
        raise UserError(
            f"srun must start as many tasks on each machine, got {world} tasks, {local_processes()} of them on the"
            " first; give --nodes and --ntasks-per-node"
        )


def start_from(cfg: DictConfig, module: nn.Module, now: ModelDescription) -> tuple[str | None, StoredCheckpoint | None]:
    """The checkpoint to resume from, if any; the one that weights come from, that or `init_from`, which it loads.

    Raises:
        UserError: the checkpoint's networks differ from the configured ones; or it is out of reach.
    """
    last = Path(cfg.checkpoint_dir) / "last.ckpt"
    _check_place(last, cfg.resume)
    if cfg.resume == "auto" and last.is_file():
        stored = read(last, now.stage)
        differ = stored.unlike(module, now)
        if differ:
            raise UserError(
                f"{last} was trained with other settings:\n  " + "\n  ".join(differ) + "\n"
                "To go on: the stored settings; model.name=NEW for another run; resume=never to start anew here;"
                f" or init_from={last} model.name=NEW to start from these weights"
            )
        return str(last), stored
    if cfg.init_from is not None:
        return None, init_weights(module, cfg.init_from, now)
    return None, None


def _check_place(last: Path, resume: str) -> None:
    """A link is followed, and replaced by the first checkpoint that is written; what it leads to stays as it is."""
    if last.is_dir():
        raise UserError(f"{last} is a folder, where a file belongs; move it away, or set another checkpoint_dir")
    if resume == "auto" and last.is_symlink() and not last.exists():
        raise UserError(
            f"{last} is a link to {last.readlink()}, where nothing is: bring that back (is its disk mounted?), or"
            " resume=never starts anew"
        )


def rehearse(cfg: DictConfig, module: Any, data: PatchDataModule) -> None:
    """Make what a training makes at its start, so that mistakes show; nothing is trained or written."""
    check_free(cfg)
    _trainer(cfg)
    for dataset in (data.train, data.val):
        dataset[0]
    log.info("settings, files and checkpoints are in order")


def try_optimizer(module: Any) -> None:
    """InstantiationException where a setting was taken out that optimizer or schedule, made last of all, cannot do
    without.
    """
    try:
        optimizer = module.make_optimizer(module.parameters())
        if module.make_lr_schedule is not None:
            module.make_lr_schedule(optimizer, math.inf)
    except TypeError as error:
        raise InstantiationException(str(error)) from None


def fit(cfg: DictConfig, module: pl.LightningModule, data: PatchDataModule, resume_from: str | None) -> None:
    """Train, and say where the results are."""
    step = load(resume_from, OURS)["global_step"] if resume_from else 0
    if rank_and_world()[0] == 0:
        record_training(cfg, step)
    more: dict[str, Any] = {}
    if resume_from:
        log.info("continuing from %s", resume_from)
        if str(OmegaConf.select(cfg, "trainer.logger._target_")).endswith("TensorBoardLogger"):
            more["logger"] = {"purge_step": step}  # its curves go on from there
    trainer = _trainer(cfg, **more)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, SameStart):
            cases = {f"cases of {split}": held for split, held in data.cases().items()}
            callback.of_this_rank = _what_ranks_share(cfg) | cases | _frozen_networks(module)
    log.info("%s", _step_size(trainer, cfg.model))
    log.info("TensorBoard: tensorboard --logdir %s", cfg.run_dir)
    try:
        if rank_and_world()[0] == 0:
            note_settings(trainer, cfg)
        trainer.fit(module, data, ckpt_path=resume_from, weights_only=True)
    except OSError as error:
        # TensorBoard names no file; all that we write is named
        if error.errno is not None and of_a_file(error) and error.filename is None:
            error.filename = cfg.run_dir
        raise
    limit = "max_steps" if trainer.global_step == trainer.max_steps else "max_epochs"
    reached = f"model.{limit}={cfg.model[limit]} is reached, a higher one trains on"
    log.info("step %d: %s; checkpoints are in %s", trainer.global_step, reached, cfg.checkpoint_dir)


def _what_ranks_share(cfg: DictConfig) -> dict[str, str]:
    """Code, and all settings but names, places and loader processes, which may differ from machine to machine."""
    found = versions() | {"changes to the code": hashlib.sha256(changes()[0].encode()).hexdigest()[:8]}
    for key, value in schema.settings(OmegaConf.to_container(cfg, resolve=True)):
        if not schema.allows_text(key) and not key.endswith("num_workers"):
            found[key] = repr(value)
    return found


def _frozen_networks(module: Any) -> dict[str, str]:
    """Hashes of those that stage 2 is trained on: a path may lead each machine to another file."""
    meta = module.meta
    hashes = {"VQ-GAN": meta.get("codec", {}).get("hash"), "X-ray encoder": meta.get("encoder_hash")}
    return {name: found[:12] for name, found in hashes.items() if found}


def _step_size(trainer: pl.Trainer, model: DictConfig) -> str:
    """How many patches a step takes, and why."""
    together, times = model.batch_size * trainer.world_size, trainer.accumulate_grad_batches
    size = f"{together * times} patches a step: batches of {model.batch_size} on {trainer.world_size} processes"
    if times > 1:
        size += f", the gradients of {times} added up"
    if model.effective_batch not in (None, together * times):
        size += f"; model.effective_batch={model.effective_batch} cannot be had more nearly"
    return size


def _trainer(cfg: DictConfig, **more: Any) -> pl.Trainer:
    """UserError for what Lightning refuses: a GPU that is not there, a strategy that it does not know."""
    try:
        return instantiated(cfg.trainer, **more)
    except InstantiationException as error:
        reason = error.__cause__
        if isinstance(reason, MisconfigurationException | ValueError) and not isinstance(reason, UserError):
            raise UserError(f"the Trainer does not take these settings: {reason}") from error
        raise
