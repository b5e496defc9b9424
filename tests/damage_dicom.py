"""Many ways to damage a patient's folder of DICOM slices; see `tests.damage`."""

from collections.abc import Callable

import numpy as np
import pydicom
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless

from tests.damage import Patient
from tests.dicom_files import write_series


def tags(index: int, changes: dict[str, object], patient: Patient, rng: np.random.Generator) -> None:
    """Change tags of slice `index`; None removes one."""
    path = patient.slices[index]
    item = pydicom.dcmread(path)
    for name, value in changes.items():
        if value is None:
            delattr(item, name)
        else:
            setattr(item, name, value)
    item.save_as(path)


def slice_file(index: int, change: Callable[[bytes], bytes], patient: Patient, rng: np.random.Generator) -> None:
    path = patient.slices[index]
    path.write_bytes(change(path.read_bytes()))


def lose_slice(index: int, patient: Patient, rng: np.random.Generator) -> None:
    patient.slices[index].unlink()


def double_slice(where: str, patient: Patient, rng: np.random.Generator) -> None:
    copy, content = patient.ct / where, patient.slices[5].read_bytes()
    copy.parent.mkdir(exist_ok=True)
    copy.write_bytes(content)


def swap_names(patient: Patient, rng: np.random.Generator) -> None:
    first, second = patient.slices[2], patient.slices[9]
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


def swap_tag(name: str, patient: Patient, rng: np.random.Generator) -> None:
    """Slices at both ends of the body get each other's place or voxels."""
    first, second = patient.slices[3], patient.slices[-4]
    a, b = pydicom.dcmread(first), pydicom.dcmread(second)
    kept = getattr(a, name)
    setattr(a, name, getattr(b, name))
    setattr(b, name, kept)
    a.save_as(first)
    b.save_as(second)


def second_series(patient: Patient, rng: np.random.Generator) -> None:
    write_series(patient.ct, patient.hu() + 1024, series="9.9", prefix="b")


def unknown_compression(patient: Patient, rng: np.random.Generator) -> None:
    path = patient.slices[4]
    item = pydicom.dcmread(path)
    item.file_meta.TransferSyntaxUID = JPEG2000Lossless
    item.PixelData = encapsulate([item.PixelData])
    item["PixelData"].VR = "OB"
    item.save_as(path)


def loop_in_folder(patient: Patient, rng: np.random.Generator) -> None:
    (patient.ct / "self").symlink_to(".")
    (patient.ct / "ring").symlink_to("ring")


def no_slices(patient: Patient, rng: np.random.Generator) -> None:
    for path in patient.slices:
        path.unlink()
