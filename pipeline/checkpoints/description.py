"""What a checkpoint says of itself. Fields are called as in the file, where they are plain data."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from reprlib import repr as short
from typing import Annotated, Any, Literal

from annotated_types import Gt, IsFinite, MultipleOf

from common.errors import UserError
from common.geometry import STEP
from dataset.intensity import check_window
from dataset.scans.camera import Film
from pipeline.checkpoints.parts import complete, current

FORMAT: Literal[1] = 1

Finite = IsFinite[float]
Millimetres = Annotated[Finite, Gt(0)]
Voxels = Annotated[int, Gt(0)]
PatchVoxels = Annotated[Voxels, MultipleOf(STEP)]


@dataclass(frozen=True, kw_only=True)
class ModelDescription:
    """Of stage 1's checkpoints, and what those of other stages say besides more.

    parts: the networks by name, as `parts.build` takes them.
    hu_window: lowest and highest HU. versions: what made the file. config: a training's settings.
    imported: by import_vqgan.py, from what.
    trained_on: marks of the cases that the weights have learned from (see `seen`); none in an export.
    """

    format: Literal[1] = FORMAT
    stage: Literal["vqgan", "ddpm", "model"]
    parts: dict[str, dict[str, Any]]
    hu_window: tuple[int | Finite, int | Finite]
    versions: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] | None = None
    imported: dict[str, Any] | None = None
    trained_on: list[str] | None = None

    def __post_init__(self) -> None:
        check_window(self.hu_window)

    def to_plain(self) -> dict[str, Any]:
        """As it stands in a file: dicts, lists, strings and numbers; without fields that are None."""
        from pydantic import TypeAdapter  # here, and below: it takes a moment to load

        plain = TypeAdapter(type(self)).dump_python(self, exclude_none=True)
        return json.loads(json.dumps(plain))  # no tuples

    @staticmethod
    def from_plain(plain: Mapping[str, Any], source: str | Path) -> "ModelDescription":
        """The description that `source` holds; UserError says what is missing or wrong in it."""
        from pydantic import TypeAdapter, ValidationError

        kind = ModelDescription if plain.get("stage") == "vqgan" else GeneratorDescription
        try:
            found = TypeAdapter(kind).validate_json(json.dumps(plain), strict=True)
        except ValidationError as error:
            faults = "; ".join(map(_fault, error.errors()))
            raise UserError(f"{source} describes itself wrongly: {faults}") from error
        except (TypeError, ValueError, RecursionError) as error:
            raise UserError(f"{source} describes itself by more than plain data: {error}") from error
        made_by = found.versions.get("commit", "")
        current({**plain, "part": kind.__name__}, source, made_by)
        return replace(found, parts={name: current(part, source, made_by) for name, part in found.parts.items()})

    def shaping(self) -> dict[str, Any]:
        """What of it shapes the weights, as plain data."""
        plain = self.to_plain()
        plain["parts"] = complete(plain["parts"])
        plain["parts"].get("xray_encoder", {}).pop("weights", None)  # where they lie; the hash tells them
        kept = {key: plain.get(key) for key in ("parts", "hu_window", "encoder_hash")}
        return kept | {"codec_hash": plain.get("codec", {}).get("hash")}

    def held_out(self) -> dict[str, Any]:
        """The settings by which its training did without some patients."""
        dataset = (self.config or {}).get("dataset", {})
        return {f"dataset.{key}": dataset.get(key) for key in ("folds", "fold")}


@dataclass(frozen=True)
class UsedCodec:
    """hash: of the VQ-GAN's tensors. path: its checkpoint; None in an export, which holds the VQ-GAN itself."""

    hash: str
    path: str | None = None


@dataclass(frozen=True, kw_only=True)
class GeneratorDescription(ModelDescription):
    """Of stage 2's checkpoints and of exports.

    codec, encoder_hash: the frozen networks of training. patch_size, stride: (d, h, w) in voxels.
    shape, spacing: median of the training volumes, (d, h, w) in voxels and mm.
    xray_ranges: (low, high) of the training X-rays of each kind. xray_fov_mm, film: their side, and how they were taken
    (None: by parallel rays), where files do not tell.
    cases: by split.
    """

    codec: UsedCodec
    encoder_hash: str
    patch_size: tuple[PatchVoxels, PatchVoxels, PatchVoxels]
    stride: tuple[PatchVoxels, PatchVoxels, PatchVoxels]
    shape: tuple[Voxels, Voxels, Voxels]
    spacing: tuple[Millimetres, Millimetres, Millimetres]
    xray_ranges: dict[str, tuple[Finite, Finite]]
    xray_fov_mm: Millimetres
    cases: dict[str, int] = field(default_factory=dict)
    film: Film | None = None


def _fault(error: Any) -> str:
    """A broken rule as pydantic reports it: where, which rule, what was found."""
    place, rule = ".".join(map(str, error["loc"])), error["msg"].removeprefix("Value error, ")
    found = "" if error["type"] in ("missing", "value_error") else f", got {short(error['input'])}"
    return f"{place}: {rule}{found}".removeprefix(": ")
