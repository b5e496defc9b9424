"""Draw CTs from chest X-rays: `python sample_ddpm_patches.py xray=chest.png output=ct.nii.gz ckpt=...`."""

import logging
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
from omegaconf import DictConfig, ListConfig
from tqdm import tqdm

from cli import script
from dataset.errors import BadFileError
from dataset.voxel_file import box_of
from ddpm.generator import SamplingPlan, Team
from devices import fast_float32
from drawing import Drawing
from estimate import estimate
from ranks import rank_and_world, window_team
from sample_files import jobs, prepare_folder, write_sample
from sampling import CTSampler, Placement, plan_of

log = logging.getLogger(__name__)


def sample(
    xray: str | Path,
    ckpt: str | Path | CTSampler,
    output: str | Path | None = None,
    *,
    shape: Sequence[int] | None = None,
    spacing: Sequence[float] | None = None,
    reference: str | Path | None = None,
    steps: int = 50,
    sampler: str = "ddim",
    mode: str = "auto",
    guidance: float = 1.0,
    guidance_interval: Sequence[float] = (0.0, 1.0),
    window_batch: int | str = "auto",
    latent_device: str = "auto",
    bf16: bool = False,
    xray_fov_mm: float | None = None,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one CT from one X-ray, for notebooks.

    Args:
        xray: PNG, JPEG or DICOM image, frontal, head up.
        ckpt: stage-2 checkpoint, or a loaded `CTSampler` to draw several.
        output: NIfTI to write, with a JSON and a preview PNG beside it; None writes nothing.
        shape, spacing: voxels and mm in (d, h, w) order, the training volumes' median unless given.
        reference: a CT whose grid, axes and position to take instead.
        steps, sampler, mode, guidance, guidance_interval, window_batch, latent_device, bf16: see
            `ddpm.plan.SamplingPlan`.
        xray_fov_mm: side of the square X-ray in the patient, where the file does not tell; None: as in training.
        seed: the same seed draws the same CT.

    Returns:
        int16 HU (D, H, W), axes foot→head, front→back, patient right→left, and its affine (4, 4), voxel (w, h, d) →
        RAS mm.
    """
    model = ckpt if isinstance(ckpt, CTSampler) else CTSampler(ckpt)
    place = Placement.like(reference) if reference else model.default_placement(shape, spacing)
    low, high = guidance_interval
    plan = SamplingPlan(steps, sampler, mode, guidance, window_batch, bf16, (low, high), latent_device)
    seen = model.load_xray(xray, xray_fov_mm)
    plan = model.generator.settle(plan, seen, place.grid)
    total = model.evaluations(place.grid, plan)
    with tqdm(total=total, desc=Path(xray).name, unit="eval", disable=not sys.stderr.isatty()) as bar:
        hu = model.draw(seen, place.grid, plan, seed, bar.update)
    if output is not None:
        drawing = Drawing(model, place, plan, seed)
        facts = drawing.facts(Path(xray), seen) | {"seed": seed}
        write_sample(Path(output), box_of(hu), place, seen.xray[0].numpy(), facts, drawing.run_facts())
    return hu, place.affine


@script("sample_ddpm")
def main(cfg: DictConfig) -> None:
    fast_float32()
    plan = _plan(cfg)
    if cfg.num_samples < 1:
        raise ValueError(f"num_samples must be a whole number from 1, got {cfg.num_samples}")
    xrays = cfg.xray if isinstance(cfg.xray, ListConfig) else [cfg.xray]
    pairs = jobs([Path(xray) for xray in xrays], Path(cfg.output))
    model = CTSampler(cfg.ckpt, cfg.vqgan_ckpt, cfg.averaged, cfg.device)
    place = Placement.like(cfg.reference) if cfg.reference else model.default_placement(cfg.shape, cfg.spacing)
    if cfg.dry_run:
        _print_estimate(model, place, plan, pairs[0][0], cfg)
        return
    for folder in {target.parent for _, target in pairs}:
        prepare_folder(folder, place.grid.shape, 1)
    rank, world = rank_and_world()
    apart = cfg.distribute == "xrays"
    with nullcontext(Team()) if apart else window_team(model.generator.device) as team:
        drawing = Drawing(model, place, plan, cfg.seed, cfg.num_samples, cfg.xray_fov_mm, cfg.decode_tile, team)
        _draw_all(drawing, pairs[rank::world] if apart else pairs)


def _plan(cfg: DictConfig) -> SamplingPlan:
    if cfg.distribute not in ("xrays", "windows"):
        raise ValueError(f"distribute must be xrays or windows, got {cfg.distribute!r}")
    if cfg.decode_tile < 1:
        raise ValueError(f"decode_tile must be a whole number from 1 (latent voxels), got {cfg.decode_tile}")
    return plan_of(cfg)


def _draw_all(drawing: Drawing, pairs: Sequence[tuple[Path, Path]]) -> None:
    unreadable = []
    for image, target in pairs:
        try:
            drawing.draw(image, target)
        except BadFileError as error:  # the other X-rays are drawn all the same
            unreadable.append(str(error))
    if unreadable:
        message = "\n".join(dict.fromkeys(unreadable))
        if rank_and_world()[0] > 0:
            log.error("%s", message)  # the first process reports only what it saw itself
        raise ValueError(message)


def _print_estimate(model: CTSampler, place: Placement, plan: SamplingPlan, image: Path, cfg: DictConfig) -> None:
    xray = model.load_xray(image, cfg.xray_fov_mm)
    settled = model.generator.settle(plan, xray, place.grid)
    for line in estimate(model, xray, place, settled, cfg.decode_tile).lines():
        log.info(line)


if __name__ == "__main__":
    main()
