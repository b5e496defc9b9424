"""Whether a machine lets the loader processes of a training work: its shared memory and its limit of open files."""

import resource
import shutil
from pathlib import Path

from torch import Tensor
from torch.utils.data import default_collate

from common.errors import UserError
from common.launcher import planned_processes
from dataset.datamodule import PatchDataModule

SHARED_MEMORY = Path("/dev/shm")
_AHEAD = 2  # batches that a loader process keeps ready: torch's prefetch_factor
_FILES = 100  # of a training without loader processes: libraries, logs, connections
_FILES_OF_A_PROCESS = 2 * 8  # pipes and queues to it in the training's process; of training and of validation


def check_loaders(data: PatchDataModule) -> None:
    """UserError if all loader processes of this machine would find too little shared memory, or may open too few files.

    Else they die in the course of the training, without a word on why.
    """
    if data.num_workers == 0:
        return
    batch = default_collate([data.train.packed_item(0)] * data.batch_size)
    tensors = [value for value in batch.values() if isinstance(value, Tensor)]
    size = sum(tensor.nbytes for tensor in tensors)
    _check_memory((_AHEAD + 1) * size * data.num_workers * planned_processes(), data.num_workers)  # one is being made
    files = _FILES + data.num_workers * (_FILES_OF_A_PROCESS + _AHEAD * len(tensors))  # each tensor is one
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit not in (resource.RLIM_INFINITY, -1) and limit < files:
        raise UserError(
            f"model.num_workers={data.num_workers} needs about {files} open files, this shell allows {limit};"
            f" ulimit -n {files} allows more, or take fewer workers"
        )


def _check_memory(needed: int, workers: int) -> None:
    if not SHARED_MEMORY.is_dir():
        return
    free = shutil.disk_usage(SHARED_MEMORY).free
    if free < needed:
        raise UserError(
            f"model.num_workers={workers} needs about {needed / 1e6:.0f} MB of shared memory for batches,"
            f" {SHARED_MEMORY} has {free / 1e6:.0f} MB free. Take fewer workers or a smaller model.batch_size, or give"
            f" the container more: --shm-size={max(1, round(2 * needed / 1e9))}g (docker, podman)"
        )
