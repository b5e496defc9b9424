"""Sampling as one Python call."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError
from dataset.scans.volume_io import read_ct
from ddpm.plan import SamplingPlan
from pipeline.devices import computing_as_commands
from pipeline.sampling.ct_sampler import CTSampler
from pipeline.sampling.decoding import AUTO
from pipeline.sampling.drawing import Drawing
from pipeline.sampling.files import jobs, prepare_folder, sample_paths
from pipeline.sampling.views import given_views


@computing_as_commands()
def sample(
    xray: str | Path,
    ckpt: str | Path | CTSampler,
    output: str | Path | None = None,
    *,
    lateral: str | Path | None = None,
    views: Mapping[str, str | Path] | None = None,
    shape: Sequence[int] | None = None,
    spacing: Sequence[float] | float | None = None,
    reference: str | Path | None = None,
    seed: int = 42,
    num_samples: int = 1,
    xray_fov_mm: float | None = None,
    decode_tile: int | str = AUTO,
    vqgan_ckpt: str | Path | None = None,
    xray_weights: str | Path | None = None,
    averaged: bool = True,
    device: str = "auto",
    **plan: Any,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw CTs from one X-ray, for notebooks: what `sample_ddpm_patches.py` draws with the same settings.

    Args:
        xray: PNG, JPEG, TIFF or DICOM image, frontal, head up.
        ckpt: stage-2 checkpoint or export, or a loaded `CTSampler` to draw several times.
        output: as the command's: NIfTI or folder to write, previews and JSON beside it; what is finished there is read.
            None writes nothing.
        lateral, views: the patient's lateral X-ray, and further ones by their names, for checkpoints that take them.
        shape, spacing: voxels and mm (or one number of mm) in (d, h, w) order; the training volumes' median if None.
        reference: a CT whose grid, axes and position to take instead.
        seed, num_samples: as many CTs, of seeds seed, seed + 1, ...; the same seed draws the same CT.
        xray_fov_mm: side of the square X-ray in the patient, where the file does not tell; None: as in training.
        decode_tile: latent voxels per side of the tiles that are decoded, or "auto".
        vqgan_ckpt, xray_weights, averaged, device: see `CTSampler`; not beside a loaded one.
        plan: steps, sampler, mode, guidance and the rest of `ddpm.plan.SamplingPlan`.

    Returns:
        int16 HU (D, H, W), or (num_samples, D, H, W) of several, axes foot→head, front→back, patient right→left; and
        the affine (4, 4), voxel (w, h, d) → RAS mm.

    Raises:
        ValueError: settings that cannot be, a file that is no X-ray. OSError: an output that cannot be written.
    """
    for name, path in (("xray", xray), ("ckpt", ckpt), ("output", output), ("lateral", lateral)):
        if isinstance(path, str) and not path.strip():  # the current folder, to Python
            raise UserError(f"{name} must be text, and not empty, got {path!r}")
    how = SamplingPlan(**plan)
    if not isinstance(ckpt, CTSampler):
        ckpt = CTSampler(ckpt, vqgan_ckpt, averaged, device, xray_weights)
    elif (vqgan_ckpt, averaged, device, xray_weights) != (None, True, "auto", None):
        raise UserError("vqgan_ckpt, averaged, device and xray_weights say how to load; this model is loaded already")
    place = ckpt.placement(shape, spacing, reference)
    shown = given_views(lateral, views)
    drawing = Drawing(ckpt, place, how, seed, num_samples, xray_fov_mm, decode_tile, views=shown)
    if output is None:
        cts = list(drawing.volumes(Path(xray)))
    else:
        given = None if reference is None else Path(reference)
        target = jobs([Path(xray)], Path(output), num_samples, shown, given)[0][1]
        prepare_folder(target.parent, place.grid.shape, num_samples)
        drawing.draw(Path(xray), target)
        cts = [read_ct(path).hu for path in sample_paths(target, num_samples)]
    return cts[0] if num_samples == 1 else np.stack(cts), place.affine
