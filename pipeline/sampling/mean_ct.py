"""The mean CT of a data set's training cases, made once and kept beside what it was made of."""

import hashlib
import json
import logging
import os
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from common.atomic import replacing
from common.collectives import Team
from common.geometry import Triple
from dataset.store.store import Store, StoredCase, VolumeStore
from evaluation.common_grid import CommonGrid, choose_grid
from evaluation.mean_volume import MeanOfCTs, MeanVolume
from pipeline.sampling.progress import with_progress

log = logging.getLogger(__name__)


def mean_training_ct(
    store: Store, window: tuple[float, float], max_size: int, folder: Path, team: Team
) -> MeanVolume | None:
    """The mean of the store's training CTs; None where there are none. The processes of a team share the work.

    It is kept in the store, or in `folder` where that is not prepared or not writable, and read again as long as the
    training CTs are the same.

    Args:
        window: HU. max_size: most voxels along an axis of the CTs' median extent.
    """
    cases = store.split("train")
    if not cases:
        log.warning("%s has no training cases, so there is no mean training CT to compare with", store.folder)
        return None
    grid = choose_grid([(case.shape, case.spacing) for case in cases], max_size)
    kept = store.folder if isinstance(store, VolumeStore) and os.access(store.folder, os.W_OK) else folder
    path = kept / f"mean_ct_{_fingerprint(cases, window, grid)}.npz"
    kept_hu = team.agree(_read(path, grid.shape))
    if kept_hu is not None:
        return MeanVolume(kept_hu, grid, window, path.stem)
    mean = MeanOfCTs(grid, window)
    for case in with_progress(cases[team.rank :: team.size], "mean training CT", "CT", team):
        mean.add(partial(store.read_hu, case), case.shape, case.spacing)
    for total in (mean.sum, mean.count):
        team.sum(torch.from_numpy(total))  # in place
    found = mean.mean()
    if team.rank == 0:
        with replacing(path) as temporary:
            np.savez_compressed(temporary, allow_pickle=False, hu=found.hu)
    return replace(found, name=path.stem)


def _fingerprint(cases: Sequence[StoredCase], window: tuple[float, float], grid: CommonGrid) -> str:
    """Names the mean of these CTs."""
    facts = [window, grid.shape, grid.spacing, [case.source_hash for case in cases]]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _read(path: Path, shape: Triple) -> np.ndarray | None:
    try:
        with np.load(path, allow_pickle=False) as file:
            hu: np.ndarray = file["hu"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    return hu if hu.shape == shape else None
