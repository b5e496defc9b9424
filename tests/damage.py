"""Healthy tiny patients, and many ways to damage their files. A damage is a function of (patient, random stream)."""

import gzip
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
from PIL import Image

from tests.dicom_files import dataset, write_series

SHAPE = (20, 28, 24)  # D, H, W
AFFINE = np.diag([-6.0, -5.0, 7.0, 1.0])  # of an LPS array: the canonical frame
DIM, TYPE, BITS, PIXDIM, OFFSET, SLOPE, INTER, CODES, QUATERN, SROW, MAGIC = (
    40, 70, 72, 76, 108, 112, 116, 252, 256, 280, 344,
)  # fmt: skip


@dataclass(frozen=True)
class Patient:
    """Files of a patient, who has a seed of their own: no two are alike."""

    folder: Path
    seed: int
    ct_name: str
    xray_name: str

    @property
    def ct(self) -> Path:
        return self.folder / self.ct_name

    @property
    def xray(self) -> Path:
        return self.folder / self.xray_name

    @property
    def slices(self) -> list[Path]:
        """DICOM files, ordered by position."""
        return sorted(self.ct.iterdir(), key=lambda path: float(pydicom.dcmread(path).ImagePositionPatient[2]))

    def hu(self) -> np.ndarray:
        """int16 (D, H, W): a body in air, the lower part wider."""
        d, h, w = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
        back, sides, hips = np.random.default_rng((self.seed, 1)).uniform((0.6, 0.75, 0.0), (0.9, 0.95, 0.5))
        body = (h / back) ** 2 + (w / sides) ** 2 < 0.9 - hips * d
        up, high, deep, wide = np.random.default_rng((self.seed, 0)).uniform((-0.3, 0.5, 0.4, -1), (0.3, 1, 1, 1))
        lungs = (h / 0.6 / deep) ** 2 + ((np.abs(w - wide / 5) - 0.4) / 0.25) ** 2 + ((d - up) / high) ** 2 < 1
        for up, front, side in np.random.default_rng((self.seed, 2)).uniform(-0.8, 0.8, (8, 3)):  # no two are alike
            lungs ^= body & ((d - up) ** 2 + (h - front) ** 2 + (w - side) ** 2 < 0.12)
        noise = np.random.default_rng(self.seed).normal(0, 12, SHAPE)
        return np.rint(np.where(lungs, -850, np.where(body, 40 + 60 * d, -1000)) + noise).astype(np.int16)

    def film(self) -> np.ndarray:
        """uint16 (96, 80)."""
        down, across = np.meshgrid(np.linspace(-1, 1, 96), np.linspace(-1, 1, 80), indexing="ij")
        noise = np.random.default_rng(self.seed).uniform(0, 5000, (96, 80))
        waves = np.random.default_rng((self.seed, 0)).uniform(2, 12, 4)
        ribs = np.sin(waves[0] * down + waves[1] * across) + np.sin(waves[2] * across - waves[3] * down)
        return (20000 * (2 - down**2 - across**2) + 4000 * (ribs + 2) + noise).astype(np.uint16)


def write_nifti_patient(root: Path, name: str, seed: int) -> Patient:
    patient = Patient(root / name, seed, f"{name}.nii.gz", f"{name}_pa_drr.png")
    patient.folder.mkdir(parents=True)
    save(patient, patient.hu())
    Image.fromarray(patient.film()).save(patient.xray)
    return patient


def write_dicom_patient(root: Path, name: str, seed: int) -> Patient:
    patient = Patient(root / name, seed, "series", f"{name}_pa_drr.png")
    patient.folder.mkdir(parents=True)
    write_series(patient.ct, patient.hu() + 1024, series=f"1.2.{seed}")
    Image.fromarray(patient.film()).save(patient.xray)
    return patient


def save(patient: Patient, hu: np.ndarray, dtype: type | None = None) -> None:
    array = np.moveaxis(hu, (0, 1, 2), (2, 1, 0))
    nib.save(nib.Nifti1Image(array, AFFINE, dtype=dtype), patient.ct)


# --- any file ---


def cut(where: Callable[[int], int], what: str, patient: Patient, rng: np.random.Generator) -> None:
    path = getattr(patient, what)
    content = path.read_bytes()
    path.write_bytes(content[: where(len(content))])


def flip(where: Callable[[int], tuple[int, int]], what: str, patient: Patient, rng: np.random.Generator) -> None:
    """Change one byte in the part (first, one past last) of the file."""
    path = getattr(patient, what)
    path = path if path.is_file() else sorted(path.iterdir())[int(rng.integers(5))]
    content = bytearray(path.read_bytes())
    position = int(rng.integers(*where(len(content))))
    content[position] ^= int(rng.integers(1, 256))
    path.write_bytes(content)


def replace(content: bytes, what: str, patient: Patient, rng: np.random.Generator) -> None:
    getattr(patient, what).write_bytes(content)


def directory(what: str, patient: Patient, rng: np.random.Generator) -> None:
    getattr(patient, what).unlink()
    getattr(patient, what).mkdir()


def link(target: str, what: str, patient: Patient, rng: np.random.Generator) -> None:
    """A link to `target`, {name} standing for its own name."""
    path = getattr(patient, what)
    path.unlink()
    path.symlink_to(target.format(name=path.name))


def link_ring(what: str, patient: Patient, rng: np.random.Generator) -> None:
    path = getattr(patient, what)
    path.unlink()
    path.symlink_to("other")
    (patient.folder / "other").symlink_to(path.name)


def fifo(what: str, patient: Patient, rng: np.random.Generator) -> None:
    getattr(patient, what).unlink()
    os.mkfifo(getattr(patient, what))


def forbid(what: str, patient: Patient, rng: np.random.Generator) -> None:
    getattr(patient, what).chmod(0)


# --- NIfTI ---


def header(
    offset: int,
    code: str,
    values: tuple[float, ...],
    codes: tuple[int, int],
    patient: Patient,
    rng: np.random.Generator,
) -> None:
    """Write numbers over a place of the NIfTI header, whose (qform, sform) codes become `codes`."""
    raw = bytearray(gzip.decompress(patient.ct.read_bytes()))
    raw[CODES : CODES + 4] = struct.pack("<2h", *codes)
    packed = struct.pack(f"<{len(values)}{code}", *values)
    raw[offset : offset + len(packed)] = packed
    patient.ct.write_bytes(gzip.compress(bytes(raw)))


def append(extra: bytes, packed: bool, patient: Patient, rng: np.random.Generator) -> None:
    with patient.ct.open("ab") as file:
        file.write(gzip.compress(extra) if packed else extra)


def voxel(value: float, patient: Patient, rng: np.random.Generator) -> None:
    hu = patient.hu().astype(np.float32)
    hu[tuple(rng.integers(SHAPE))] = value
    save(patient, hu)


def constant(patient: Patient, rng: np.random.Generator) -> None:
    save(patient, np.full(SHAPE, 40, np.int16))


def complex_numbers(patient: Patient, rng: np.random.Generator) -> None:
    save(patient, patient.hu().astype(np.complex64))


def two_volumes(patient: Patient, rng: np.random.Generator) -> None:
    save(patient, np.stack([patient.hu(), patient.hu()], axis=-1))


def swap_slices(first: int, second: int, patient: Patient, rng: np.random.Generator) -> None:
    hu = patient.hu()
    hu[[first, second]] = hu[[second, first]]
    save(patient, hu)


def blank_slice(index: int, patient: Patient, rng: np.random.Generator) -> None:
    hu = patient.hu()
    hu[index] = -1024
    save(patient, hu)


def stored_as_8_bit(patient: Patient, rng: np.random.Generator) -> None:
    grey = np.clip((patient.hu() + 1000) / 8, 0, 255).astype(np.uint8)
    save(patient, grey, np.uint8)


def unpacked(patient: Patient, rng: np.random.Generator) -> None:
    patient.ct.write_bytes(gzip.decompress(patient.ct.read_bytes()))


# --- X-rays ---


def png_size(width: int, height: int, patient: Patient, rng: np.random.Generator) -> None:
    """Another size in the header, with a right checksum."""
    content = bytearray(patient.xray.read_bytes())
    content[16:24] = struct.pack(">II", width, height)
    content[29:33] = struct.pack(">I", zlib.crc32(bytes(content[12:29])))
    patient.xray.write_bytes(content)


def picture(values: Callable[[np.ndarray], np.ndarray], patient: Patient, rng: np.random.Generator) -> None:
    Image.fromarray(values(patient.film())).save(patient.xray)


def sidecar(content: str, patient: Patient, rng: np.random.Generator) -> None:
    patient.xray.with_suffix(".json").write_text(content)


def jpeg(keep: float, patient: Patient, rng: np.random.Generator) -> None:
    Image.fromarray((patient.film() >> 8).astype(np.uint8)).save(patient.xray, "JPEG")
    cut(lambda size: int(keep * size), "xray", patient, rng)


def film_dicom(keep: float, changes: dict[str, object], patient: Patient, rng: np.random.Generator) -> None:
    """A radiograph under the name of the PNG: readers go by content."""
    item = dataset(patient.film() // 2, **{"Modality": "DX"} | changes)
    item.save_as(patient.xray, enforce_file_format=True)
    cut(lambda size: int(keep * size), "xray", patient, rng)
