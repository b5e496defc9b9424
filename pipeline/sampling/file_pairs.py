"""CTs of any system in files, each beside the real one."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import BadFileError, UserError
from common.geometry import triple
from common.organs import lung_volume_ml
from dataset.scans.resample import cropped_affine, regridded
from dataset.scans.volume_io import read_ct
from evaluation.anatomy import RealAnatomy
from evaluation.common_grid import CommonGrid, to_grid
from evaluation.metrics import Preset, Window, score, widest, window_preset
from evaluation.seams import gradient_energy, plane_gradients
from pipeline.sampling.evaluated_cases import Compared
from pipeline.sampling.evaluated_field import box_shown
from pipeline.sampling.files import VOLUMES
from pipeline.sampling.pairs import Pair

_SCALED = -1  # no chest CT has all its HU there or above, but what networks work with has
_ALIKE = 0.05  # of a side, by which the fields of view of a pair may differ


@dataclass(frozen=True)
class FilePairs:
    """generated, real: files by the cases' names, of which both have the same."""

    generated: Mapping[str, Path]
    real: Mapping[str, Path]

    @classmethod
    def find(cls, generated: Path, real: Path) -> "FilePairs":
        """ID.nii.gz, ID.nii, or ID/ID.nii.gz in each folder. UserError unless every drawn CT has a real one."""
        drawn, true = (_files_in(folder, name) for folder, name in ((generated, "generated"), (real, "real")))
        alone = sorted(set(drawn) - set(true))
        if alone:
            raise UserError(
                f"every CT of generated={generated} needs the real one of the same name in real={real}, but"
                f" {len(alone)} have none: {', '.join(alone[:5])}; rename them, or take them out"
            )
        return cls(drawn, {name: true[name] for name in drawn})

    def read(self, name: str, window: Window) -> Pair:
        """On the grid of the drawn CT, where the real one has voxels; the centres of both coincide.

        Scores clip HU of both, each to its own window, of which `window` is one: none is narrower for it here.

        Raises:
            BadFileError: the two do not show the same field of view, or the drawn one is not in HU.
        """
        drawn, real = read_ct(self.generated[name]), read_ct(self.real[name])
        if drawn.hu.min() >= _SCALED > real.hu.min():
            rule, found = "CTs are in HU, in which air and fat are below 0", f"{drawn.hu.min()} to {drawn.hu.max()}"
            raise BadFileError(self.generated[name], rule, found, "Undo the scaling that the system works with.")
        if drawn.hu.shape == real.hu.shape:
            return Pair(drawn.hu, real.hu, real.spacing, drawn.affine, real.affine)
        shown = [np.multiply(ct.hu.shape, ct.spacing) for ct in (drawn, real)]
        if (np.abs(shown[0] - shown[1]) > _ALIKE * shown[1]).any():
            rule = "a drawn CT shows the field of view of the real one"
            found = f"{shown[0].round().tolist()} mm (d, h, w) beside {shown[1].round().tolist()}"
            raise BadFileError(self.generated[name], rule, found, "Write its voxel size into its header, or crop one.")
        box = box_shown(triple(drawn.hu.shape), drawn.spacing, triple(real.hu.shape), real.spacing)
        seen = drawn.hu[box]
        grid = CommonGrid(triple(seen.shape), drawn.spacing)
        true = to_grid(real.hu, real.spacing, grid, widest(window))
        placed = cropped_affine(drawn.affine, triple([part.start for part in box]))
        finer = np.divide(drawn.spacing, real.spacing)
        return Pair(seen, true, drawn.spacing, placed, regridded(real.affine, real.hu.shape, grid.shape, finer))


def compare_files(pair: Pair, name: str, window: Window, presets: list[Preset], anatomy: bool) -> Compared:
    """The numbers of one pair, by the names that an evaluation of a model gives them."""
    drawn, real, spacing = pair.drawn, pair.real, pair.spacing
    scores = [asdict(score(drawn, real, spacing, preset)) for preset in (window_preset(window), *presets)]
    right: dict[str, Any] = {"of": "right", "lung_ml": lung_volume_ml(drawn, spacing), "scores": scores}
    numbers: dict[str, float] = {}
    for label, one in zip(("", *(f" {preset.name}" for preset in presets)), scores, strict=True):
        numbers |= {f"{key}{label}": one[key] for key in ("psnr", "ssim", "hu_mae")}
    numbers |= {"lung_ml": right["lung_ml"], "lung_ml_real": lung_volume_ml(real, spacing)}
    numbers["gradient_energy"] = gradient_energy(*(plane_gradients(hu, window) for hu in (drawn, real)))
    volumes = [right]
    if anatomy:
        own = RealAnatomy(real, spacing, window)
        right |= own.compare(drawn)
        numbers |= {f"dice_{region}": by["dice"] for region, by in right["regions"].items() if by["dice"] is not None}
        volumes.append({"of": "real", "vessels": own.vessels})
    return Compared(name, name, numbers, volumes)


def _files_in(folder: Path, setting: str) -> dict[str, Path]:
    if not folder.is_dir():
        raise UserError(f"{setting}={folder} is no folder; give one with a NIfTI of each case: ID.nii.gz")
    found = {}
    for path in sorted(folder.iterdir()):
        inner = [path / f"{path.name}{suffix}" for suffix in VOLUMES] if path.is_dir() else [path]
        for file in inner:
            if file.is_file() and file.name.endswith(VOLUMES):
                found[file.name.removesuffix(".gz").removesuffix(".nii")] = file
    if not found:
        raise UserError(f"{setting}={folder} holds no CT; need a NIfTI of each case: ID.nii.gz, or ID/ID.nii.gz")
    return found
