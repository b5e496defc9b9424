"""Training batches from a store of many patients: how many crops two loader processes feed, and at which cost."""

import os
import time
from dataclasses import replace
from pathlib import Path

import psutil

from dataset.datamodule import PatchDataModule
from dataset.store.store import StoredCase, VolumeStore, volume_path, write_manifest, xray_path
from dataset.xray_ctpa_patch_dataset import XrayCTPAPatchDataset

WORKERS = 2
BATCH = 2
WINDOW = (-1000.0, 1000.0)
PATCHES_PER_VOLUME = 42
WARM_UP = 2 * WORKERS  # batches


def link_patients(source: VolumeStore, case: StoredCase, folder: Path, patients: int) -> None:
    """Make a store of `patients` cases that all hold the volume and X-ray of `case`, by hard links."""
    cases = [replace(case, patient_id=f"p{number:04d}", split="train") for number in range(patients)]
    for copy in cases:
        for path_of in (volume_path, xray_path):
            target = path_of(folder, copy.patient_id)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(path_of(source.folder, case.patient_id), target)
    write_manifest(folder, cases)


def open_patients(folder: Path, patch: int) -> XrayCTPAPatchDataset:
    """The training data of a store."""
    store = VolumeStore(folder)
    return XrayCTPAPatchDataset(store, store.cases, (patch,) * 3, PATCHES_PER_VOLUME, WINDOW, xray_fov_mm=400, seed=0)


def feed(folder: Path, patch: int, seconds: float) -> dict[str, float]:
    """Crops per second that two workers feed as training batches, their CPU time per crop, and their memory."""
    started = time.perf_counter()
    data = open_patients(folder, patch)
    opened_s = time.perf_counter() - started
    module = PatchDataModule(data, data, BATCH, WORKERS)
    others = set(psutil.Process().children())
    batches = iter(module.train_dataloader())
    for _ in range(WARM_UP):
        next(batches)
    workers = [process for process in psutil.Process().children() if process not in others]
    cpu, started, count = cpu_seconds(workers), time.perf_counter(), 0
    while count < WORKERS or time.perf_counter() - started < seconds:
        count += len(module.on_after_batch_transfer(next(batches), 0)["ct"])
    took = time.perf_counter() - started
    return {
        "loader_crops_per_s": round(count / took, 1),
        "cpu_ms_per_crop": round(1000 * (cpu_seconds(workers) - cpu) / count, 2),
        "dataset_seconds": round(opened_s, 3),
        "worker_private_mb": round(max(worker.memory_full_info().uss for worker in workers) / 1e6, 1),
    }


def cpu_seconds(processes: list[psutil.Process]) -> float:
    """CPU time, user and system, that processes have taken so far."""
    return sum(sum(process.cpu_times()[:2]) for process in processes)
