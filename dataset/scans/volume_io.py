"""CT volumes on disk <-> int16 HU arrays in the canonical frame (dataset/scans/orientation.py)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import BadFileError
from common.geometry import triple
from common.voxel_file import box_of
from dataset.scans.dicom_io import dicom_geometry, read_dicom_ct
from dataset.scans.formats import DICOM, PAIR, format_of, pair_of
from dataset.scans.hu import to_hu
from dataset.scans.itk_io import META, NRRD, itk_geometry, read_itk
from dataset.scans.lost_affine import RULE, is_lost, told_affine
from dataset.scans.nifti_io import nifti_geometry, read_nifti
from dataset.scans.nifti_stream import stream_ct
from dataset.scans.orientation import CANONICAL_AXES, check_affine, spacing_of, to_canonical
from dataset.scans.reading import PLAIN, Note, Reading
from dataset.scans.upright import UPRIGHT_RULE, tilt_of, to_upright, upright_grid


@dataclass(frozen=True)
class Volume:
    """A CT in the canonical frame.

    hu: int16 (D, H, W), foot->head, front->back, patient right->left.
    affine: (4, 4), voxel (w, h, d) -> RAS mm.
    source_axes: where the axes of the file ran, such as "LAS"; source_affine: the file's own affine, or
        what was told for a lost one.
    notes: what reading it had to decide.
    """

    hu: np.ndarray
    affine: np.ndarray
    source_axes: str
    source_affine: np.ndarray
    notes: tuple[Note, ...] = ()

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size (d, h, w) in mm."""
        return spacing_of(self.affine)


def read_ct(path: Path | str, reading: Reading = PLAIN) -> Volume:
    """Read a NIfTI, MetaImage or NRRD file, an enhanced DICOM file, or a folder of DICOM slices; content decides which.

    Raises:
        OSError, MemoryError: no such path, or the machine cannot read it now.
        BadFileError: (a ValueError) damaged, no CT volume, no usable affine, or NaN; names file and remedy.
    """
    path = Path(path)
    kind = format_of(path)
    if kind == DICOM:
        array, affine, notes = read_dicom_ct(path, reading)
    elif kind in (META, NRRD):
        array, affine, notes = read_itk(path, kind, reading)
    else:
        array, affine, notes = read_nifti(pair_of(path) if kind == PAIR else path, reading)
    if reading.axes is not None and is_lost(affine):
        affine = told_affine(reading.axes)
        notes += (Note(RULE, f"none; axes and sizes are {reading.axes}, as told", "Compare the report's picture."),)
    check_affine(affine, array.shape, path, reading.tilt)
    upright, (degrees, off_mm) = affine, tilt_of(affine, array.shape)
    if off_mm:
        array, upright = to_upright(array, affine)
        found = f"a tilt of {degrees:.1f} degrees; the scan was set upright"
        notes += (Note(UPRIGHT_RULE, found, "Prefer a reconstruction without tilt."),)
    hu, canonical, axes = to_canonical(array, upright)
    return Volume(np.ascontiguousarray(hu), canonical, axes, affine, notes)


def read_given_ct(path: Path | str) -> Volume:
    """As `read_ct`, for commands without settings of how a CT is read: what they are told to do names none."""
    try:
        return read_ct(path)
    except BadFileError as error:
        if error.elsewhere is None:
            raise
        raise BadFileError(error.path, error.rule, error.found, error.elsewhere) from error


def ct_spacing(path: Path, reading: Reading = PLAIN) -> tuple[float, float, float]:
    """Voxel size (d, h, w) in mm of what `read_ct` gives, as `ct_outline`."""
    return ct_outline(path, reading)[1]


def ct_outline(path: Path, reading: Reading = PLAIN) -> tuple[tuple[int, ...], tuple[float, float, float]]:
    """Shape and voxel size (d, h, w), in mm, of what `read_ct` gives, without reading a voxel. What damaged files raise
    is an open list.
    """
    kind = format_of(path)
    shape: tuple[int, ...]
    if kind == DICOM:
        shape, affine = dicom_geometry(path, reading)
    elif kind in (META, NRRD):
        shape, affine = itk_geometry(path, kind)
    else:
        shape, affine = nifti_geometry(pair_of(path) if kind == PAIR else path)
    if reading.axes is not None and is_lost(affine):
        affine = told_affine(reading.axes)
    if tilt_of(affine, shape)[1]:
        shape, affine = upright_grid(affine, shape)
    nothing = np.broadcast_to(np.int16(0), shape)  # takes no memory
    hu, canonical, _ = to_canonical(nothing, affine)
    return hu.shape, spacing_of(canonical)


def write_ct(
    path: Path | str, hu: np.ndarray, affine: np.ndarray, axes: str = CANONICAL_AXES, description: str = ""
) -> None:
    """Write HU (D, H, W) of the canonical frame, in memory, as `stream_ct` does. Numbers are rounded.

    The same voxel keeps its world position whatever `axes` says. Raises ValueError besides if a value is no int16.
    """
    if hu.ndim != 3:
        raise ValueError(f"a CT to write must have axes (D, H, W), got shape {hu.shape} for {path}")
    stream_ct(Path(path), box_of(to_hu(hu, Path(path))), triple(hu.shape), affine, axes, description)
