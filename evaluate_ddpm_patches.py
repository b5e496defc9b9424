"""Metrics, controls and an HTML report over a split: `python evaluate_ddpm_patches.py ckpt=...`."""

import json
import logging
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig
from tqdm import tqdm

from common.atomic import write_text
from common.collectives import Team
from common.errors import UserError
from dataset.store.store import Store, StoredCase
from evaluation.common_grid import CommonGrid, choose_grid, to_grid
from evaluation.controls import Controls, compare_with_controls, correlation, finite
from evaluation.metrics import find_presets
from evaluation.report import CaseRow, report_html
from pipeline.cli import script
from pipeline.devices import fast_float32
from pipeline.ranks import joined
from pipeline.run_record import record_run
from pipeline.sampling.ct_sampler import CTSampler, plan_of
from pipeline.sampling.evaluated_cases import Compared, Evaluation
from pipeline.sampling.files import prepare_folder
from pipeline.settings import plain
from pipeline.training.data import open_store

log = logging.getLogger(__name__)
OF_TRAINING = ("hu_window", "xray_fov_mm", "film", "latents", "latents_dir")  # the checkpoint decides these
NOT_SCORES = ("psnr_codec", "lung_ml", "lung_ml_real")  # of a case's numbers


@script("evaluate_ddpm")
def main(cfg: DictConfig) -> None:
    fast_float32()
    plan, presets = plan_of(cfg), find_presets(plain(cfg.presets))
    store = open_store(cfg.dataset)
    cases = store.split(cfg.split)[: cfg.num_cases]
    if not cases:
        raise UserError(f"split={cfg.split} of {store.folder} is empty")
    model = CTSampler(cfg.ckpt, cfg.vqgan_ckpt, cfg.averaged, cfg.device, cfg.xray_weights)
    grid = choose_grid([(case.shape, case.spacing) for case in cases], cfg.common_grid)
    evaluation = Evaluation(model, store, plan, cfg.seed, cfg.num_samples, grid, presets, Path(cfg.run_dir))
    largest = max((case.shape for case in cases), key=np.prod)
    prepare_folder(evaluation.folder / "volumes", largest, sum(len(evaluation.volumes(case)) for case in cases))
    with joined(model.generator.device) as team:
        if team.rank == 0:
            record_run(cfg, evaluation.folder)
        _compare_all(evaluation, cases[team.rank :: team.size], team)
        team.wait()
    if team.rank == 0:
        _report(evaluation, [_found(evaluation, case) for case in cases], cfg)
        shutil.rmtree(evaluation.unfinished)


def _compare_all(evaluation: Evaluation, cases: Sequence[StoredCase], team: Team) -> None:
    hidden = team.rank > 0 or not sys.stderr.isatty()
    for case in tqdm(cases, desc="evaluating", unit="case", disable=hidden):
        if evaluation.compared(case):
            log.info("%s: evaluated before the interruption", case.patient_id)
        else:
            evaluation.compare(case)


def _found(evaluation: Evaluation, case: StoredCase) -> Compared:
    found = evaluation.compared(case)
    if found is None:
        raise UserError(
            f"{case.patient_id} was evaluated by another process, but its files are not in {evaluation.folder};"
            " run_dir must be a folder that all processes share"
        )
    return found


def _report(evaluation: Evaluation, compared: Sequence[Compared], cfg: DictConfig) -> None:
    model, grid, folder = evaluation.model, evaluation.grid, evaluation.folder
    controls = None
    if len(compared) > 1:
        controls = compare_with_controls(
            [c.generated for c in compared],
            [c.real for c in compared],
            _mean_volume(evaluation.store, grid, model.hu_window),
            [c.codec for c in compared],
            model.hu_window,
            seed=cfg.seed,
        )
    summary = _summary(compared, controls)
    settings = plain(cfg) | {
        "dataset": {key: value for key, value in plain(cfg.dataset).items() if key not in OF_TRAINING},
        "common grid": f"{grid.shape} at {grid.spacing} mm",
        "denoiser hash": model.hashes["denoiser_hash"],
        "hu_window": list(model.hu_window),
        "trained with": model.description.versions,
    }
    report = folder / "report.html"
    rows = [CaseRow(c.patient_id, c.numbers, c.picture) for c in compared]
    write_text(report, report_html("X-ray → CTPA", summary, controls, rows, settings))
    details = {
        "summary": summary,
        "controls": asdict(controls) if controls else None,
        "settings": settings,
        "cases": [c.numbers for c in compared],
        "scores": {c.patient_id: c.scores for c in compared},
    }
    write_text(folder / "metrics.json", json.dumps(finite(details), indent=1, allow_nan=False))
    for name, value in summary.items():
        log.info("%-24s %s", name, value)
    log.info("report: %s", report)


def _mean_volume(store: Store, grid: CommonGrid, window: tuple[float, float]) -> np.ndarray | None:
    cases = store.split("train")
    if not cases:
        log.warning("%s has no training cases, so there is no mean training CT to compare with", store.folder)
        return None
    total = np.zeros(grid.shape, dtype=np.float64)
    for case in cases:
        total += to_grid(store.read_hu(case, (0, 0, 0), case.shape), case.spacing, grid, window)
    return (total / len(cases)).astype(np.float32)


def _summary(compared: Sequence[Compared], controls: Controls | None) -> dict[str, Any]:
    scores = [name for name in compared[0].numbers if name not in NOT_SCORES]
    own = {f"{name} (own grid)": float(np.mean([c.numbers[name] for c in compared])) for name in scores}
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
        "right_minus_shuffled_95": None if psnr.low is None else [psnr.low, psnr.high],
        "ssim_right": controls.ssim.right,
        "ssim_shuffled": controls.ssim.shuffled,
    } | summary


if __name__ == "__main__":
    main()
