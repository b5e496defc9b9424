"""Does decoding a latent to a NIfTI need more memory for a deeper CT? `python -m benchmarks.decode_memory`

Decodes random latents of 302 and of 604 slices with a small random VQ-GAN, each in a process of its own, and writes
them as .nii.gz. The last line is one JSON object: `peak_mb` by depth, what the process held at its worst moment beyond
what it held before, latent excluded; `ratio`, the second over the first; `volume_mb`; and `seconds`.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from common.memory import forget_peak, peak_bytes, resident_bytes
from common.notice import NOTICE
from common.voxel_file import VoxelFile
from dataset.scans.nifti_stream import stream_ct
from pipeline.sampling.ct_sampler import Placement, slabs_of
from vq_gan_3d.codec import FrozenCodec
from vq_gan_3d.quantizers import FiniteScalarQuantizer
from vq_gan_3d.vqgan import VQGAN

DEPTHS = (302, 604)
SIDE = 192
TILE = 19  # latent voxels; both depths divide into tiles of nearly this size
# Freed memory goes back to the system at once: else its peak depends on what the allocator happens to keep.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
AXES = "LPI"  # the head comes first, so that slices are written in the opposite order of decoding


def decode(depth: int, side: int, folder: Path) -> dict[str, float]:
    """Peak memory and seconds of decoding and writing one CT, in this process."""
    torch.manual_seed(0)
    quantizer = FiniteScalarQuantizer([8, 8, 5])
    codec = FrozenCodec(VQGAN(4, 3, quantizer, (1, 1), (0, 0), (1, 1), (0, 0)))
    place = Placement.centred((depth, side, side), (1.0, 1.0, 1.0))
    latent = torch.randn(3, -(-depth // 4), -(-side // 4), -(-side // 4))
    forget_peak()
    before, started = resident_bytes(), time.monotonic()
    with VoxelFile(place.grid.shape, folder) as voxels:
        for first, slab in slabs_of(codec.decode_tiles(latent, TILE), place.grid.shape, (-1000, 1000)):
            voxels.write(first, slab)
        stream_ct(folder / "ct.nii.gz", voxels.read, place.grid.shape, place.affine, AXES, NOTICE)
    return {"peak_mb": (peak_bytes() - before) / 2**20, "seconds": time.monotonic() - started}


def main() -> None:
    settings = dict(setting.split("=", 1) for setting in sys.argv[1:])
    side = int(settings.get("side", SIDE))
    with tempfile.TemporaryDirectory() as folder:
        if "depth" in settings:
            print(json.dumps(decode(int(settings["depth"]), side, Path(folder))))
            return
    runs = {}
    for depth in DEPTHS:
        words = [sys.executable, "-m", "benchmarks.decode_memory", f"depth={depth}", f"side={side}"]
        done = subprocess.run(words, env=os.environ | ALLOCATOR, capture_output=True, text=True, check=True)
        runs[depth] = json.loads(done.stdout)
    result = {
        "peak_mb": {depth: round(run["peak_mb"], 1) for depth, run in runs.items()},
        "ratio": round(runs[DEPTHS[1]]["peak_mb"] / runs[DEPTHS[0]]["peak_mb"], 3),
        "volume_mb": {depth: round(2 * depth * side**2 / 2**20, 1) for depth in DEPTHS},
        "seconds": {depth: round(run["seconds"], 1) for depth, run in runs.items()},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
