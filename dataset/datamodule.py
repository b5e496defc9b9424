"""Batches of patches for Lightning, in an order that survives a restart."""

import atexit
import logging
import multiprocessing
import signal
from hashlib import blake2b
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from common.errors import UserError
from dataset.sampler import VolumeGroupedSampler
from dataset.xray_ctpa_patch_dataset import XrayCTPAPatchDataset

log = logging.getLogger(__name__)


class _PackedItems(Dataset[dict[str, Any]]):
    """Items as loader processes hand them over."""

    def __init__(self, dataset: XrayCTPAPatchDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.dataset.packed_item(index)


class PatchDataModule(pl.LightningDataModule):
    """Training draws anew each epoch, validation always the same patches.

    Loaders hand over CT as int16 HU and latents as float16, half of what the items hold: it goes through shared memory
    and to the GPU. Lightning has `on_after_batch_transfer` turn a batch into the items of the dataset.

    Args:
        batch_size: patches per process.
        num_workers: loader processes per training process.

    Raises:
        ValueError: no batch in an epoch; with several processes, as soon as their number is known.
    """

    def __init__(
        self,
        train: XrayCTPAPatchDataset,
        val: XrayCTPAPatchDataset,
        batch_size: int,
        num_workers: int,
    ) -> None:
        super().__init__()
        if batch_size < 1 or num_workers < 0:
            raise UserError(f"need batch_size >= 1 and num_workers >= 0, got {batch_size} and {num_workers}")
        _check_epoch(len(train), batch_size, 1)
        self.train, self.val = train, val
        self.batch_size, self.num_workers = batch_size, num_workers
        self.resumed = (0, 0)  # the epoch under way and how many batches of it, as they are now, were done
        self._loaders: list[DataLoader[dict[str, Any]]] = []

    def teardown(self, stage: str | None = None) -> None:
        """Ends the loader processes: they take no notice of the signal by which Python would, and wait for ever."""
        for loader in self._loaders:
            _end_workers(loader)
        self._loaders.clear()

    def on_exception(self, exception: BaseException) -> None:
        self.teardown()

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        rank, world = self._rank()
        sampler = VolumeGroupedSampler(
            len(self.train.cases),
            self.train.patches_per_volume,
            self.train.seed,
            rank=rank,
            world_size=world,
            batch_size=self.batch_size,
        )
        _check_epoch(len(sampler), self.batch_size, world)
        epoch, batches = self.resumed
        if batches >= len(sampler) // self.batch_size:  # Lightning goes on with the next epoch from this loader
            epoch, batches = epoch + 1, 0
        sampler.resume(epoch, batches * self.batch_size)
        return self._loader(self.train, sampler, drop_last=True)

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        rank, world = self._rank()
        sampler: DistributedSampler[dict[str, Any]] = DistributedSampler(self.val, world, rank, shuffle=False)
        return self._loader(self.val, sampler, drop_last=False)

    def transfer_batch_to_device(
        self, batch: dict[str, Any], device: torch.device, dataloader_idx: int
    ) -> dict[str, Any]:
        """All but the keys of the draws: they seed generators, and reading them back would wait for the GPU."""
        return super().transfer_batch_to_device(batch, device, dataloader_idx) | {"sample_key": batch["sample_key"]}

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        return self.train.unpack(batch)

    def state_dict(self) -> dict[str, Any]:
        """The epoch under way, the batches and patches of it that are done, and hashes of the cases.

        A finished epoch has no count of patches: those that make no batch are left out.
        """
        if self.trainer is None:
            return {}
        done = self.trainer.fit_loop.epoch_loop.batch_progress.current.processed  # type: ignore[attr-defined]
        patches = done * self._patches_a_batch() if done < self.trainer.num_training_batches else None
        return {"epoch": self.trainer.current_epoch, "batches": done, "patches": patches, "cases": self.cases()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.resumed = (state_dict["epoch"], self._batches_done(state_dict))
        before = state_dict.get("cases", {})  # not in those of the first versions
        changed = [split for split, found in self.cases().items() if before.get(split, found) != found]
        if changed:
            log.warning(
                "the cases of %s are not those that this training has had so far: some are new, gone, or hold something"
                " else; figures from before and after do not compare, and do not judge the model where cases have"
                " changed sides",
                " and ".join(changed),
            )

    def cases(self) -> dict[str, str]:
        """A hash of the cases of training, and one of those of validation: of their names and of what they hold."""
        return {name: _hash(split) for name, split in (("training", self.train), ("validation", self.val))}

    def _batches_done(self, state_dict: dict[str, Any]) -> int:
        """In batches as they are now; they may have been others, of other processes."""
        if "patches" not in state_dict:  # of the first versions
            return state_dict["batches"]
        whole, patches = -(-len(self.train) // self._rank()[1]) // self.batch_size, state_dict["patches"]
        if patches is None:
            return whole
        times = 1 if self.trainer is None else self.trainer.accumulate_grad_batches
        return min(whole, patches // (self._patches_a_batch() * times) * times)

    def _patches_a_batch(self) -> int:
        """Of all processes."""
        return self.batch_size * self._rank()[1]

    def _rank(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _loader(self, dataset: XrayCTPAPatchDataset, sampler: Any, drop_last: bool) -> DataLoader[dict[str, Any]]:
        loader = DataLoader(
            _PackedItems(dataset),
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            drop_last=drop_last,
            pin_memory=self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
            persistent_workers=self.num_workers > 0,
            worker_init_fn=_leave_signals_to_the_training,
        )
        self._loaders.append(loader)
        return loader


def _hash(dataset: XrayCTPAPatchDataset) -> str:
    held = [(case.name, case.source_hash, case.shape) for case in dataset.cases]
    return blake2b(repr(held).encode(), digest_size=8).hexdigest()


def _end_workers(loader: DataLoader[Any]) -> None:
    if isinstance(loader._iterator, _MultiProcessingDataLoaderIter):
        loader._iterator._shutdown_workers()
        for worker in loader._iterator._workers:
            worker.kill()
    loader._iterator = None


@atexit.register  # and so before multiprocessing's own, which would wait for them
def _end_all_workers() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's would raise for a worker that ends
    for process in multiprocessing.active_children():
        if process.daemon:
            process.kill()


def _leave_signals_to_the_training(_: int) -> None:
    # launchers and terminals signal the group of processes
    for asked in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(asked, signal.SIG_IGN)  # the training ends its step, for which it may need a batch


def _check_epoch(patches: int, batch_size: int, processes: int) -> None:
    """ValueError unless the `patches` that each process draws in an epoch make a batch."""
    if patches < batch_size:
        share = f" for each of {processes} processes" if processes > 1 else ""
        raise UserError(
            f"an epoch has {patches} patches{share}, fewer than one batch of {batch_size};"
            " lower model.batch_size or raise model.patches_per_volume"
        )
