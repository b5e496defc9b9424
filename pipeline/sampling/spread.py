"""How drawn CTs are spread beside the real ones of the same cases, by the features of several networks."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from common.collectives import Team, gathered
from dataset.store.store import Store, VolumeStore
from evaluation.common_grid import to_grid
from evaluation.distributions import Distribution, compare_features
from evaluation.metrics import Window
from pipeline.sampling import extractors as seen_by
from pipeline.sampling.extractors import Extractor
from pipeline.sampling.pairs import Pair
from pipeline.sampling.progress import with_progress


def kept_with(store: Store, folder: Path) -> Path:
    """Where features of real CTs are kept: beside a store that can be written to, else in an evaluation's folder."""
    return (
        store.folder if isinstance(store, VolumeStore) and os.access(store.folder, os.W_OK) else folder
    ) / "features"


def compare_spread(
    patients: Mapping[str, str],
    pair_of: Callable[[str], Pair],
    extractors: Mapping[str, Extractor],
    window: Window,
    device: torch.device,
    folders: tuple[Path, Path],
    team: Team,
) -> dict[str, Distribution]:
    """By the extractors' names. The processes of a team share the CTs.

    Args:
        patients: of each case, by its name. pair_of: its drawn and real CT. window: to which HU are clipped.
        folders: where features are kept, those of drawn and those of real CTs.
    """
    if not extractors:
        return {}
    mine: dict[str, dict[str, list[np.ndarray]]] = {}
    for case in with_progress(list(patients)[team.rank :: team.size], "extracting features", "CT", team):
        pair = pair_of(case)
        both = [to_grid(hu, pair.spacing, seen_by.GRID, window) for hu in (pair.drawn, pair.real)]
        mine[case] = {
            name: [one.of(hu, window, device, folder) for hu, folder in zip(both, folders, strict=True)]
            for name, one in extractors.items()
        }
    found = {case: features for part in gathered(mine) for case, features in part.items()}
    owners = list(patients.values())

    def of(name: str, which: int) -> np.ndarray:
        return np.stack([found[case][name][which] for case in patients])

    return {
        name: compare_features(of(name, 0), of(name, 1), owners, one.kind, one.hash) for name, one in extractors.items()
    }
