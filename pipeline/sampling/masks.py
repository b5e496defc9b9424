"""Regions from files: masks of real and of drawn CTs that somebody, or a segmenter, has made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import BadFileError, UserError
from common.geometry import Triple, triple
from dataset.scans.orientation import spacing_of
from dataset.scans.volume_io import Volume, read_given_ct
from evaluation.anatomy import compare_masks
from evaluation.metrics import Window
from pipeline.sampling.files import VOLUMES
from pipeline.sampling.pairs import Pair

Mask = NDArray[np.bool_]
SIDES = ("real", "generated")
_LAYOUT = "masks are in DIR/real and DIR/generated: of each case ID/LABEL.nii.gz, or a map of labels ID.nii.gz"
_REMEDY = "Segment the CT's own file, and keep the affine that it has."


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
        shape, found = triple(pair.real.shape), dict[str, dict[str, float | None]]()
        for label in (label for label in real if label in drawn):
            true, mask = (
                {f"mask:{label}": self._read(*of[label], shape, affine)}
                for of, affine in ((real, pair.real_affine), (drawn, pair.drawn_affine))
            )
            found |= compare_masks(pair.drawn, pair.real, mask, true, pair.spacing, window)
        return found

    def files_of(self, name: str) -> list[Path]:
        """All that a case's regions follow from."""
        return list(dict.fromkeys(path for side in SIDES for path, _ in self._labels(side, name).values()))

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

    def _read(self, path: Path, number: int | None, shape: Triple, affine: NDArray) -> Mask:
        """The mask in the voxels of a CT of this shape and affine: of each the nearest one of the file."""
        volume = self._volume(path)
        mask = volume.hu > 0 if number is None else volume.hu == number
        return mask[np.ix_(*_nearest(path, volume, shape, affine))]

    def _volume(self, path: Path) -> Volume:
        if path not in self._last:
            self._last.clear()
            self._last[path] = read_given_ct(path)
        return self._last[path]


def _nearest(path: Path, mask: Volume, shape: Triple, affine: NDArray) -> list[NDArray[np.intp]]:
    """Along each axis (d, h, w), the voxels of a mask nearest to those of a CT, by where both lie in the world.

    So the mask of a whole CT serves where a part of it is stored.

    Raises:
        BadFileError: the mask runs along other axes than the CT, or ends more than a voxel before it.
    """
    to_mask = np.linalg.inv(mask.affine) @ affine  # voxels (w, h, d) of both
    reach, ends = ((np.array(n[::-1]) - 1) / 2 for n in (shape, mask.hu.shape))  # from the middle to the outer centres
    middle, steps = to_mask[:3, :3] @ reach + to_mask[:3, 3], np.diag(to_mask)[:3]
    turned = np.abs(to_mask[:3, :3] - np.diag(steps)) @ reach
    if turned.max() > 1:
        rule, found = "a mask runs along the axes of its CT", f"axes that part by up to {turned.max():.1f} voxels"
        raise BadFileError(path, rule, found, _REMEDY)
    beyond = np.abs(middle - ends) + steps * (reach + 0.5) - (ends + 0.5)
    if (beyond > np.maximum(steps, 1)).any():
        shown, wanted = np.multiply(mask.hu.shape, mask.spacing), np.multiply(shape, spacing_of(affine))
        off = np.multiply((ends - middle)[::-1], mask.spacing)
        found = f"{shown.round().tolist()} mm (d, h, w) of {wanted.round().tolist()}, {off.round().tolist()} mm off it"
        raise BadFileError(path, "a mask shows all that its CT shows", found, _REMEDY)
    places = zip(ends, middle, steps, reach, shape[::-1], strict=True)
    at = [
        np.clip(np.rint((centre + step * (np.arange(n) - half)).round(6)), 0, 2 * end).astype(int)
        for end, centre, step, half, n in places
    ]
    return at[::-1]


def add_masks(
    right: dict[str, Any], numbers: dict[str, float], found: Mapping[str, Mapping[str, float | None]]
) -> None:
    """Put what `MaskFolder.compare` found to what else is known of a case's drawn CT."""
    right["regions"] = right.get("regions", {}) | found
    numbers |= {f"dice_{name}": by["dice"] for name, by in found.items() if by["dice"] is not None}
