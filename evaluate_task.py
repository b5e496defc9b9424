"""Does the drawn CT carry a label? `python evaluate_task.py ckpt=... target=...`

A classifier learns the label from the training's real CTs. It is tested on the real and on the drawn CTs of a split,
beside a classifier of the X-rays alone.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from common.atomic import write_text
from common.errors import UserError
from dataset.store.store import StoredCase
from evaluation.auc import compare_aucs
from evaluation.classifier import densenet, logistic, train_classifier
from evaluation.common_grid import choose_grid
from evaluation.controls import finite
from pipeline.checkpoints.seen import check_unseen
from pipeline.cli import script
from pipeline.devices import fast_float32
from pipeline.ranks import joined
from pipeline.run_record import record_run
from pipeline.sampling.ct_sampler import CTSampler, plan_of
from pipeline.sampling.evaluated_cases import Evaluation
from pipeline.sampling.files import prepare_folder
from pipeline.sampling.looks import seen_in_xray
from pipeline.sampling.progress import compare_all
from pipeline.sampling.task import check_classes, drawn_on_grid, labels_of, real_on_grid
from pipeline.settings import plain
from pipeline.training.data import open_store

log = logging.getLogger(__name__)


@script("evaluate_task")
def main(cfg: DictConfig) -> None:
    fast_float32()
    store = open_store(cfg.dataset)
    labels = labels_of(store.cases, cfg.target)
    training, cases = ([case for case in store.cases_of(s) if case.name in labels] for s in ("train", cfg.split))
    for split, some in (("train", training), (cfg.split, cases)):
        check_classes([labels[case.name] for case in some], split, cfg.target)
    shared = {case.patient_id for case in training} & {case.patient_id for case in cases}
    if shared:
        raise UserError(
            f"a classifier is tested on patients that it has not seen, but split={cfg.split} has {len(shared)} of those"
            " of the training; take val or test"
        )
    model = CTSampler(cfg.ckpt, cfg.vqgan_ckpt, cfg.averaged, cfg.device, cfg.xray_weights)
    check_unseen(model.description, cases, cfg.ckpt)
    median = model.placement() if cfg.grid == "median" else None
    folder = Path(cfg.run_dir)
    largest = max((case.shape for case in cases), key=np.prod) if median is None else median.grid.shape
    prepare_folder(folder / "volumes", largest, len(cases) * min(cfg.num_samples, 2))
    evaluation = Evaluation(
        model, store, plan_of(cfg), cfg.seed, cfg.num_samples, median, [], None, anatomy=False, folder=folder
    )
    with joined(model.generator.device, model.hashes) as team:
        if team.rank == 0:
            record_run(cfg, folder)
        compare_all(evaluation, cases, "drawing", "CT", team)
    if team.rank == 0:
        _judge(evaluation, training, cases, labels, cfg)


def _judge(
    evaluation: Evaluation,
    training: Sequence[StoredCase],
    cases: Sequence[StoredCase],
    labels: dict[str, bool],
    cfg: DictConfig,
) -> None:
    known, asked = ([labels[case.name] for case in some] for some in (training, cases))
    grid = choose_grid([(case.shape, case.spacing) for case in training], cfg.common_grid)
    log.info("a classifier learns %s from %d real CTs of %s voxels", cfg.target, len(training), grid.shape)
    score = train_classifier(
        densenet,
        real_on_grid(evaluation, training, grid),
        known,
        cfg.epochs,
        cfg.batch_size,
        cfg.train_lr,
        cfg.seed,
        evaluation.model.generator.device,
    )
    xrays = [
        np.stack([seen_in_xray(evaluation.model, evaluation.store, c) for c in some]) for some in (training, cases)
    ]
    scores = {
        "real": score(real_on_grid(evaluation, cases, grid)),
        "drawn": score(drawn_on_grid(evaluation, cases, grid)),
        "xray": logistic(xrays[0], known)(xrays[1]),
    }
    found = compare_aucs({name: some.tolist() for name, some in scores.items()}, asked, [c.patient_id for c in cases])
    for name, by in found.items():
        between = "" if by.low is None or by.high is None else f" ({by.low:.3f} to {by.high:.3f})"
        log.info("AUC %-16s %.3f%s", name, by.value, between)
    details: dict[str, Any] = {
        "target": cfg.target,
        "auc": {name: asdict(by) for name, by in found.items()},
        "cases": {
            case.name: {"label": label} | {name: float(some[i]) for name, some in scores.items()}
            for i, (case, label) in enumerate(zip(cases, asked, strict=True))
        },
        "trained on": len(training),
        "grid": asdict(grid),
        "denoiser hash": evaluation.model.hashes["denoiser_hash"],
        "settings": plain(cfg),
    }
    write_text(Path(cfg.run_dir) / "task.json", json.dumps(finite(details), indent=1, allow_nan=False))
    log.info("task: %s", Path(cfg.run_dir) / "task.json")


if __name__ == "__main__":
    main()
