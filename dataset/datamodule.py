"""Batches of patches for Lightning, in an order that survives a restart."""

from typing import Any

import pytorch_lightning as pl
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from dataset.sampler import VolumeGroupedSampler
from dataset.xray_ctpa_patch_dataset import XrayCTPAPatchDataset


class _HUItems(Dataset[dict[str, Any]]):
    """Items as loader processes hand them over."""

    def __init__(self, dataset: XrayCTPAPatchDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.dataset.hu_item(index)


class PatchDataModule(pl.LightningDataModule):
    """Training draws anew each epoch, validation always the same patches.

    Loaders give CT as int16 HU; Lightning has `on_after_batch_transfer` turn a batch into the items of the dataset,
    on the GPU where there is one.

    Args:
        batch_size: patches per process.
        num_workers: loader processes per training process.
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
            raise ValueError(f"need batch_size >= 1 and num_workers >= 0, got {batch_size} and {num_workers}")
        if len(train) < batch_size:
            raise ValueError(
                f"an epoch has {len(train)} patches, fewer than one batch of {batch_size};"
                " lower model.batch_size or raise model.patches_per_volume"
            )
        self.train, self.val = train, val
        self.batch_size, self.num_workers = batch_size, num_workers
        self._resume = (0, 0)

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        rank, world = self._rank()
        sampler = VolumeGroupedSampler(
            len(self.train.cases), self.train.patches_per_volume, self.train.seed, rank=rank, world_size=world
        )
        epoch, batches = self._resume
        if batches >= len(sampler) // self.batch_size:  # Lightning goes on with the next epoch from this loader
            epoch, batches = epoch + 1, 0
        sampler.resume(epoch, batches * self.batch_size)
        return self._loader(self.train, sampler, drop_last=True)

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        rank, world = self._rank()
        sampler: DistributedSampler[dict[str, Any]] = DistributedSampler(self.val, world, rank, shuffle=False)
        return self._loader(self.val, sampler, drop_last=False)

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        return self.train.with_unit(batch)

    def state_dict(self) -> dict[str, int]:
        """The epoch under way and the batches of it that are done."""
        if self.trainer is None:
            return {}
        done = self.trainer.fit_loop.epoch_loop.batch_progress.current.processed  # type: ignore[attr-defined]
        return {"epoch": self.trainer.current_epoch, "batches": done}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._resume = (state_dict["epoch"], state_dict["batches"])

    def _rank(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _loader(self, dataset: XrayCTPAPatchDataset, sampler: Any, drop_last: bool) -> DataLoader[dict[str, Any]]:
        return DataLoader(
            _HUItems(dataset),
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            drop_last=drop_last,
            pin_memory=self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
            persistent_workers=self.num_workers > 0,
        )
