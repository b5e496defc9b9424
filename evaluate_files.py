"""CTs that any system has drawn, scored against the real ones: `python evaluate_files.py generated=DIR real=DIR`."""

import json
import logging
import shutil
from dataclasses import asdict, replace
from pathlib import Path

from omegaconf import DictConfig

from common.atomic import write_text
from common.collectives import Team
from common.errors import of_all
from evaluation.controls import finite
from evaluation.metrics import find_presets
from evaluation.report.page import write_report
from evaluation.report.volumes import choose
from evaluation.summary import Findings
from pipeline.cli import script
from pipeline.devices import fast_float32, pick_device
from pipeline.run_record import record_run
from pipeline.sampling.extractors import load_extractors
from pipeline.sampling.file_pairs import FilePairs, FileScores
from pipeline.sampling.masks import MaskFolder
from pipeline.sampling.progress import with_progress
from pipeline.sampling.spread import compare_spread
from pipeline.settings import plain

log = logging.getLogger(__name__)
_TO_GO_ON = "The other pairs' scores are kept: mend these, or take them out, and run the same command again."


@script("evaluate_files")
def main(cfg: DictConfig) -> None:
    fast_float32()
    folder, window, presets = Path(cfg.run_dir), (cfg.hu_window[0], cfg.hu_window[1]), find_presets(plain(cfg.presets))
    pairs, extractors = FilePairs.find(Path(cfg.generated), Path(cfg.real)), load_extractors(cfg.extractors)
    names, device = list(pairs.generated), pick_device(cfg.device)
    masks = None if cfg.masks is None else MaskFolder(Path(cfg.masks))
    if masks:
        masks.check(names)
    pairs.check()
    record_run(cfg, folder)
    scores = FileScores(pairs, window, presets, cfg.anatomy, masks, folder)
    compared = of_all(with_progress(names, "evaluating", "case", Team()), scores.of, _TO_GO_ON)
    kept = folder / "features"
    spread = compare_spread(
        {name: name for name in names},
        lambda name: pairs.read(name, window),
        extractors,
        window,
        device,
        (kept, kept),
        Team(),
    )
    numbers = [c.numbers for c in compared]
    findings = replace(Findings.of([c.volumes for c in compared], numbers, names, cfg.seed), distributions=spread)
    details = {
        "verdict": findings.verdict,
        "summary": findings.summary(),
        "controls": asdict(findings),
        "settings": plain(cfg),
        "cases": numbers,
        "scores": {c.name: c.volumes for c in compared},
    }
    write_text(folder / "metrics.json", json.dumps(finite(details), indent=1, allow_nan=False))
    choose(folder, ())  # of an earlier evaluation of a model in this folder, neither viewer nor pictures
    report = write_report(folder, pictured=False)
    shutil.rmtree(scores.unfinished)
    for name, value in details["summary"].items():
        log.info("%-24s %s", name, value)
    log.info("report: %s", report)


if __name__ == "__main__":
    main()
