"""Real chests, changed into other bodies, each with an X-ray of its own: what `benchmarks.real_patients` trains on."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from monai.transforms import Rand3DElastic

from benchmarks.film_pairs import CT_MM, chest_pair, thinned
from dataset.scans.drr import frontal_drr, to_intensity
from dataset.scans.volume_io import Volume, read_ct, write_ct
from dataset.scans.xray_io import write_xray

BEND_MM = 2.5  # of the scans that are bent, and that films are projected from
PIXELS = 256


def name_of(scan: Path) -> str:
    """Of a scan's patient: its file's name, or its folder's where the file is only called ct."""
    stem = scan.name.partition(".")[0]
    return scan.parent.name if stem == "ct" else stem


def bent(volume: Volume, seed: int) -> Volume:
    """Another body of the same anatomy: scaled by up to 10 %, turned by up to 4 degrees, bent by some millimetres."""
    turn, scale = (np.radians(4),) * 3, (0.1,) * 3
    change = Rand3DElastic((8, 12), (100, 350), 1.0, turn, scale_range=scale, padding_mode="border")
    change.set_random_state(seed)
    hu = np.asarray(change(torch.from_numpy(volume.hu[None].astype(np.float32))))[0]
    return replace(volume, hu=np.round(hu).astype(np.int16))


def write_pair(job: tuple[Path, int], folder: Path, block: str) -> None:
    """Variant i of a scan, and its X-ray; variant 0 is the scan as it is."""
    scan, i = job
    stem = folder / f"{name_of(scan)}_{i:02d}"
    if stem.with_suffix(".png").is_file():
        return
    volume, rng = thinned(read_ct(scan), BEND_MM), np.random.default_rng([i, *name_of(scan).encode()])
    if i:
        volume = bent(volume, int(rng.integers(2**31)))
    if block == "film":
        pair = chest_pair(stem.name, volume, rng)
        hu, spacing, film, camera = pair.hu, pair.spacing, pair.film, pair.declared
    else:
        small = thinned(volume, CT_MM)
        hu, spacing = small.hu, small.spacing
        integrals, camera = frontal_drr(hu, spacing, PIXELS)
        film = to_intensity(integrals)
    affine = np.diag([-spacing[2], -spacing[1], spacing[0], 1.0])
    write_ct(stem.with_suffix(".nii.gz"), hu, affine, "LPS", "a real chest, changed")
    write_xray(stem.with_suffix(".png"), film, camera, synthetic=block == "clean")
