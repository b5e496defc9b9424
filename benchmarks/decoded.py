"""What a trained model draws, beside the real CTs of held-out patients, with the controls of the evaluation."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from common.collectives import Team
from common.errors import UserError
from common.geometry import STEP
from common.organs import lung_volume_ml
from dataset.store.store import StoredCase, VolumeStore
from ddpm.diffusion import Regression
from ddpm.generator import VolumeGenerator
from ddpm.plan import Grid, SamplingPlan, XrayInput
from ddpm.samplers import MEAN
from evaluation.common_grid import CommonGrid
from evaluation.controls import wrong_xrays
from evaluation.mean_volume import MeanVolume
from evaluation.metrics import psnr, ssim
from evaluation.seams import block_index, gradient_energy, lattice_index, plane_gradients, seam_index, window_planes
from pipeline.sampling.ct_sampler import CTSampler
from pipeline.sampling.mean_ct import mean_training_ct


def spread(draws: np.ndarray, real: np.ndarray) -> float | None:
    """How far draws (N, D, H, W) lie apart, over how far their mean lies from the truth: 1 where they are as uncertain
    as they should be, below where they are too sure (Fortin et al. 2014, eq. 15); None of one draw.
    """
    if len(draws) == 1:
        return None
    error = np.square(draws.mean(0, dtype=np.float64) - real).mean()
    expected = (1 + 1 / len(draws)) * draws.var(0, ddof=1, dtype=np.float64).mean()
    return float(np.sqrt(expected / error))


def histogram_distance(drawn: np.ndarray, real: np.ndarray) -> float:
    """By how many HU a voxel must change on average for both volumes to have one histogram (Wasserstein, order 1)."""
    return float(np.abs(np.sort(drawn, axis=None) - np.sort(real, axis=None)).mean())


def window_faces(generator: VolumeGenerator, grid: Grid) -> list[list[int]]:
    """Where windows begin or end inside a CT, in voxels of each axis."""
    sizes = generator.latent_shape(grid), generator.window, generator.stride
    return [[STEP * plane for plane in window_planes(*axis)] for axis in zip(*sizes, strict=True)]


class Judge:
    """Draws the patients of a split and scores them.

    Args:
        plan: of draws; a regression's is of its one answer. draws: per X-ray; what is scored is their mean.
        mean_grid: most voxels of the mean training CT along an axis.
    """

    def __init__(
        self, model: CTSampler, store: VolumeStore, plan: SamplingPlan, draws: int, mean_grid: int, folder: Path
    ) -> None:
        self.model, self.store = model, store
        if isinstance(model.generator.diffusion, Regression):
            plan, draws = replace(plan, sampler=MEAN), 1
        self.plan, self.draws = plan, draws
        self.mean = mean_training_ct(store, model.hu_window, mean_grid, folder, Team())

    def cases(self, most: int, seed: int) -> list[dict[str, Any]]:
        """Numbers of each held-out patient."""
        held_out = self.store.split("val")[:most]
        wrong = wrong_xrays([case.patient_id for case in held_out], 1, seed)
        if not all(wrong):
            raise UserError("one held-out patient has nobody's wrong X-ray: take more cases")
        shown = tqdm(zip(held_out, wrong, strict=True), "drawing", len(held_out), unit="patient", disable=None)
        return [self._case(case, held_out[others[0]], seed) for case, others in shown]

    def _case(self, case: StoredCase, other: StoredCase, seed: int) -> dict[str, Any]:
        window, grid = self.model.hu_window, Grid(case.shape, case.spacing)
        real = np.clip(self.store.read_hu(case, (0, 0, 0), case.shape), *window).astype(np.float32)
        look = self._look(case)
        right = self._draw(look, grid, self.plan, seed, self.draws)
        volumes = {"right": right.mean(0), "single": right[0]}
        volumes["wrong"] = self._draw(self._look(other), grid, self.plan, seed, self.draws).mean(0)
        if self.model.generator.denoiser.knows_no_xray:
            unseen = replace(self.plan, guidance=1.0)
            volumes["null"] = self._draw(replace(look, dropped=True), grid, unseen, seed, self.draws).mean(0)
        if self.model.generator.diffusion.prediction != "noise":
            volumes["expected"] = self._draw(look, grid, replace(self.plan, sampler=MEAN), seed, 1)[0]
        volumes["whole"] = self._draw(look, grid, replace(self.plan, mode="whole"), seed, self.draws).mean(0)
        volumes |= _offered(self.mean, grid)
        slopes, own = plane_gradients(right[0], window), plane_gradients(real, window)
        return {f"psnr_{name}": psnr(hu, real, window) for name, hu in volumes.items()} | {
            "patient": case.patient_id,
            "ssim_right": ssim(volumes["right"], real, window),
            "gradient_energy": gradient_energy(slopes, own),
            "hu_histogram": histogram_distance(right[0], real),
            "block_index": block_index(slopes),
            "lattice_index": lattice_index(right[0], window) - lattice_index(real, window),
            "seam_index": self._seams(right[0], real, grid),
            "lung_ml": lung_volume_ml(volumes["right"], grid.spacing),
            "lung_ml_real": lung_volume_ml(real, grid.spacing),
            "spread": spread(right, real),
            "evaluations": self.draws * self._evaluations(look, grid),
        }

    def _seams(self, drawn: np.ndarray, real: np.ndarray, grid: Grid) -> float | None:
        """Over the real CT's; None where one window holds it all."""
        faces = window_faces(self.model.generator, grid)
        return seam_index(drawn, faces, STEP) / seam_index(real, faces, STEP) if any(faces) else None

    def _evaluations(self, look: XrayInput, grid: Grid) -> int:
        """Of windows, for one draw."""
        generator = self.model.generator
        settled = replace(generator.settle(self.plan, look, grid), window_batch=1)
        return generator.evaluations(grid, settled)

    def _draw(self, look: XrayInput, grid: Grid, plan: SamplingPlan, seed: int, count: int) -> np.ndarray:
        """CTs (count, D, H, W) of float32 HU."""
        drawn = [self.model.draw(look, grid, plan, seed + i) for i in range(count)]
        return np.stack(drawn).astype(np.float32)

    def _look(self, case: StoredCase) -> XrayInput:
        return self.model.stored_xray(self.store, case)


def _offered(mean: MeanVolume | None, grid: Grid) -> dict[str, np.ndarray]:
    return {} if mean is None else {"mean_volume": mean.on(CommonGrid(grid.shape, grid.spacing))}


def found_of(cases: Sequence[dict[str, Any]], name: str) -> list[float]:
    """A number of all cases, those that have none left out."""
    return [case[name] for case in cases if case.get(name) is not None]
