"""How fast do random patches of a full CT arrive? `python -m benchmarks.patch_loading [out=FOLDER] [size=604,512,512]`

Makes a CT-like volume, prepares it as a user does, and counts random 128³ crops per second of one process with a
warm cache, raw arrays: nibabel from the .nii.gz (the whole volume for each crop), nibabel with indexed_gzip, MONAI's
PersistentDataset with RandSpatialCropd, the patch store, and cached latents of the same box with 64 and 8 channels.
Then two loader processes feed batches of whole training items (`ct` as float32 in [-1, 1], X-ray, geometry) from
1,000 patients (links to the one volume): `dataset_seconds` is what it takes to open them all, `worker_private_mb` what
a worker holds beyond what it started with. The files lie in a temporary folder, or in `out`, and are removed. Needs
`pip install monai indexed_gzip`. Other settings: `patch=128`, `seconds=3` for each count. The last line is one JSON
object.
"""

import gzip
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import PersistentDataset
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, RandSpatialCropd
from PIL import Image

from benchmarks.ct_like import write_ct_like
from benchmarks.loading import feed, link_patients
from benchmarks.options import own, reports_mistakes
from common.geometry import STEP, Triple, slices, triple
from common.memory import PeakMemory
from dataset.store.latents import LatentCache, LatentSource, LatentWriter
from dataset.store.store import StoredCase, VolumeStore, volume_path

ROOT = Path(__file__).resolve().parents[1]
CHANNELS = (64, 8)
PATIENTS = 1000
SOURCE = LatentSource("codec", "encoder", (-1000.0, 1000.0))
Read = Callable[[Triple], Any]  # the crop that begins at a voxel (d, h, w)


@reports_mistakes("train_ddpm")
def main() -> None:
    options = own(sys.argv[1:], {"out": "", "size": "604,512,512", "patch": "128", "seconds": "3"})
    size = triple([int(n) for n in options["size"].split(",")])
    torch.set_num_threads(1)
    with working_folder(options["out"] or None) as folder:
        result = measure(folder, size, int(options["patch"]), float(options["seconds"]))
    print(json.dumps(result))


@contextmanager
def working_folder(parent: str | None) -> Iterator[Path]:
    if parent is not None:
        Path(parent).mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="patch_loading", dir=parent) as folder:
        yield Path(folder)


def measure(folder: Path, size: Triple, patch: int, seconds: float) -> dict[str, Any]:
    ct = folder / "pairs" / "p0" / "p0.nii.gz"
    ct.parent.mkdir(parents=True)
    hu = write_ct_like(ct, size)
    write_film(ct.with_name("p0_pa_drr.png"), hu)
    result = prepare(ct, folder / "store")
    store = VolumeStore(folder / "store")
    (case,) = store.cases
    readers = volume_readers(ct, store, case, patch, folder)
    rates = {}
    for name, read in readers.items():
        check(name, read, hu, patch)
        rates[name] = crops_per_s(read, size, patch, seconds)
    for channels in CHANNELS:
        cache = write_latents(folder / f"latents{channels}", case, channels)
        read = latent_reader(cache, case, patch)
        rates[f"latents{channels}"] = crops_per_s(read, size, patch, seconds)
    link_patients(store, case, folder / "linked", PATIENTS)
    loader = feed(folder / "linked", patch, seconds)
    return {
        "ratio_store_vs_nifti": round(rates["store"] / rates["nifti"], 1),
        "ratio_latent_vs_nifti": round(rates["latents64"] / rates["nifti"], 1),
        "ratio_store_vs_monai": round(rates["store"] / rates["monai"], 1),
        **loader,
        "gb_per_volume": round(volume_path(store.folder, case.patient_id).stat().st_size / 1e9, 4),
        **result,
        "nifti_gb": round(ct.stat().st_size / 1e9, 4),
        "crops_per_s": {name: round(rate, 2) for name, rate in rates.items()},
    }


def prepare(ct: Path, store: Path) -> dict[str, float]:
    """Prepare the volume with the user's command; seconds and memory, beside the time to decompress the file."""
    started = time.monotonic()
    subprocess.run(["gzip", "-dc", str(ct)], stdout=subprocess.DEVNULL, check=True)
    gunzip_s = time.monotonic() - started
    settings = [f"dataset.root={ct.parents[1]}", f"dataset.store={store}", "dataset.prepare_workers=0"]
    command = [sys.executable, str(ROOT / "prepare_data.py"), *settings]
    memory, started = PeakMemory(), time.monotonic()
    if memory.watch(subprocess.Popen(command, cwd=ROOT, stdout=sys.stderr), every_s=0.02):
        sys.exit("prepare_data.py failed")
    return {
        "prepare_seconds": round(time.monotonic() - started, 2),
        "gunzip_seconds": round(gunzip_s, 2),
        "prepare_peak_gb": round(memory.peak_gb, 2),
    }


def volume_readers(ct: Path, store: VolumeStore, case: StoredCase, patch: int, folder: Path) -> dict[str, Read]:
    """Ways to the crop (patch, patch, patch) of the volume; those on the file give it as (w, h, d)."""
    size = (patch,) * 3
    indexed = nib.Nifti1Image.from_filename(ct)
    monai = monai_dataset(ct, patch, folder / "monai")

    def nifti(start: Triple) -> np.ndarray:
        with gzip.open(ct) as stream:  # as nibabel opens it where indexed_gzip is not installed
            return np.asarray(nib.Nifti1Image.from_stream(stream).dataobj)[slices(start[::-1], size)]

    return {
        "nifti": nifti,
        "indexed_gzip": lambda start: indexed.dataobj[slices(start[::-1], size)],
        "monai": lambda start: monai[0]["ct"][0].numpy(),  # draws its own start
        "store": lambda start: store.read_hu(case, start, size),
    }


def monai_dataset(ct: Path, patch: int, cache: Path) -> PersistentDataset:
    """MONAI's usual way: the decoded volume is kept on disk, the random crop follows."""
    steps = [
        LoadImaged("ct", dtype=np.int16),
        EnsureChannelFirstd("ct"),
        RandSpatialCropd("ct", roi_size=patch, random_size=False),
    ]
    return PersistentDataset([{"ct": str(ct)}], Compose(steps), cache_dir=cache)


def check(name: str, read: Read, hu: np.ndarray, patch: int) -> None:
    """The reader gives what was written. Fills caches and indices, too."""
    start = triple([(n - patch) // 2 // STEP * STEP for n in hu.shape])
    crop, expected = np.asarray(read(start)), hu[slices(start, (patch,) * 3)]
    same = crop.shape == expected.shape if name == "monai" else any(
        np.array_equal(found, expected) for found in (crop, crop.T)
    )  # fmt: skip
    if not same:
        raise RuntimeError(f"{name} reads another crop than was written")


def write_latents(folder: Path, case: StoredCase, channels: int) -> LatentCache:
    """A cache of made-up latents for the case."""
    shape = triple([-(-n // STEP) for n in case.shape])
    stream = torch.Generator().manual_seed(0)
    slabs = (((d, 0, 0), torch.randn(channels, 1, *shape[1:], generator=stream).half()) for d in range(shape[0]))
    writer = LatentWriter(folder, SOURCE, {})
    writer.write(case, shape, slabs)
    writer.write_xray(case, torch.zeros(196, 768), torch.zeros(512))
    writer.finish([case])
    return LatentCache(folder, SOURCE, [case], [shape], {})


def latent_reader(cache: LatentCache, case: StoredCase, patch: int) -> Read:
    size = triple([patch // STEP] * 3)
    return lambda start: cache.read(case, triple([s // STEP for s in start]), size)


def crops_per_s(read: Read, size: Triple, patch: int, seconds: float) -> float:
    """Random crops on multiples of 4 voxels, for about `seconds`, at least two, after one to warm up."""
    rng = np.random.default_rng(0)

    def crop() -> None:
        read(triple([int(rng.integers((n - patch) // STEP + 1)) * STEP for n in size]))

    crop()
    started, count = time.perf_counter(), 0
    while count < 2 or time.perf_counter() - started < seconds:
        crop()
        count += 1
    return count / (time.perf_counter() - started)


def write_film(path: Path, hu: np.ndarray) -> None:
    """A picture of the volume's shadow, 2048 pixels a side as detectors give, for an X-ray."""
    shadow = hu[::-1].mean(axis=1, dtype=np.float32)
    grey = np.clip((shadow - shadow.min()) / np.ptp(shadow), 0, 1) * 65535
    picture = Image.fromarray(grey.astype(np.float32)).resize((2048, 2048))
    Image.fromarray(np.asarray(picture).astype(np.uint16)).save(path)


if __name__ == "__main__":
    main()
