"""An evaluation's cases: drawn, scored, and kept until its report is written, so that an interrupted one goes on."""

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from common.atomic import replacing
from common.geometry import padded_shape
from common.notice import NOTICE
from dataset.scans.volume_io import write_ct
from dataset.store.store import Store, StoredCase
from dataset.xray_ctpa_patch_dataset import read_unit
from ddpm.plan import Grid, SamplingPlan, XrayInput
from evaluation.common_grid import CommonGrid, to_grid
from evaluation.metrics import Preset, score, window_preset
from evaluation.organs import lung_volume_ml
from evaluation.pictures import case_page, save_png
from pipeline.sampling.ct_sampler import CTSampler
from pipeline.sampling.drawing import plan_facts
from pipeline.versions import versions

_VOLUMES = ("generated", "real", "codec")


@dataclass(frozen=True)
class Compared:
    """One case.

    generated, real, codec: float32 HU on the common grid; codec is the real CT through the codec and back.
    numbers: on the case's own grid, for the report. scores: the same with all that they depend on.
    picture: PNG of the X-ray, the real and the generated CT.
    """

    patient_id: str
    generated: np.ndarray
    real: np.ndarray
    codec: np.ndarray
    numbers: dict[str, float]
    scores: list[dict[str, Any]]
    picture: Image.Image


@dataclass(frozen=True)
class Evaluation:
    """How cases are drawn and scored, and where that is kept.

    num_samples: CTs drawn per X-ray, of seeds seed, seed + 1, ..., and averaged.
    grid: common to all cases. presets: scored besides the training's HU window.
    folder: gets pictures, volumes/, and until the report is written unfinished/, one file per case.
    """

    model: CTSampler
    store: Store
    plan: SamplingPlan
    seed: int
    num_samples: int
    grid: CommonGrid
    presets: Sequence[Preset]
    folder: Path

    @property
    def unfinished(self) -> Path:
        return self.folder / "unfinished"

    def volumes(self, case: StoredCase) -> list[Path]:
        """The CT as it was drawn; of several the first, and the mean, which is what is scored."""
        endings = ("",) if self.num_samples == 1 else ("_s0", "_mean")
        return [self.folder / "volumes" / f"{case.patient_id}{ending}.nii.gz" for ending in endings]

    def compare(self, case: StoredCase) -> None:
        """Draw and score a case, and write its files; the one that `compared` reads is the last."""
        image = self.store.read_xray(case, self.model.description.xray_ranges)
        real = self.store.read_hu(case, (0, 0, 0), case.shape)
        xray = self.model.prepare_xray(image, case.xray_camera, synthetic=case.xray_synthetic)
        drawn, mean = self._draw(case, xray)
        codec = self._reconstruct(case)
        presets = [window_preset(self.model.hu_window), *self.presets]
        scores = [score(mean, real, case.spacing, preset) for preset in presets]
        numbers: dict[str, float] = {}
        for label, one in zip(("", *(f" {preset.name}" for preset in self.presets)), scores, strict=True):
            numbers |= {f"psnr{label}": one.psnr, f"ssim{label}": one.ssim, f"hu_mae{label}": one.hu_mae}
        numbers["psnr_codec"] = score(codec, real, case.spacing, presets[0]).psnr
        numbers["lung_ml"], numbers["lung_ml_real"] = (lung_volume_ml(hu, case.spacing) for hu in (mean, real))
        page = case_page(image, real, mean, case.spacing, case.patient_id, numbers)
        save_png(page, self._picture(case))
        for path, hu in zip(self.volumes(case), (drawn, mean), strict=False):
            write_ct(path, hu, np.asarray(case.affine), case.source_axes, description=NOTICE)
        on_grid = (to_grid(hu, case.spacing, self.grid, self.model.hu_window) for hu in (mean, real, codec))
        about = {"facts": self._facts(case), "numbers": numbers, "scores": list(map(asdict, scores))}
        with replacing(self._record(case)) as temporary:
            volumes = dict(zip(_VOLUMES, on_grid, strict=True))
            np.savez(temporary, allow_pickle=False, about=np.array(json.dumps(about)), **volumes)

    def compared(self, case: StoredCase) -> Compared | None:
        """What `compare` found, if it has been called with these settings and its files are still there."""
        if not all(path.is_file() for path in self.volumes(case)):
            return None
        try:
            with np.load(self._record(case), allow_pickle=False) as record, Image.open(self._picture(case)) as picture:
                about = json.loads(str(record["about"]))
                if about["facts"] != _as_json(self._facts(case)):
                    return None
                generated, real, codec = (record[name] for name in _VOLUMES)
                numbers, scores = about["numbers"], about["scores"]
                return Compared(case.patient_id, generated, real, codec, numbers, scores, picture.copy())
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            return None

    def _draw(self, case: StoredCase, xray: XrayInput) -> tuple[np.ndarray, np.ndarray]:
        """The first CT and the mean of all, int16 HU on the case's own grid."""
        own = Grid(case.shape, case.spacing)
        plan = self.model.generator.settle(self.plan, xray, own)
        first = self.model.draw(xray, own, plan, self.seed)
        total = first.astype(np.int32)
        for seed in range(self.seed + 1, self.seed + self.num_samples):
            total += self.model.draw(xray, own, plan, seed)
        return first, (total / self.num_samples).round().astype(np.int16)

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
            "case": asdict(case),
            "model": self.model.hashes | about | {"film": asdict(self.model.film)},
            "plan": plan_facts(self.plan) | {"bf16": self.model.generator.in_bf16(self.plan)},
            "seeds": [self.seed, self.num_samples],
            "grid": asdict(self.grid),
            "presets": [preset.name for preset in self.presets],
            "versions": versions(),
        }

    def _picture(self, case: StoredCase) -> Path:
        return self.folder / f"{case.patient_id}.png"

    def _record(self, case: StoredCase) -> Path:
        return self.unfinished / f"{case.patient_id}.npz"


def _as_json(content: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(content))
