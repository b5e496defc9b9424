"""An evaluation's cases: drawn, scored, and kept until its report is written, so that an interrupted one goes on."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from common.atomic import write_text
from common.geometry import padded_shape
from common.notice import NOTICE
from common.organs import lung_volume_ml
from dataset.scans.volume_io import write_ct
from dataset.store.store import Store, StoredCase
from dataset.xray_ctpa_patch_dataset import read_unit
from ddpm.plan import SamplingPlan, XrayInput
from evaluation.anatomy import RealAnatomy
from evaluation.common_grid import boxes_to_grid
from evaluation.metrics import Preset, score, window_preset
from evaluation.pictures import case_page, save_png
from evaluation.seams import block_index, gradient_energy, plane_gradients
from evaluation.uncertainty import FEWEST_DRAWS, uncertainty
from pipeline.sampling.against import Against, case_facts, numbers_of_controls
from pipeline.sampling.ct_sampler import CTSampler, Placement
from pipeline.sampling.drawing import plan_facts
from pipeline.sampling.evaluated_field import Field
from pipeline.sampling.several import Draws, draw_several
from pipeline.sampling.shown_films import ShownFilms
from pipeline.versions import versions


@dataclass(frozen=True)
class Compared:
    """One case.

    numbers: for the report. volumes: what was compared with the real CT: `of` "right", "wrong" (with whose `xray`),
        "null", "mean_volume", "lookup" or "codec", its `scores` with all they depend on; where it was drawn its
        `lung_ml`, and with controls `projection` and `rank`, see `ShownFilms.compare`. With anatomy "right" and "codec"
        hold what `RealAnatomy.compare` finds, and `vessels` of "real" are among them.
    """

    name: str
    patient_id: str
    numbers: dict[str, float]
    volumes: list[dict[str, Any]]


@dataclass(frozen=True)
class Evaluation:
    """How cases are drawn and scored, and where that is kept.

    num_samples: CTs drawn per X-ray, of seeds seed, seed + 1, ..., and averaged.
    median: the grid to draw all cases on; None: each on that of its real CT.
    presets: scored besides the training's HU window. against: the controls; None: without.
    anatomy: also compare regions and vessels.
    folder: gets pictures, volumes/, and until the report is written unfinished/, one file per case.
    """

    model: CTSampler
    store: Store
    plan: SamplingPlan
    seed: int
    num_samples: int
    median: Placement | None
    presets: Sequence[Preset]
    against: Against | None
    anatomy: bool
    folder: Path

    @property
    def unfinished(self) -> Path:
        return self.folder / "unfinished"

    @cached_property
    def every_preset(self) -> list[Preset]:
        return [window_preset(self.model.hu_window), *self.presets]

    @cached_property
    def films(self) -> ShownFilms:
        return ShownFilms(self._look)

    @cached_property
    def made_with(self) -> dict[str, str]:
        """Asked once: somebody may commit to the repository while cases are drawn."""
        return versions()

    def volumes(self, case: StoredCase) -> list[Path]:
        """The CT as it was drawn; of several the first, and the mean, which is what is scored."""
        endings = ("",) if self.num_samples == 1 else ("_s0", "_mean")
        return [self.folder / "volumes" / f"{case.name}{ending}.nii.gz" for ending in endings]

    def compare(self, case: StoredCase) -> None:
        """Draw and score a case, and write its files; the one that `compared` reads is the last.

        One drawn CT is in memory at a time.
        """
        field, window = Field.of(case, self.median), self.model.hu_window
        hu = self.store.read_hu(case, (0, 0, 0), case.shape)
        real = field.of_real(hu, window)
        draws = self._draw(field, self._look(case), self.plan, spread=self.num_samples >= FEWEST_DRAWS)
        first, drawn = draws.first, draws.mean
        for path, voxels in zip(self.volumes(case), (first, drawn), strict=False):
            write_ct(path, voxels, field.place.affine, field.place.axes, description=NOTICE)
        drawn = field.of_drawn(drawn)
        right = self._scored("right", drawn, real, field) | self._shown(case, drawn, field) | {"xray": case.name}
        if draws.std is not None:
            std = field.of_drawn(draws.std)
            right["uncertainty"] = uncertainty(drawn, std, real, self.num_samples, window)
        numbers = self._of_right(right) | self._texture(field, first, real)
        codec = self._reconstruct(case)
        numbers["block_index_codec"] = block_index(plane_gradients(codec, window))
        numbers["block_index_real"] = block_index(plane_gradients(hu, window))
        codec = field.of_real(codec, window)
        volumes = [right, self._scored("codec", codec, real, field)]
        if self.anatomy:
            anatomy = RealAnatomy(real, field.grid.spacing, window)
            for volume, voxels in zip(volumes, (drawn, codec), strict=True):
                volume |= anatomy.compare(voxels)
            numbers |= {f"dice_{name}": by["dice"] for name, by in right["regions"].items() if by["dice"] is not None}
            volumes.append({"of": "real", "vessels": anatomy.vessels})
        del draws, first, codec, hu
        volumes += self._controls(case, field, real)
        numbers |= numbers_of_controls(volumes)
        numbers["lung_ml_real"] = lung_volume_ml(real, field.grid.spacing)
        page = case_page(self._image(case), real, drawn, field.grid.spacing, case.name, numbers)
        save_png(page, self._picture(case))
        about = {"facts": self._facts(case), "numbers": numbers, "volumes": volumes}
        write_text(self._record(case), json.dumps(about))

    def compared(self, case: StoredCase) -> Compared | None:
        """What `compare` found, if it has been called with these settings and its files are still there."""
        if not all(path.is_file() for path in self.volumes(case)):
            return None
        try:
            about = json.loads(self._record(case).read_text(encoding="utf-8"))
            if about["facts"] != _as_json(self._facts(case)):
                return None
            with Image.open(self._picture(case)) as picture:
                picture.verify()
            return Compared(case.name, case.patient_id, about["numbers"], about["volumes"])
        except (OSError, ValueError, KeyError):
            return None

    def _controls(self, case: StoredCase, field: Field, real: np.ndarray) -> Iterator[dict[str, Any]]:
        """Scores of the case's grid drawn again, with other X-rays and without, and of training CTs."""
        if self.against is None:
            return
        for other in self.against.wrong[case.name]:
            drawn = field.of_drawn(self._draw(field, self._look(other), self.plan).mean)
            scored = self._scored("wrong", drawn, real, field)
            yield scored | self._shown(case, drawn, field) | {"xray": other.name}
        if self.against.null:
            unseen = replace(self._look(case), dropped=True)
            drawn = field.of_drawn(self._draw(field, unseen, replace(self.plan, guidance=1.0)).mean)
            yield self._scored("null", drawn, real, field) | self._shown(case, drawn, field)
        if self.against.mean is not None:
            yield self._scored("mean_volume", self.against.mean.on(field.grid), real, field)
        if self.against.lookup is not None:
            other, window = self.against.lookup[case.name], self.model.hu_window
            theirs = boxes_to_grid(partial(self.store.read_hu, other), other.shape, other.spacing, field.grid, window)
            yield self._scored("lookup", theirs, real, field) | {"training": other.name}

    def _scored(self, name: str, hu: np.ndarray, real: np.ndarray, field: Field) -> dict[str, Any]:
        scores = [asdict(score(hu, real, field.grid.spacing, preset)) for preset in self.every_preset]
        lungs = {"lung_ml": lung_volume_ml(hu, field.grid.spacing)} if name in ("right", "wrong", "null") else {}
        return {"of": name, **lungs, "scores": scores}

    def _shown(self, case: StoredCase, hu: np.ndarray, field: Field) -> dict[str, float]:
        """How well a CT drawn on the case's grid shows the case's X-ray."""
        if self.against is None:
            return {}
        return self.films.compare(hu, field.grid.spacing, case, self.against.others[case.name])

    def _of_right(self, right: Mapping[str, Any]) -> dict[str, float]:
        numbers: dict[str, float] = {}
        for label, one in zip(("", *(f" {preset.name}" for preset in self.presets)), right["scores"], strict=True):
            numbers |= {f"{name}{label}": one[name] for name in ("psnr", "ssim", "hu_mae")}
        return numbers | {"lung_ml": right["lung_ml"]}

    def _texture(self, field: Field, first: np.ndarray, real: np.ndarray) -> dict[str, float]:
        """Of a single drawn CT: whether the decoder's blocks show, and how sharp it is."""
        window = self.model.hu_window
        seen = (plane_gradients(volume, window) for volume in (field.of_drawn(first), real))
        return {"block_index": block_index(plane_gradients(first, window)), "gradient_energy": gradient_energy(*seen)}

    def _image(self, case: StoredCase) -> np.ndarray:
        return self.store.read_xray(case, self.model.description.xray_ranges)

    def _look(self, case: StoredCase) -> XrayInput:
        return self.model.stored_xray(self.store, case)

    def _draw(self, field: Field, xray: XrayInput, plan: SamplingPlan, spread: bool = False) -> Draws:
        """On the field's grid."""
        grid, seeds = field.place.grid, range(self.seed, self.seed + self.num_samples)
        plan = self.model.generator.settle(plan, xray, grid)
        return draw_several(lambda seed: self.model.draw(xray, grid, plan, seed), seeds, spread)

    @torch.no_grad()
    def _reconstruct(self, case: StoredCase) -> np.ndarray:
        """The real CT through the codec and back: what no sample can beat."""
        shape = padded_shape(case.shape)
        generator = self.model.generator
        ct = torch.from_numpy(read_unit(self.store, case, (0, 0, 0), shape, self.model.hu_window))[None]
        latent = generator.codec.encode_volume(ct.to(generator.device))  # type: ignore[attr-defined]
        return self.model.decode(latent, case.shape)

    def _facts(self, case: StoredCase) -> dict[str, Any]:
        """All that the numbers follow from."""
        about = {key: getattr(self.model.description, key) for key in ("hu_window", "xray_ranges", "xray_fov_mm")}
        return {
            "case": case_facts(case),
            "model": self.model.hashes | about | {"film": asdict(self.model.film)},
            "plan": plan_facts(self.plan) | {"bf16": self.model.generator.in_bf16(self.plan)},
            "seeds": [self.seed, self.num_samples],
            "grid": asdict(Field.of(case, self.median).place.grid),
            "presets": [preset.name for preset in self.presets],
            "against": None if self.against is None else self.against.facts(case),
            "anatomy": self.anatomy,
            "versions": self.made_with,
        }

    def _picture(self, case: StoredCase) -> Path:
        return self.folder / f"{case.name}.png"

    def _record(self, case: StoredCase) -> Path:
        return self.unfinished / f"{case.name}.json"


def _as_json(content: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(content))
