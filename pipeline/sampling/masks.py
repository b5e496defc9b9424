"""Regions from files: masks of real and of drawn CTs that somebody, or a segmenter, has made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import BadFileError, UserError
from common.geometry import Spacing, centres, triple
from dataset.scans.volume_io import Volume, read_ct
from evaluation.anatomy import compare_masks
from evaluation.common_grid import CommonGrid
from evaluation.metrics import Window
from pipeline.sampling.files import VOLUMES
from pipeline.sampling.pairs import Pair

Mask = NDArray[np.bool_]
SIDES = ("real", "generated")
_LAYOUT = "masks are in DIR/real and DIR/generated: of each case ID/LABEL.nii.gz, or a map of labels ID.nii.gz"


@dataclass(frozen=True)
class MaskFolder:
    """real/ and generated/ with, of each case, ID/LABEL.nii.gz (masks, as TotalSegmentator writes them) or ID.nii.gz
    (whole numbers, a label each). Labels that both sides have are compared.
    """

    root: Path
    _last: dict[Path, Volume] = field(default_factory=dict, repr=False)  # the one read last

    def check(self, names: Sequence[str]) -> None:
        """UserError unless both folders are there and at least one case has masks in both."""
        for side in SIDES:
            if not (self.root / side).is_dir():
                raise UserError(f"masks={self.root} has no folder {side}/; {_LAYOUT}")
        if not any(all(self._labels(side, name) for side in SIDES) for name in names):
            raise UserError(f"masks={self.root} has no case in both folders, of {', '.join(names[:5])}, ...; {_LAYOUT}")

    def compare(self, name: str, pair: Pair, window: Window) -> dict[str, dict[str, float | None]]:
        """By "mask:LABEL" what `compare_masks` says, HU clipped to `window`; one label is in memory at a time."""
        real, drawn = (self._labels(side, name) for side in SIDES)
        grid = CommonGrid(triple(pair.real.shape), pair.spacing)
        found: dict[str, dict[str, float | None]] = {}
        for label in (label for label in real if label in drawn):
            true, mask = ({f"mask:{label}": self._read(*of[label], grid)} for of in (real, drawn))
            found |= compare_masks(pair.drawn, pair.real, mask, true, pair.spacing, window)
        return found

    def _labels(self, side: str, name: str) -> dict[str, tuple[Path, int | None]]:
        """By label its file, and in a map its number."""
        folder = self.root / side / name
        if folder.is_dir():
            files = [path for path in sorted(folder.iterdir()) if path.name.endswith(VOLUMES)]
            return {path.name.partition(".nii")[0]: (path, None) for path in files}
        for path in (self.root / side / f"{name}{suffix}" for suffix in VOLUMES):
            if path.is_file():
                return {f"label_{n}": (path, int(n)) for n in np.unique(self._volume(path).hu) if n > 0}
        return {}

    def _read(self, path: Path, number: int | None, grid: CommonGrid) -> Mask:
        volume = self._volume(path)
        mask, spacing = (volume.hu > 0 if number is None else volume.hu == number), volume.spacing
        shown, wanted = np.multiply(mask.shape, spacing), np.multiply(grid.shape, grid.spacing)
        if (shown < wanted - np.maximum(spacing, grid.spacing)).any():
            rule = "a mask shows all that its CT shows"
            found = f"{shown.round().tolist()} mm (d, h, w) of {wanted.round().tolist()}"
            raise BadFileError(path, rule, found, "Segment the CT's own file.")
        return _nearest(mask, spacing, grid)

    def _volume(self, path: Path) -> Volume:
        if path not in self._last:
            self._last.clear()
            self._last[path] = read_ct(path)
        return self._last[path]


def _nearest(mask: Mask, spacing: Spacing, grid: CommonGrid) -> Mask:
    """The voxels nearest to those of the grid, whose centre is that of the mask."""
    at = [
        np.clip(np.rint(centres(new, new_step) / step + (n - 1) / 2).astype(int), 0, n - 1)
        for n, step, new, new_step in zip(mask.shape, spacing, grid.shape, grid.spacing, strict=True)
    ]
    return mask[np.ix_(*at)]


def add_masks(
    right: dict[str, Any], numbers: dict[str, float], found: Mapping[str, Mapping[str, float | None]]
) -> None:
    """Put what `MaskFolder.compare` found to what else is known of a case's drawn CT."""
    right["regions"] = right.get("regions", {}) | found
    numbers |= {f"dice_{name}": by["dice"] for name, by in found.items() if by["dice"] is not None}
