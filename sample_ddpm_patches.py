"""Draw CTs from chest X-rays: `python sample_ddpm_patches.py xray=chest.png output=ct.nii.gz ckpt=...`."""

import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
from omegaconf import DictConfig
from tqdm import tqdm

import checkpoint
from cli import script
from dataset.errors import BadFileError
from dataset.volume_io import write_ct
from ddpm.generator import SamplingPlan
from evaluation.pictures import preview
from sampling import NOTICE, CTSampler, Placement
from settings import plain
from tensor_hash import tensor_hash

log = logging.getLogger(__name__)
IMAGES = {".png", ".jpg", ".jpeg", ".dcm"}
VOLUMES = (".nii.gz", ".nii")


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
    window_batch: int = 1,
    bf16: bool = False,
    xray_fov_mm: float | None = None,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one CT from one X-ray.

    Args:
        xray: PNG, JPEG or DICOM image, frontal, head up.
        ckpt: stage-2 checkpoint, or a loaded `CTSampler` to draw several.
        output: NIfTI to write, with a JSON and a preview PNG beside it; None writes nothing.
        shape, spacing: voxels and mm in (d, h, w) order, the training volumes' median unless given.
        reference: a CT whose grid, axes and position to take instead.
        steps, sampler, mode, guidance, window_batch, bf16: see `ddpm.generator.SamplingPlan`.
        seed: the same seed draws the same CT.

    Returns:
        int16 HU (D, H, W), axes foot→head, front→back, patient right→left, and its affine (4, 4), voxel (w, h, d) →
        RAS mm.
    """
    model = ckpt if isinstance(ckpt, CTSampler) else CTSampler(ckpt)
    started = time.monotonic()
    place = Placement.like(reference) if reference else model.default_placement(shape, spacing)
    plan = SamplingPlan(steps, sampler, "fused" if mode == "auto" else mode, guidance, window_batch, bf16)
    seen = model.load_xray(xray, xray_fov_mm)
    total = model.evaluations(place.grid, plan)
    with tqdm(total=total, desc=Path(xray).name, unit="eval", disable=not sys.stderr.isatty()) as bar:
        hu = model.draw(seen, place.grid, plan, seed, bar.update)
    if output is not None:
        facts = {
            "generated": True,
            "notice": NOTICE,
            "xray": Path(xray).name,
            "seed": seed,
            "plan": asdict(plan),
            "shape": list(place.grid.shape),
            "spacing": list(place.grid.spacing),
            "denoiser_hash": tensor_hash(model.generator.denoiser),
            "hu_window": list(model.hu_window),
            "versions": checkpoint.versions(),
            "seconds": round(time.monotonic() - started, 2),
        }
        _write(Path(output), hu, place, seen.xray[0].numpy(), facts)
    return hu, place.affine


def _write(output: Path, hu: np.ndarray, place: Placement, xray: np.ndarray, facts: dict[str, Any]) -> None:
    """The JSON and the picture first: a NIfTI that is there is complete in all."""
    stem = _stem(output)
    partial = output.with_name(f"{stem}.json.partial")
    partial.write_text(json.dumps(facts, indent=1))
    os.replace(partial, output.with_name(f"{stem}.json"))
    preview(xray, hu, place.grid.spacing, output.with_name(f"{stem}.png"))
    write_ct(output, hu, place.affine, place.axes, description=NOTICE)


def _stem(output: Path) -> str:
    for suffix in VOLUMES:
        if output.name.endswith(suffix):
            return output.name.removesuffix(suffix)
    raise ValueError(f"output must end in .nii.gz or .nii, got {output}")


def jobs(xray: Path, output: Path) -> list[tuple[Path, Path]]:
    """X-rays and the NIfTIs to write for them."""
    if not xray.exists():
        raise FileNotFoundError(f"no X-ray at {xray}; xray= takes an image or a folder of images")
    if xray.is_dir():
        images = sorted(p for p in xray.iterdir() if p.suffix.lower() in IMAGES)
        if not images:
            raise ValueError(f"no images in {xray}; X-rays end in {', '.join(sorted(IMAGES))}")
        if output.name.endswith(VOLUMES):
            raise ValueError(f"xray={xray} is a folder, so output must be one too, got {output}")
        pairs = [(image, output / f"{image.stem}.nii.gz") for image in images]
    else:
        if not output.name.endswith(VOLUMES):
            if output.suffix and not output.is_dir():
                raise ValueError(f"output must end in .nii.gz or .nii, or be a folder, got {output}")
            output = output / f"{xray.stem}.nii.gz"
        pairs = [(xray, output)]
    for image, target in pairs:
        if target.with_name(f"{_stem(target)}.png").absolute() == image.absolute():
            raise ValueError(f"the preview beside {target} would overwrite {image}; choose another output folder")
    return pairs


@script("sample_ddpm")
def main(cfg: DictConfig) -> None:
    pairs = jobs(Path(cfg.xray), Path(cfg.output))
    for folder in {target.parent for _, target in pairs}:
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()  # a folder that may not be written to shows now, not after hours
    model = CTSampler(cfg.ckpt, cfg.vqgan_ckpt, cfg.averaged, cfg.device)
    settings = {k: plain(cfg[k]) for k in ("shape", "spacing", "reference", "steps", "sampler", "mode", "guidance")}
    unreadable = []
    for image, target in pairs:
        try:
            sample(
                image,
                model,
                target,
                **settings,
                window_batch=cfg.window_batch,
                bf16=cfg.bf16,
                xray_fov_mm=cfg.xray_fov_mm,
                seed=cfg.seed,
            )
        except BadFileError as error:  # the other X-rays of a folder are drawn all the same
            unreadable.append(str(error))
        else:
            log.info("%s → %s", image, target)
    if unreadable:
        raise ValueError("\n".join(dict.fromkeys(unreadable)))


if __name__ == "__main__":
    main()
