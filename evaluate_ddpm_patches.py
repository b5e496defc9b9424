"""Metrics, controls and an HTML report over a split: `python evaluate_ddpm_patches.py ckpt=...`."""

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from common.atomic import write_text
from common.collectives import Team
from common.errors import UserError, of_all
from dataset.store.latents import LatentSource
from dataset.store.store import Store, StoredCase
from evaluation.controls import finite, wrong_xrays
from evaluation.copies import Copying
from evaluation.distributions import Distribution
from evaluation.metrics import find_presets
from evaluation.report.page import write_report
from evaluation.subgroups import groups_of, subgroups
from evaluation.summary import Findings
from pipeline.checkpoints.seen import check_unseen
from pipeline.cli import script
from pipeline.devices import fast_float32
from pipeline.ranks import joined
from pipeline.run_record import record_run
from pipeline.sampling.against import Against
from pipeline.sampling.copying import check_copies, most_similar, picture_closest
from pipeline.sampling.ct_sampler import CTSampler, plan_of
from pipeline.sampling.evaluated_cases import Compared, Evaluation
from pipeline.sampling.extractors import load_extractors
from pipeline.sampling.files import prepare_folder
from pipeline.sampling.films_alone import MOST_OTHERS, evaluate_films
from pipeline.sampling.looks import Looking, Looks
from pipeline.sampling.masks import MaskFolder, add_masks
from pipeline.sampling.mean_ct import mean_training_ct
from pipeline.sampling.pairs import drawn_pair
from pipeline.sampling.progress import compare_all
from pipeline.sampling.shown_volumes import embed_volumes
from pipeline.sampling.spread import compare_spread, kept_with
from pipeline.settings import plain
from pipeline.training.data import open_latents, open_store

log = logging.getLogger(__name__)
OF_TRAINING = ("hu_window", "xray_fov_mm", "film", "latents", "latents_dir")  # the checkpoint decides these


@script("evaluate_ddpm")
def main(cfg: DictConfig) -> None:
    fast_float32()
    plan, presets = plan_of(cfg), find_presets(plain(cfg.presets))
    if cfg.xray_only:
        evaluate_films(cfg, plan)
        return
    store = open_store(cfg.dataset)
    cases = store.split(cfg.split)[: cfg.num_cases]
    if not cases:
        raise UserError(f"split={cfg.split} of {store.folder} is empty")
    columns = [cfg.subgroups] if isinstance(cfg.subgroups, str) else list(cfg.subgroups)
    for column in columns:
        groups_of(column, _told(cases))
    extractors = load_extractors(cfg.extractors)
    masks = None if cfg.masks is None else MaskFolder(Path(cfg.masks))
    if masks:
        masks.check([case.name for case in cases])
    model = CTSampler(cfg.ckpt, cfg.vqgan_ckpt, cfg.averaged, cfg.device, cfg.xray_weights)
    check_unseen(model.description, cases, cfg.ckpt)
    median = model.placement() if cfg.grid == "median" else None
    folder = Path(cfg.run_dir)
    prepare_folder(
        folder / "volumes",
        max((case.shape for case in cases), key=np.prod) if median is None else median.grid.shape,
        len(cases) * min(cfg.num_samples, 2),
    )
    with joined(model.generator.device, model.hashes) as team:
        if team.rank == 0:
            record_run(cfg, folder)
        looking, looks = _looks(model, store, cases, cfg, team)
        against = _against(model, store, cases, cfg, team, looks) if cfg.controls else None
        evaluation = Evaluation(
            model, store, plan, cfg.seed, cfg.num_samples, median, presets, against, cfg.anatomy, folder
        )
        compare_all(evaluation, cases, "evaluating", "case", team)
        copies = check_copies(evaluation, cases, looking, looks, team) if looking else {}
        of = {case.name: case for case in cases}
        spread = compare_spread(
            {case.name: case.patient_id for case in cases},
            lambda name: drawn_pair(evaluation, of[name]),
            extractors,
            model.hu_window,
            model.generator.device,
            (evaluation.unfinished / "features", kept_with(store, folder)),
            team,
        )
    if team.rank == 0:
        compared = [_found(evaluation, case) for case in cases]
        if masks:
            _add_regions(evaluation, masks, list(zip(cases, compared, strict=True)))
        _report(evaluation, cases, compared, copies, spread, cfg)
        shutil.rmtree(evaluation.unfinished)


def _looks(
    model: CTSampler, store: Store, cases: Sequence[StoredCase], cfg: DictConfig, team: Team
) -> tuple[Looking | None, dict[str, Looks]]:
    """What tells copies, of training cases and those that are evaluated; none where it is not asked for or known."""
    training = store.split("train")
    if not cfg.copies:
        return None, {}
    if len({case.patient_id for case in training}) < 3:
        raise UserError(
            f"copies=true needs the training's patients, at least three, which {store.folder} does not hold; give the"
            " training's dataset.root, or leave copies=true out"
        )
    source = LatentSource(model.hashes["codec_hash"], model.hashes["encoder_hash"], model.hu_window)
    looking = Looking(model, store, open_latents(cfg.dataset, source, store, (1, 1, 1), ()), Path(cfg.run_dir))
    every = {case.name: case for case in (*training, *cases)}
    return looking, looking.of_cases(list(every.values()), team)


def _against(
    model: CTSampler,
    store: Store,
    cases: Sequence[StoredCase],
    cfg: DictConfig,
    team: Team,
    looks: Mapping[str, Looks],
) -> Against:
    patients = [case.patient_id for case in cases]
    wrong, others = (
        {case.name: [cases[i] for i in found] for case, found in zip(cases, rings, strict=True)}
        for rings in (wrong_xrays(patients, count, cfg.seed) for count in (cfg.wrong_xrays, MOST_OTHERS))
    )
    null = model.generator.denoiser.knows_no_xray
    if not null:
        log.warning("no X-ray was dropped in the training of %s (condition_dropout): it draws with one only", cfg.ckpt)
    mean = mean_training_ct(store, model.hu_window, cfg.common_grid, Path(cfg.run_dir), team)
    lookup = most_similar(cases, store.split("train"), looks) if looks else None
    return Against(wrong, others, null, mean, lookup)


def _told(cases: Sequence[StoredCase]) -> list[dict[str, Any]]:
    """What is known of cases, by the columns of pairs.csv."""
    return [{**case.about, "target": case.target, "view": case.view} for case in cases]


def _found(evaluation: Evaluation, case: StoredCase) -> Compared:
    found = evaluation.compared(case)
    if found is None:
        raise UserError(
            f"{case.name} was evaluated by another process, but its files are not in {evaluation.folder};"
            " run_dir must be a folder that all processes share"
        )
    return found


def _add_regions(evaluation: Evaluation, masks: MaskFolder, each: Sequence[tuple[StoredCase, Compared]]) -> None:
    def add(both: tuple[StoredCase, Compared]) -> None:
        case, found = both
        regions = masks.compare(case.name, drawn_pair(evaluation, case), evaluation.model.hu_window)
        add_masks(found.volumes[0], found.numbers, regions)

    of_all(each, add, "What was drawn is kept: mend these, or take them out, and run the same command again.")


def _report(
    evaluation: Evaluation,
    cases: Sequence[StoredCase],
    compared: Sequence[Compared],
    copies: dict[str, Copying],
    spread: dict[str, Distribution],
    cfg: DictConfig,
) -> None:
    model, folder = evaluation.model, evaluation.folder
    patients, numbers = [c.patient_id for c in compared], [c.numbers for c in compared]
    findings = Findings.of([c.volumes for c in compared], numbers, patients, cfg.seed)
    findings = replace(findings, copies=copies, distributions=spread)
    summary = findings.summary()
    settings = plain(cfg) | {
        "dataset": {key: value for key, value in plain(cfg.dataset).items() if key not in OF_TRAINING},
        "denoiser hash": model.hashes["denoiser_hash"],
        "hu_window": list(model.hu_window),
        "trained with": model.description.versions,
    }
    details = {
        "verdict": findings.verdict,
        "summary": summary,
        "controls": asdict(findings),
        "settings": settings,
        "cases": numbers,
        "scores": {c.name: c.volumes for c in compared},
        "patients": {c.name: c.patient_id for c in compared},
        "subgroups": _by_groups(evaluation, compared, cfg),
        "closest": picture_closest(evaluation, copies),
    }
    write_text(folder / "metrics.json", json.dumps(finite(details), indent=1, allow_nan=False))
    embed_volumes(evaluation, cases, compared)
    report = write_report(folder)
    for name, value in summary.items():
        log.info("%-24s %s", name, value)
    for sentence in findings.verdict:
        log.info(sentence)
    log.info("report: %s", report)


def _by_groups(evaluation: Evaluation, compared: Sequence[Compared], cfg: DictConfig) -> dict[str, Any]:
    of = {case.name: case for case in evaluation.store.cases}
    columns = [cfg.subgroups] if isinstance(cfg.subgroups, str) else list(cfg.subgroups)
    told, patients = _told([of[c.name] for c in compared]), [c.patient_id for c in compared]
    return subgroups(columns, told, [c.numbers for c in compared], patients, cfg.seed)


if __name__ == "__main__":
    main()
