"""Draw CTs from chest X-rays: `python sample_ddpm_patches.py xray=chest.png output=ct.nii.gz ckpt=...`."""

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, ListConfig

from common.collectives import Team
from common.errors import BadFileError, UserError
from ddpm.plan import SamplingPlan
from pipeline.cli import script
from pipeline.devices import fast_float32
from pipeline.ranks import joined
from pipeline.sampling.call import sample
from pipeline.sampling.ct_sampler import CTSampler, Placement, plan_of
from pipeline.sampling.drawing import Drawing
from pipeline.sampling.estimate import estimate
from pipeline.sampling.files import all_paths, jobs, prepare_folder
from pipeline.sampling.views import check_views, given_views

__all__ = ["main", "sample"]  # the command, and the same as a Python call

log = logging.getLogger(__name__)


@script("sample_ddpm")
def main(cfg: DictConfig) -> None:
    fast_float32()
    plan = plan_of(cfg)
    xrays = cfg.xray if isinstance(cfg.xray, ListConfig) else [cfg.xray]
    views, reference = given_views(cfg.lateral, cfg.views), cfg.reference and Path(cfg.reference)
    pairs = jobs([Path(xray) for xray in xrays], Path(cfg.output), cfg.num_samples, views, reference)
    check_views(pairs, views)
    model = CTSampler(cfg.ckpt, cfg.vqgan_ckpt, cfg.averaged, cfg.device, cfg.xray_weights)
    place = model.placement(cfg.shape, cfg.spacing, cfg.reference)
    if cfg.dry_run:
        _print_estimate(model, place, plan, pairs[0][0], cfg)
        return
    missing = Counter(
        path.parent for _, target in pairs for path in all_paths(target, cfg.num_samples) if not path.exists()
    )
    for folder in {target.parent for _, target in pairs}:
        prepare_folder(folder, place.grid.shape, missing[folder])
    apart = cfg.distribute == "xrays"
    with joined(model.generator.device, model.hashes) as everyone:
        team = Team() if apart else everyone
        drawing = Drawing(model, place, plan, cfg.seed, cfg.num_samples, cfg.xray_fov_mm, cfg.decode_tile, team, views)
        unreadable = _draw_all(drawing, pairs[everyone.rank :: everyone.size] if apart else pairs)
        if unreadable and everyone.rank > 0:
            log.error("%s", unreadable)  # the first process reports only what it saw itself
        everyone.wait()
    if unreadable:
        raise UserError(unreadable)


def _draw_all(drawing: Drawing, pairs: Sequence[tuple[Path, Path]]) -> str:
    """Draw all CTs that can be; what is wrong with the other X-rays, one line each."""
    unreadable = []
    for image, target in pairs:
        try:
            drawing.draw(image, target)
        except BadFileError as error:  # the other X-rays are drawn all the same
            unreadable.append(str(error))
        except OSError as error:  # likewise, where it is this file that cannot be read
            if error.filename is None or Path(error.filename) != image:
                raise
            unreadable.append(f"{error.strerror}: {image}")
    return "\n".join(dict.fromkeys(unreadable))


def _print_estimate(model: CTSampler, place: Placement, plan: SamplingPlan, image: Path, cfg: DictConfig) -> None:
    xray = model.load_xray(image, cfg.xray_fov_mm)
    settled = model.generator.settle(plan, xray, place.grid)
    for line in estimate(model, xray, place, settled, cfg.decode_tile).lines():
        log.info(line)


if __name__ == "__main__":
    main()
