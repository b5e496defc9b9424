"""Draw CTs from chest X-rays: `python sample_ddpm_patches.py xray=chest.png output=ct.nii.gz ckpt=...`."""

import logging
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from omegaconf import DictConfig, ListConfig
from tqdm import tqdm

from common.errors import BadFileError, UserError
from common.voxel_file import box_of
from ddpm.generator import SamplingPlan, Team
from ddpm.plan import check_whole
from pipeline.cli import script
from pipeline.devices import fast_float32
from pipeline.ranks import joined, wait_for_all
from pipeline.sampling.ct_sampler import CTSampler, Placement, plan_of
from pipeline.sampling.drawing import Drawing
from pipeline.sampling.estimate import estimate
from pipeline.sampling.files import all_paths, jobs, prepare_folder, stem_of, write_sample

log = logging.getLogger(__name__)


def sample(
    xray: str | Path,
    ckpt: str | Path | CTSampler,
    output: str | Path | None = None,
    *,
    shape: Sequence[int] | None = None,
    spacing: Sequence[float] | float | None = None,
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
    seed: int = 42,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one CT from one X-ray, for notebooks.

    Args:
        xray: PNG, JPEG or DICOM image, frontal, head up.
        ckpt: stage-2 checkpoint, or a loaded `CTSampler` to draw several.
        output: NIfTI to write, with a JSON and a preview PNG beside it; None writes nothing.
        shape, spacing: voxels and mm (or one number of mm) in (d, h, w) order; the training volumes' median if None.
        reference: a CT whose grid, axes and position to take instead.
        steps, sampler, mode, guidance, guidance_interval, window_batch, latent_device, bf16: see
            `ddpm.plan.SamplingPlan`.
        xray_fov_mm: side of the square X-ray in the patient, where the file does not tell; None: as in training.
        seed: the same seed draws the same CT.

    Returns:
        int16 HU (D, H, W), axes foot→head, front→back, patient right→left, and its affine (4, 4), voxel (w, h, d) →
        RAS mm.

    Raises:
        ValueError: settings that cannot be, a file that is no X-ray. OSError: an output that cannot be written.
    """
    plan = SamplingPlan(steps, sampler, mode, guidance, window_batch, bf16, guidance_interval, latent_device)
    model = ckpt if isinstance(ckpt, CTSampler) else CTSampler(ckpt)
    place = model.placement(shape, spacing, reference)
    if output is not None:
        stem_of(Path(output))  # refuses a name before the drawing
        prepare_folder(Path(output).parent, place.grid.shape, 1)
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
    check_whole("num_samples", cfg.num_samples)
    xrays = cfg.xray if isinstance(cfg.xray, ListConfig) else [cfg.xray]
    pairs = jobs([Path(xray) for xray in xrays], Path(cfg.output))
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
    with joined(model.generator.device) as everyone:
        team = Team() if apart else everyone
        drawing = Drawing(model, place, plan, cfg.seed, cfg.num_samples, cfg.xray_fov_mm, cfg.decode_tile, team)
        unreadable = _draw_all(drawing, pairs[everyone.rank :: everyone.size] if apart else pairs)
        if unreadable and everyone.rank > 0:
            log.error("%s", unreadable)  # the first process reports only what it saw itself
        wait_for_all(everyone)
    if unreadable:
        raise UserError(unreadable)


def _plan(cfg: DictConfig) -> SamplingPlan:
    if cfg.distribute not in ("xrays", "windows"):
        raise UserError(f"distribute must be xrays or windows, got {cfg.distribute!r}")
    check_whole("decode_tile", cfg.decode_tile, " (latent voxels)")
    return plan_of(cfg)


def _draw_all(drawing: Drawing, pairs: Sequence[tuple[Path, Path]]) -> str:
    """Draw all CTs that can be; what is wrong with the other X-rays, one line each."""
    unreadable = []
    for image, target in pairs:
        try:
            drawing.draw(image, target)
        except BadFileError as error:  # the other X-rays are drawn all the same
            unreadable.append(str(error))
    return "\n".join(dict.fromkeys(unreadable))


def _print_estimate(model: CTSampler, place: Placement, plan: SamplingPlan, image: Path, cfg: DictConfig) -> None:
    xray = model.load_xray(image, cfg.xray_fov_mm)
    settled = model.generator.settle(plan, xray, place.grid)
    for line in estimate(model, xray, place, settled, cfg.decode_tile).lines():
        log.info(line)


if __name__ == "__main__":
    main()
