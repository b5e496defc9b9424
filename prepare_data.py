"""Check every pair of a data set and build the patch store that training reads.

Work can be split: shard=i/n on each machine, or under torchrun or SLURM; the part that ends last merges.
"""

import logging
from pathlib import Path

from omegaconf import DictConfig

from dataset.prepare.reports import REPORT
from dataset.prepare.run import PrepareReport, prepare
from dataset.prepare.shards import Shard, parse_shard, shard_of_environment
from pipeline.cli import script
from pipeline.settings import prepare_arguments

log = logging.getLogger(__name__)


@script("prepare_data")
def main(cfg: DictConfig) -> None:
    shard = shard_of_environment() if cfg.shard is None else parse_shard(str(cfg.shard))
    report = prepare(**prepare_arguments(cfg.dataset), strict=cfg.strict, shard=shard, prune=cfg.prune)
    if report.missing:
        _log_part(report, shard)
    else:
        _log_whole(report, Path(cfg.dataset.store))


def _log_part(report: PrepareReport, shard: Shard | None) -> None:
    log.info(
        "shard %s is done, %d cases made now; %d cases of other shards are missing: the last one to end writes the"
        " manifest (shard=1/1 prepares whatever is left)",
        shard,
        report.prepared,
        report.missing,
    )


def _log_whole(report: PrepareReport, store: Path) -> None:
    splits = sorted({case.split for case in report.cases})
    counts = ", ".join(f"{sum(c.split == name for c in report.cases)} {name}" for name in splits)
    log.info("%d good cases (%s), %d made now; %s", len(report.cases), counts, report.prepared, store)
    if report.problems:
        log.warning("\n%s", (store / REPORT).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
