"""Does decoding a latent to a NIfTI need more memory for a deeper CT? `python -m benchmarks.decode_memory`

Decodes random latents of 302 and of 604 slices with a small random VQ-GAN, each in a process of its own, and writes
them as .nii.gz. The last line is one JSON object: `peak_mb` by depth, what the process held at its worst moment beyond
what it held before, latent excluded; `ratio`, the second over the first; `volume_mb`; and `seconds`. Options:
`side`, and `depth` to decode one CT of so many slices in this process.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.command import benchmark
from common.memory import forget_peak, peak_bytes, resident_bytes
from common.notice import NOTICE
from common.voxel_file import VoxelFile
from dataset.scans.nifti_stream import stream_ct
from pipeline.sampling.ct_sampler import Placement
from pipeline.sampling.slabs import hu_tiles, slabs_of
from vq_gan_3d.codec import FrozenCodec
from vq_gan_3d.quantizers import FiniteScalarQuantizer
from vq_gan_3d.vqgan import VQGAN

DEPTHS = (302, 604)
TILE = 19  # latent voxels; both depths divide into tiles of nearly this size
# Freed memory goes back to the system at once: else its peak depends on what the allocator happens to keep.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
AXES = "LPI"  # the head comes first, so that slices are written in the opposite order of decoding


def decode(depth: int, side: int) -> dict[str, float]:
    """Peak memory and seconds of decoding and writing one CT, in this process."""
    torch.manual_seed(0)
    codec = FrozenCodec(VQGAN(4, 3, FiniteScalarQuantizer([8, 8, 5]), (1, 1), (0, 0), (1, 1), (0, 0)))
    place = Placement.centred((depth, side, side), (1.0, 1.0, 1.0))
    latent = torch.randn(3, -(-depth // 4), -(-side // 4), -(-side // 4))
    forget_peak()
    before, started = resident_bytes(), time.monotonic()
    with TemporaryDirectory() as folder, VoxelFile(place.grid.shape, Path(folder)) as voxels:
        for first, slab in slabs_of(hu_tiles(codec.decode_tiles(latent, TILE), (-1000, 1000)), place.grid.shape):
            voxels.write(first, slab)
        stream_ct(Path(folder) / "ct.nii.gz", voxels.read, place.grid.shape, place.affine, AXES, NOTICE)
        return {"peak_mb": (peak_bytes() - before) / 2**20, "seconds": time.monotonic() - started}


@benchmark()
def main(side: int = 192, depth: int = 0) -> dict[str, Any]:
    if depth:
        return decode(depth, side)
    runs = {}
    for depth in DEPTHS:
        words = [sys.executable, "-m", "benchmarks.decode_memory", f"depth={depth}", f"side={side}"]
        done = subprocess.run(words, env=os.environ | ALLOCATOR, stdout=subprocess.PIPE, check=True)
        runs[depth] = json.loads(done.stdout)
    peaks = {depth: run["peak_mb"] for depth, run in runs.items()}
    return {
        "peak_mb": {depth: round(peak, 1) for depth, peak in peaks.items()},
        "ratio": round(peaks[DEPTHS[1]] / peaks[DEPTHS[0]], 3),
        "volume_mb": {depth: round(2 * depth * side**2 / 2**20, 1) for depth in DEPTHS},
        "seconds": {depth: round(run["seconds"], 1) for depth, run in runs.items()},
    }


if __name__ == "__main__":
    main()
