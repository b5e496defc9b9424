"""CTs of any system in files, each beside the real one."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from common.atomic import write_text
from common.errors import BadFileError, UserError, of_all, refusing_damage
from common.geometry import triple
from common.organs import lung_volume_ml
from dataset.scans.nifti_io import DAMAGED
from dataset.scans.resample import cropped_affine, regridded
from dataset.scans.volume_io import ct_outline, read_given_ct
from evaluation.anatomy import RealAnatomy
from evaluation.common_grid import CommonGrid, to_grid
from evaluation.metrics import Preset, Window, score, widest, window_preset
from evaluation.seams import gradient_energy, plane_gradients
from pipeline.sampling.evaluated_cases import Compared
from pipeline.sampling.evaluated_field import box_shown
from pipeline.sampling.files import VOLUMES, file_hash
from pipeline.sampling.masks import MaskFolder, add_masks
from pipeline.sampling.pairs import Pair
from pipeline.versions import versions

Outline = tuple[Sequence[int], Sequence[float]]  # shape and spacing
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
        drawn, real = read_given_ct(self.generated[name]), read_given_ct(self.real[name])
        self._check_field(name, (drawn.hu.shape, drawn.spacing), (real.hu.shape, real.spacing))
        if drawn.hu.min() >= _SCALED > real.hu.min():
            rule, found = "CTs are in HU, in which air and fat are below 0", f"{drawn.hu.min()} to {drawn.hu.max()}"
            raise BadFileError(self.generated[name], rule, found, "Undo the scaling that the system works with.")
        if drawn.hu.shape == real.hu.shape:
            return Pair(drawn.hu, real.hu, real.spacing, drawn.affine, real.affine)
        box = box_shown(triple(drawn.hu.shape), drawn.spacing, triple(real.hu.shape), real.spacing)
        seen = drawn.hu[box]
        grid = CommonGrid(triple(seen.shape), drawn.spacing)
        true = to_grid(real.hu, real.spacing, grid, widest(window))
        placed = cropped_affine(drawn.affine, triple([part.start for part in box]))
        finer = np.divide(drawn.spacing, real.spacing)
        return Pair(seen, true, drawn.spacing, placed, regridded(real.affine, real.hu.shape, grid.shape, finer))

    def check(self) -> None:
        """By their headers alone: UserError names all pairs that do not show the same field of view."""
        of_all(
            self.generated,
            lambda name: self._check_field(name, _outline(self.generated[name]), _outline(self.real[name])),
        )

    def _check_field(self, name: str, drawn: Outline, real: Outline) -> None:
        if drawn[0] == real[0]:
            return
        shown = [np.multiply(*outline) for outline in (drawn, real)]
        if (np.abs(shown[0] - shown[1]) > _ALIKE * shown[1]).any():
            rule = "a drawn CT shows the field of view of the real one"
            found = f"{shown[0].round().tolist()} mm (d, h, w) beside {shown[1].round().tolist()}"
            raise BadFileError(self.generated[name], rule, found, "Write its voxel size into its header, or crop one.")


@dataclass(frozen=True)
class FileScores:
    """How pairs are scored. folder: gets unfinished/ with the scores of each, until the report is written."""

    pairs: FilePairs
    window: Window
    presets: list[Preset]
    anatomy: bool
    masks: MaskFolder | None
    folder: Path

    @property
    def unfinished(self) -> Path:
        return self.folder / "unfinished"

    def of(self, name: str) -> Compared:
        """The numbers of one pair; as they were kept, if nothing has changed that they follow from."""
        record, facts = self.unfinished / f"{name}.json", self._facts(name)
        try:
            about = json.loads(record.read_text(encoding="utf-8"))
            if about["facts"] == facts:
                return Compared(name, name, about["numbers"], about["volumes"])
        except (OSError, ValueError, KeyError):
            pass  # not scored before, or not to the end
        pair = self.pairs.read(name, self.window)
        found = compare_files(pair, name, self.window, self.presets, self.anatomy)
        if self.masks:
            add_masks(found.volumes[0], found.numbers, self.masks.compare(name, pair, self.window))
        write_text(record, json.dumps({"facts": facts, "numbers": found.numbers, "volumes": found.volumes}))
        return found

    def _facts(self, name: str) -> dict[str, Any]:
        """All that the numbers follow from."""
        files = (self.pairs.generated[name], self.pairs.real[name])
        masks = self.masks.files_of(name) if self.masks else []
        return {
            "files": [file_hash(path) for path in files],
            "masks": [[path.name, file_hash(path)] for path in masks],
            "window": list(self.window),
            "presets": [preset.name for preset in self.presets],
            "anatomy": self.anatomy,
            "versions": self._made_with,
        }

    @cached_property
    def _made_with(self) -> dict[str, str]:
        return versions()


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


def _outline(path: Path) -> Outline:
    with refusing_damage(path, "a CT can be read", DAMAGED):
        return ct_outline(path)


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
