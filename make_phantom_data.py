"""Make a paired data set of synthetic thorax CTs and their X-rays, to try everything without patients."""

import logging

from omegaconf import DictConfig

from dataset.phantom.data_set import make_phantom_data
from pipeline.cli import script
from pipeline.settings import plain

log = logging.getLogger(__name__)


@script("make_phantom_data")
def main(cfg: DictConfig) -> None:
    table = make_phantom_data(
        cfg.dataset.root, seed=cfg.seed, num_workers=cfg.dataset.prepare_workers, **plain(cfg.dataset.phantom)
    )
    log.info("phantom pairs: %s", table)


if __name__ == "__main__":
    main()
