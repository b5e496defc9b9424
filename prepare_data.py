"""Check every pair of a data set and build the patch store that training reads."""

import logging
from pathlib import Path

from omegaconf import DictConfig

from cli import script
from dataset.prepare import REPORT, prepare
from settings import prepare_arguments

log = logging.getLogger(__name__)


@script("prepare_data")
def main(cfg: DictConfig) -> None:
    report = prepare(**prepare_arguments(cfg.dataset), strict=cfg.strict)
    splits = sorted({case.split for case in report.cases})
    counts = ", ".join(f"{sum(c.split == name for c in report.cases)} {name}" for name in splits)
    log.info("%d good cases (%s), %d made now; %s", len(report.cases), counts, report.prepared, cfg.dataset.store)
    if report.problems:
        log.warning("\n%s", Path(cfg.dataset.store, REPORT).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
