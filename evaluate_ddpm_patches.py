"""Metrics, controls and an HTML report over a split: `python evaluate_ddpm_patches.py ckpt=...`."""

import json
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from tqdm import tqdm

import assembly
from cli import script
from dataset.patches import padded_shape, triple
from dataset.store import StoredCase, VolumeStore
from dataset.volume_io import write_ct
from dataset.xray_ctpa_patch_dataset import STEP, read_unit
from ddpm.generator import Grid
from devices import fast_float32
from evaluation.common_grid import CommonGrid, choose_grid, to_grid
from evaluation.controls import Controls, compare_with_controls, correlation
from evaluation.metrics import score, window_preset
from evaluation.organs import lung_volume_ml
from evaluation.pictures import case_page, save_png
from evaluation.report import CaseRow, write_report
from sampling import NOTICE, CTSampler, plan_of
from settings import plain
from tensor_hash import tensor_hash

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Compared:
    """One case: its volumes on the common grid, its numbers on its own grid, its pictures."""

    generated: np.ndarray
    real: np.ndarray
    codec: np.ndarray
    numbers: dict[str, float]
    row: CaseRow


@script("evaluate_ddpm")
def main(cfg: DictConfig) -> None:
    fast_float32()
    store = assembly.open_store(cfg.dataset)
    model = CTSampler(cfg.ckpt, cfg.vqgan_ckpt, cfg.averaged, cfg.device)
    cases = store.split(cfg.split)[: cfg.num_cases]
    if not cases:
        raise ValueError(f"split={cfg.split} of {store.folder} is empty")
    grid = choose_grid([(case.shape, case.spacing) for case in cases], cfg.common_grid)
    folder = Path(cfg.run_dir)
    (folder / "volumes").mkdir(parents=True, exist_ok=True)
    compared = [
        _compare(model, store, case, cfg, grid, folder)
        for case in tqdm(cases, desc="evaluating", unit="case", disable=not sys.stderr.isatty())
    ]
    controls = None
    if len(compared) > 1:
        controls = compare_with_controls(
            [c.generated for c in compared],
            [c.real for c in compared],
            _mean_volume(store, grid, model.hu_window),
            [c.codec for c in compared],
            model.hu_window,
            seed=cfg.seed,
        )
    summary = _summary(compared, controls)
    settings = plain(cfg) | {
        "common grid": f"{grid.shape} at {grid.spacing} mm",
        "denoiser hash": tensor_hash(model.generator.denoiser),
        "hu_window": list(model.hu_window),
        "trained with": model.meta["versions"],
    }
    report = folder / "report.html"
    write_report(report, "X-ray → CTPA", summary, controls, [c.row for c in compared], settings)
    details = {"summary": summary, "controls": controls.as_dict() if controls else None, "settings": settings}
    partial = folder / "metrics.json.partial"
    partial.write_text(json.dumps(details | {"cases": [c.numbers for c in compared]}, indent=1))
    os.replace(partial, folder / "metrics.json")
    for name, value in summary.items():
        log.info("%-24s %s", name, value)
    log.info("report: %s", report)


def _compare(
    model: CTSampler, store: VolumeStore, case: StoredCase, cfg: DictConfig, grid: CommonGrid, folder: Path
) -> Compared:
    window, spacing = model.hu_window, case.spacing
    plan = plan_of(cfg)
    image = store.read_xray(case)
    xray = model.prepare_xray(image, case.xray_affine)
    own = Grid(case.shape, spacing)
    draws = [model.draw(xray, own, plan, cfg.seed + i) for i in range(cfg.num_samples)]
    generated = np.mean(draws, axis=0).round().astype(np.int16)
    real = store.read_hu(case, (0, 0, 0), case.shape)
    codec = _reconstruct(model, store, case)
    scores = score(generated, real, spacing, window_preset(window))
    numbers = {
        "psnr": scores.psnr,
        "ssim": scores.ssim,
        "hu_mae": scores.hu_mae,
        "psnr_codec": score(codec, real, spacing, window_preset(window)).psnr,
        "lung_ml": lung_volume_ml(generated, spacing),
        "lung_ml_real": lung_volume_ml(real, spacing),
    }
    name = case.patient_id
    picture = case_page(image, real, spacing, generated, spacing, name, numbers)
    save_png(picture, folder / f"{name}.png")
    write_ct(
        folder / "volumes" / f"{name}.nii.gz",
        draws[0],
        np.asarray(case.affine),
        case.source_axes,
        description=NOTICE,
    )
    on_grid = [to_grid(hu, spacing, grid, window) for hu in (generated, real, codec)]
    return Compared(on_grid[0], on_grid[1], on_grid[2], numbers, CaseRow(name, numbers, picture))


@torch.no_grad()
def _reconstruct(model: CTSampler, store: VolumeStore, case: StoredCase) -> np.ndarray:
    """The real CT through the codec and back: what no sample can beat."""
    shape = padded_shape(case.shape, triple([STEP] * 3), STEP)
    codec = model.generator.codec
    device = model.generator.latent_scale.mean.device
    ct = torch.from_numpy(read_unit(store, case, (0, 0, 0), shape, model.hu_window))[None]
    return model.decode(codec.encode_volume(ct.to(device)), case.shape)  # type: ignore[attr-defined]


def _mean_volume(store: VolumeStore, grid: CommonGrid, window: tuple[float, float]) -> np.ndarray:
    cases = store.split("train")
    total = np.zeros(grid.shape, dtype=np.float64)
    for case in cases:
        total += to_grid(store.read_hu(case, (0, 0, 0), case.shape), case.spacing, grid, window)
    return (total / len(cases)).astype(np.float32)


def _summary(compared: Sequence[Compared], controls: Controls | None) -> dict[str, Any]:
    own = {f"{k} (own grid)": float(np.mean([c.numbers[k] for c in compared])) for k in ("psnr", "ssim", "hu_mae")}
    lungs = [[c.numbers[key] for c in compared] for key in ("lung_ml", "lung_ml_real")]
    summary: dict[str, Any] = own | {"lung_volume_correlation": correlation(*lungs)}
    if controls is None:
        return summary
    psnr = controls.psnr
    return {
        "psnr_right": psnr.right,
        "psnr_shuffled": psnr.shuffled,
        "psnr_mean_volume": psnr.mean_volume,
        "psnr_codec": psnr.codec,
        "right_minus_shuffled": psnr.difference,
        "right_minus_shuffled_95": [psnr.low, psnr.high],
        "ssim_right": controls.ssim.right,
        "ssim_shuffled": controls.ssim.shuffled,
    } | summary


if __name__ == "__main__":
    main()
