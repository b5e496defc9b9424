"""How fast do random patches of a full CT arrive? `python -m benchmarks.patch_loading [out=FOLDER] [size=604,512,512]`

Makes a CT-like volume, prepares it as a user does, and counts random 128³ crops per second of one process with a
warm cache, raw arrays: nibabel from the .nii.gz (the whole volume for each crop), MONAI's PersistentDataset with
RandSpatialCropd, the patch store, and cached latents of the same box with 64 and 8 channels. Then two loader processes
feed batches of whole training items (`ct` as float32 in [-1, 1], X-ray, geometry) from 1,000 patients (links to the one
volume): `dataset_seconds` is what it takes to open them all, `worker_private_mb` what a worker holds beyond what it
started with. The files lie in a temporary folder, or in `out`, and are removed. Other settings: `patch=128`,
`seconds=3` for each count. The last line is one JSON object.
"""

import gzip
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import PersistentDataset
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, RandSpatialCropd
from scipy.ndimage import gaussian_filter

from benchmarks.command import benchmark
from benchmarks.loading import feed, link_patients
from benchmarks.measure import run, seconds_per_call
from benchmarks.real_data import write_pairs
from common.geometry import STEP, Triple, latent_shape, slices, triple
from dataset.phantom.thorax import make_phantom
from dataset.scans.resample import resample
from dataset.scans.volume_io import write_ct
from dataset.store.latents import LatentCache, LatentSource, LatentWriter
from dataset.store.store import StoredCase, VolumeStore, volume_path
from dataset.store.xray_features import XrayFeatures

CHANNELS = (64, 8)
PATIENTS = 1000
FILM = 2048  # pixels a side, as detectors give
SOURCE = LatentSource("codec", "encoder", (-1000.0, 1000.0))
FIELD_MM = (423.0, 358.0, 358.0)  # d, h, w: 604 slices of 0.7 mm, 512 pixels of 0.7 mm
COARSE = 4  # voxels of the volume per voxel of the phantom
NOISE_HU = 25.0  # of a CT pulmonary angiogram in thin slices
NOISE_PIXELS = 0.6  # its correlation within a slice
OUTSIDE_HU = -1024  # beyond the circle that the scanner reconstructs

Read = Callable[[Triple], Any]  # the crop that begins at a voxel (d, h, w)


@benchmark()
def main(
    out: str = "", size: tuple[int, ...] = (604, 512, 512), patch: int = 128, seconds: float = 3.0
) -> dict[str, Any]:
    torch.set_num_threads(1)
    if out:
        Path(out).mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="patch_loading", dir=out or None) as folder:
        return measure(Path(folder).absolute(), triple(size), patch, seconds)


def measure(folder: Path, size: Triple, patch: int, seconds: float) -> dict[str, Any]:
    ct = folder / "ct.nii.gz"
    hu, affine = ct_like(size)
    write_ct(ct, hu, affine)
    write_pairs(folder / "pairs", {"p0": ct}, FILM)
    prepared = prepare(ct, folder)
    store = VolumeStore(folder / "store")
    (case,) = store.cases
    readers = volume_readers(ct, store, case, patch, folder)
    for name, read in readers.items():
        check(name, read, hu, patch)
    for channels in CHANNELS:
        readers[f"latents{channels}"] = latent_reader(folder / f"latents{channels}", case, channels, patch)
    rates = {name: crops_per_s(read, size, patch, seconds) for name, read in readers.items()}
    link_patients(store, case, folder / "linked", PATIENTS)
    return {
        "ratio_store_vs_nifti": round(rates["store"] / rates["nifti"], 1),
        "ratio_latent_vs_nifti": round(rates["latents64"] / rates["nifti"], 1),
        "ratio_store_vs_monai": round(rates["store"] / rates["monai"], 1),
        **feed(folder / "linked", patch, seconds),
        "gb_per_volume": round(volume_path(store.folder, case.patient_id).stat().st_size / 1e9, 4),
        **prepared,
        "nifti_gb": round(ct.stat().st_size / 1e9, 4),
        "crops_per_s": {name: round(rate, 2) for name, rate in rates.items()},
    }


def ct_like(shape: Triple, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """HU int16 (D, H, W) of a thorax with noise that a lossless codec cannot remove, and its affine."""
    small = [max(8, n // COARSE) for n in shape]
    phantom = make_phantom(seed, small, [mm / n for mm, n in zip(FIELD_MM, small, strict=True)])
    hu, affine = resample(phantom.hu, phantom.affine, [mm / n for mm, n in zip(FIELD_MM, shape, strict=True)])
    y, x = (np.linspace(-1, 1, n) for n in shape[1:])
    inside, rng = y[:, None] ** 2 + x**2 <= 1, np.random.default_rng(seed)
    for plane in hu:
        noise = gaussian_filter(rng.standard_normal(plane.shape, dtype=np.float32), NOISE_PIXELS)
        noisy = np.rint(plane + noise * (NOISE_HU / noise.std()))
        plane[:] = np.where(inside, noisy.clip(-1024, 3071), OUTSIDE_HU)
    return hu, affine


def prepare(ct: Path, folder: Path) -> dict[str, float]:
    """Prepare the volume with the user's command; seconds and memory, beside the time to decompress the file."""
    started = time.monotonic()
    subprocess.run(["gzip", "-dc", str(ct)], stdout=subprocess.DEVNULL, check=True)
    gunzip_s = time.monotonic() - started
    settings = [f"dataset.root={folder}/pairs", f"dataset.store={folder}/store", "dataset.prepare_workers=0"]
    seconds, gb = run("prepare_data.py", settings, every_s=0.02)
    return {"prepare_seconds": seconds, "gunzip_seconds": round(gunzip_s, 2), "prepare_peak_gb": gb}


def volume_readers(ct: Path, store: VolumeStore, case: StoredCase, patch: int, folder: Path) -> dict[str, Read]:
    """Ways to the crop (patch, patch, patch) of the volume; those on the file give it as (w, h, d)."""
    size = (patch,) * 3
    steps = [
        LoadImaged("ct", dtype=np.int16),
        EnsureChannelFirstd("ct"),
        RandSpatialCropd("ct", roi_size=patch, random_size=False),
    ]
    # MONAI's usual way: the decoded volume is kept on disk, the random crop follows
    monai = PersistentDataset([{"ct": str(ct)}], Compose(steps), cache_dir=folder / "monai")

    def nifti(start: Triple) -> np.ndarray:
        with gzip.open(ct) as stream:  # not by name, for which nibabel would take indexed_gzip where it is installed
            return np.asarray(nib.Nifti1Image.from_stream(stream).dataobj)[slices(start[::-1], size)]

    return {
        "nifti": nifti,
        "monai": lambda start: monai[0]["ct"][0].numpy(),  # draws its own start
        "store": lambda start: store.read_hu(case, start, size),
    }


def check(name: str, read: Read, hu: np.ndarray, patch: int) -> None:
    """The reader gives what was written. Fills caches and indices, too."""
    start = triple([(n - patch) // 2 // STEP * STEP for n in hu.shape])
    crop, expected = np.asarray(read(start)), hu[slices(start, (patch,) * 3)]
    if name == "monai":
        same = crop.shape == expected.shape
    else:
        same = any(np.array_equal(found, expected) for found in (crop, crop.T))
    if not same:
        raise RuntimeError(f"{name} reads another crop than was written")


def latent_reader(folder: Path, case: StoredCase, channels: int, patch: int) -> Read:
    """Reads the box of a patch from a cache of made-up latents for the case."""
    shape, size = latent_shape(case.shape), triple([patch // STEP] * 3)
    stream = torch.Generator().manual_seed(0)
    slabs = (((d, 0, 0), torch.randn(channels, 1, *shape[1:], generator=stream).half()) for d in range(shape[0]))
    writer = LatentWriter(folder, SOURCE, {})
    writer.write(case, shape, slabs)
    writer.write_xray(case, XrayFeatures(torch.zeros(196, 768), torch.zeros(512)))
    writer.finish([case])
    cache = LatentCache(folder, SOURCE, [case], [shape], {})
    return lambda start: cache.read(case, triple([s // STEP for s in start]), size)


def crops_per_s(read: Read, size: Triple, patch: int, seconds: float) -> float:
    """Random crops on multiples of 4 voxels, for about `seconds`."""
    rng = np.random.default_rng(0)
    last = [(n - patch) // STEP + 1 for n in size]
    return 1 / seconds_per_call(lambda: read(triple(rng.integers(last) * STEP)), seconds)


if __name__ == "__main__":
    main()
