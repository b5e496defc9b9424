"""MetaImage (.mhd, .mha) and NRRD (.nrrd, .nhdr) -> one CT array with its affine, by SimpleITK.

SimpleITK takes headers at their word: that the voxels are there, all of them and no more, is checked here first.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from isal import isal_zlib

from common.errors import BadFileError, refusing_damage
from dataset.scans.hu import MAX_VOXELS, to_hu
from dataset.scans.lost_affine import RULE as LOST_RULE
from dataset.scans.nifti_io import DAMAGED, MAX_BYTES, UNIT_RULE, unit_notes
from dataset.scans.orientation import check_affine
from dataset.scans.reading import PLAIN, Note, Reading

META, NRRD = "MetaImage", "NRRD"
_IO = {META: "MetaImageIO", NRRD: "NrrdImageIO"}
_HEADER_BYTES = 1 << 16
_PIECE = 1 << 20
_ZLIB_OR_GZIP = 32 + 15
_META_BYTES = {
    "CHAR": 1, "UCHAR": 1, "SHORT": 2, "USHORT": 2, "INT": 4, "UINT": 4, "LONG": 8, "ULONG": 8, "FLOAT": 4, "DOUBLE": 8,
}  # fmt: skip
_NRRD_BYTES = {
    "char": 1, "signed char": 1, "int8": 1, "uchar": 1, "unsigned char": 1, "uint8": 1, "short": 2, "signed short": 2,
    "int16": 2, "ushort": 2, "unsigned short": 2, "uint16": 2, "int": 4, "signed int": 4, "int32": 4, "uint": 4,
    "unsigned int": 4, "uint32": 4, "float": 4, "double": 8,
}  # fmt: skip
_UNITS_MM = {"": 1.0, "?": 1.0, "mm": 1.0, "cm": 10.0, "m": 1000.0, "um": 0.001, "microns": 0.001}
_NRRD_SPACES = {
    f"{x}-{y}-superior" for x, y in (("left", "posterior"), ("right", "anterior"), ("left", "anterior"))
} | {"lps", "ras", "las"}


@dataclass(frozen=True)
class Stored:
    """Where the voxels lie: bytes `start` to the end of `data`, packed or plain; sizes (x, y, z[, 1]).

    at_the_end: what stands between `start` and them is not told.
    sized: the header tells how large they are, in `unit`. slope, intercept: what makes HU of the numbers there.
    SimpleITK looks at none of the three.
    """

    data: Path
    start: int
    packed: bool
    sizes: tuple[int, ...]
    voxel_bytes: int
    at_the_end: bool = False
    sized: bool = True
    unit: str = ""
    slope: float = 1.0
    intercept: float = 0.0


def read_itk(path: Path, kind: str, reading: Reading = PLAIN) -> tuple[np.ndarray, np.ndarray, tuple[Note, ...]]:
    """HU int16 (x, y, z) in file order, the affine to RAS mm, and what there is to tell.

    Raises:
        BadFileError: damaged, no CT volume, no usable affine. OSError, MemoryError: it cannot be read now.
    """
    import SimpleITK  # here: it takes half a second, and most data sets need none of it

    found = stored(path, kind)
    _check_whole(found, path)
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    with refusing_damage(path, f"a {kind} file is whole", DAMAGED):
        image = SimpleITK.ReadImage(str(path), imageIO=_IO[kind])
    affine = _affine(image, found)
    shape = image.GetSize()
    check_affine(affine, shape, path, reading.tilt)
    if image.GetNumberOfComponentsPerPixel() != 1 or any(n != 1 for n in shape[3:]):
        raise BadFileError(path, "a CT is 3D with one number a voxel", f"{shape}", "Export one volume per file.")
    raw = SimpleITK.GetArrayFromImage(image).reshape(shape[2::-1])
    del image
    hu = to_hu(raw.T, path, found.slope, found.intercept + (reading.hu_offset or 0.0))
    return hu, affine, tuple(_notes(found, affine, path))


def _notes(found: Stored, affine: np.ndarray, path: Path) -> Iterator[Note]:
    yield from unit_notes(found.unit, _UNITS_MM[found.unit], affine, path)
    if not found.sized:
        yield Note(LOST_RULE, "no ElementSpacing: 1 mm is taken", "Write it into the header.", doubtful=True)
    if (found.slope, found.intercept) != (1, 0):
        scale = f"numbers that become HU times {found.slope:g}, plus {found.intercept:g}, as its header says"
        yield Note("a file holds HU", scale, "Write it as HU: other tools may not scale it.", doubtful=True)


def itk_geometry(path: Path, kind: str) -> tuple[tuple[int, ...], np.ndarray]:
    """Shape (x, y, z) and affine to RAS mm, without reading a voxel. What a damaged file raises is an open list."""
    import SimpleITK

    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO(_IO[kind])
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return tuple(reader.GetSize()[:3]), _affine(reader, stored(path, kind))


def stored(path: Path, kind: str) -> Stored:
    """What the header says of the voxels. BadFileError if it says too little, or what SimpleITK does not read."""
    with refusing_damage(path, f"a {kind} file has a whole header", DAMAGED):
        return _meta(path) if kind == META else _nrrd(path)


def _affine(image: Any, found: Stored) -> np.ndarray:
    lps = np.eye(4)
    size = len(image.GetSize())
    directions = np.reshape(image.GetDirection(), (size, size))[:3, :3]
    lps[:3, :3], lps[:3, 3] = directions * image.GetSpacing()[:3], image.GetOrigin()[:3]
    mm = _UNITS_MM[found.unit]
    return np.diag([-mm, -mm, mm, 1.0]) @ lps


def _unit(told: str, path: Path) -> str:
    """The unit that a header names, of all axes."""
    (unit, *others) = set(told.replace('"', " ").lower().split()) or {""}
    if others or unit not in _UNITS_MM:
        raise BadFileError(path, UNIT_RULE, told, "Write its positions and sizes in mm.")
    return unit


def _meta(path: Path) -> Stored:
    fields, end = _fields(path, "=", b"ElementDataFile")
    name = fields["elementdatafile"]
    local = name.upper() == "LOCAL"
    if name.upper() == "LIST" or "%" in name:
        raise BadFileError(path, "a MetaImage has one file of voxels", name, "Write it as one .mha or .mhd file.")
    if fields.get("binarydata", "true").lower() != "true":
        raise BadFileError(path, "the voxels of a MetaImage are binary", "text", "Write it as a binary file.")
    skip = int(fields.get("headersize", "0"))
    data = path if local else path.parent / name
    voxel = _META_BYTES[fields["elementtype"].removeprefix("MET_")] * int(fields.get("elementnumberofchannels", "1"))
    packed = fields.get("compresseddata", "false").lower() == "true"
    sizes = tuple(int(n) for n in fields["dimsize"].split())
    return Stored(
        data, end if local else max(skip, 0), packed, sizes, voxel,
        at_the_end=skip == -1,
        sized="elementspacing" in fields or "elementsize" in fields,
        unit=_unit(fields.get("distanceunits", ""), path),
        slope=float(fields.get("elementtointensityfunctionslope", 1)),
        intercept=float(fields.get("elementtointensityfunctionoffset", 0)),
    )  # fmt: skip


def _nrrd(path: Path) -> Stored:
    fields, end = _fields(path, ":", b"")
    space, encoding = fields.get("space", "").lower(), fields["encoding"].lower()
    if space not in _NRRD_SPACES or "space directions" not in fields:
        rule, remedy = "a usable affine tells left from right", "Write it with 'space' and 'space directions'."
        raise BadFileError(path, rule, f"the space {space or 'of no name'!r}", remedy)
    if encoding not in ("raw", "gz", "gzip"):
        raise BadFileError(path, "the voxels of a NRRD file are raw or gzip", encoding, "Write it as one of them.")
    detached = fields.get("data file") or fields.get("datafile")
    if detached is not None and ("%" in detached or detached.upper().startswith("LIST")):
        raise BadFileError(path, "a NRRD file has one file of voxels", detached, "Write it as one .nrrd file.")
    skip = int(fields.get("byte skip") or fields.get("byteskip") or 0)
    data, start = (path, end) if detached is None else (path.parent / detached, 0)
    sizes = tuple(int(n) for n in fields["sizes"].split())
    voxel = _NRRD_BYTES[fields["type"].lower()]
    unit = _unit(fields.get("space units", ""), path)
    return Stored(data, start + max(skip, 0), encoding != "raw", sizes, voxel, at_the_end=skip == -1, unit=unit)


def _fields(path: Path, mark: str, last: bytes) -> tuple[Mapping[str, str], int]:
    """The fields of a header of text, by their names in small letters, and where it ends: after the line that begins
    with `last`, or with nothing; ValueError if that does not come.
    """
    fields: dict[str, str] = {}
    for line, end in _lines(path):
        if not last and not line.strip():
            return fields, end
        name, _, value = line.decode("latin-1").partition(mark)
        fields.setdefault(name.strip().lower(), value.strip())
        if last and line.startswith(last):
            return fields, end
    if "data file" in fields or "datafile" in fields:
        return fields, 0  # a detached header may end with its file
    raise ValueError("no end of the header")


def _lines(path: Path) -> Iterator[tuple[bytes, int]]:
    with path.open("rb") as file:
        start = file.read(_HEADER_BYTES)
    at = 0
    while at < len(start):
        end = start.find(b"\n", at)
        end = len(start) if end < 0 else end + 1
        yield start[at:end].rstrip(b"\r\n"), end
        at = end


def _check_whole(found: Stored, path: Path) -> None:
    """Raise BadFileError if the voxels are not all there, or others besides."""
    if len(found.sizes) < 3 or min(found.sizes[:3]) < 2 or any(n != 1 for n in found.sizes[3:]):
        rule = "a CT is 3D, or 4D with a last axis of 1"
        raise BadFileError(path, rule, f"shape {found.sizes}", "Export one volume per file.")
    voxels = int(np.prod(found.sizes, dtype=object))
    needed = voxels * found.voxel_bytes
    rule = f"a CT has at most {MAX_VOXELS / 1e9:.1f}e9 voxels and {MAX_BYTES / 1e9:.1f} GB, all in the file"
    told = f"a header of {found.sizes} ({needed / 1e9:.3g} GB)"
    if voxels > MAX_VOXELS or needed > MAX_BYTES:
        raise BadFileError(path, rule, told, DAMAGED)
    if not found.data.is_file():
        raise BadFileError(path, "the file of voxels lies beside its header", f"no {found.data.name}", "Copy both.")
    with refusing_damage(path, f"{found.data.name} holds whole voxels", DAMAGED):
        held = _unpacked_bytes(found, needed) if found.packed else found.data.stat().st_size - found.start
    if held < needed or (held > needed and not found.at_the_end):
        raise BadFileError(path, rule, f"{told}, {held / 1e9:.3g} GB in {found.data.name}", DAMAGED)


def _unpacked_bytes(found: Stored, needed: int) -> int:
    """How many bytes are packed there, counted no further than beyond `needed`; an exception if they are damaged."""
    count, rest, reader = 0, b"", isal_zlib.decompressobj(wbits=_ZLIB_OR_GZIP)
    with found.data.open("rb") as file:
        file.seek(found.start)
        while not reader.eof and count <= needed:
            piece = rest or file.read(_PIECE)
            unpacked = reader.decompress(piece, 4 * _PIECE)
            if not piece and not unpacked:
                raise EOFError("it ends too early")
            count, rest = count + len(unpacked), reader.unconsumed_tail
    return count
