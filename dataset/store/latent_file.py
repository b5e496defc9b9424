"""A volume's latent as a file, written tile by tile, read box by box; in int8 it takes half the disk."""

import mmap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import numpy as np
from torch import Tensor

from common.errors import UserError, refusing_damage
from common.geometry import Triple, slices
from dataset.store.latent_source import REMEDY

_HALF = np.dtype("<f2")
_PAGES_APART = 2  # pieces of a file that lie closer are read as one


@dataclass(frozen=True)
class Written:
    """Of each channel, float64 (C,): the sum and the sum of squares, and of int8 what 1 stands for."""

    total: np.ndarray
    square: np.ndarray
    step: np.ndarray | None = None


def write_latent(path: Path, shape: Triple, tiles: Iterable[tuple[Triple, Tensor]], dtype: str = "float16") -> Written:
    """Write (D, H, W, C) from tiles. OSError if there is no space left; ValueError without tiles.

    int8 needs the largest value of each channel first: until then float16 lies beside it in a nameless file. It comes
    back to half a step, a 254th of that largest value.
    """
    if dtype == "float16":
        with path.open("wb") as file:
            return _write_half(file, shape, tiles)
    with TemporaryFile(dir=path.parent) as half, path.open("wb") as file:
        written = _write_half(half, shape, tiles)
        half.seek(0)
        np.lib.format.read_magic(half)
        whole, _, _ = np.lib.format.read_array_header_1_0(half)
        begin, plane = half.tell(), whole[1:]

        def planes() -> Iterable[np.ndarray]:
            half.seek(begin)
            for _ in range(whole[0]):
                yield np.frombuffer(half.read(_HALF.itemsize * int(np.prod(plane))), _HALF).reshape(plane)

        largest = np.max([np.abs(values).max((0, 1)) for values in planes()], 0).astype(np.float64)
        step = np.where(largest > 0, largest / 127, 1.0)
        np.lib.format.write_array_header_1_0(file, {"descr": "|i1", "fortran_order": False, "shape": whole})
        for values in planes():
            file.write(np.rint(values / step).astype(np.int8).data)
        return Written(written.total, written.square, step)


def _write_half(file: IO[bytes], shape: Triple, tiles: Iterable[tuple[Triple, Tensor]]) -> Written:
    """Row by row, not mapped: a process that fills up a disk through a mapped file is killed without a message."""
    total = square = np.zeros(0)
    begin = 0
    for start, tile in tiles:
        block = tile.permute(1, 2, 3, 0).cpu().numpy()
        channels = block.shape[-1]
        if begin == 0:
            header = {"descr": _HALF.str, "fortran_order": False, "shape": (*shape, channels)}
            np.lib.format.write_array_header_1_0(file, header)
            begin, total, square = file.tell(), np.zeros(channels), np.zeros(channels)
        half = np.ascontiguousarray(block, dtype=_HALF)
        for z, y in np.ndindex(*half.shape[:2]):
            row = ((start[0] + z) * shape[1] + start[1] + y) * shape[2] + start[2]
            file.seek(begin + _HALF.itemsize * channels * row)
            file.write(half[z, y].data)
        wide = block.reshape(-1, channels).astype(np.float64)
        total, square = total + wide.sum(0), square + (wide**2).sum(0)
    if begin == 0:
        raise ValueError("a volume needs at least one tile of latents, got none")
    return Written(total, square)


def when_made(path: Path) -> tuple[int, int] | None:
    """Tells a file from one that takes its place; None where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_size


def read_latent(path: Path, start: Triple, size: Triple, made: tuple[int, int] | None) -> np.ndarray:
    """A box of a file of latents (d, h, w, C), as it is stored; may be written to.

    Raises:
        FileNotFoundError: no such file. BadFileError: a damaged one.
        UserError: it is no longer the one that was `when_made` at that time.
    """
    with refusing_damage(path, "a file of latents is whole", f"{REMEDY}."):
        crop = _crop(path, start, size)
    if when_made(path) != made:  # looked at when it is open, which even a network's disk answers by what is there now
        raise UserError(
            f"{path} is not the one that was there at the start: encode_latents.py has replaced it meanwhile. Wait"
            " for it; then the same command goes on, unless the latents are now those of another VQ-GAN"
        )
    return crop


def _crop(path: Path, start: Triple, size: Triple) -> np.ndarray:
    """A copy (d, h, w, C) of a box of latents, in the file's dtype.

    A mapped file that is not in memory is read where it is touched, with much around each place that is not needed.
    The system is told of the crop's rows before: of a latent of 152x128x128x64, a crop of 32^3 then reads a tenth.
    """
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        begin = file.tell()
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            for first, last in _pieces(shape, dtype.itemsize, start, size):
                page = (begin + first) // mmap.PAGESIZE * mmap.PAGESIZE
                mapped.madvise(mmap.MADV_WILLNEED, page, begin + last - page)
            return np.ndarray(shape, dtype, mapped, begin)[slices(start, size)].copy()


def _pieces(shape: tuple[int, ...], itemsize: int, start: Triple, size: Triple) -> Iterator[tuple[int, int]]:
    """First byte and end of what a box of an array (D, H, W, C) takes: its rows, or the planes where rows lie close."""
    _, height, width, channels = shape
    row = width * channels * itemsize
    used = size[2] * channels * itemsize
    together = size[1] if row - used < _PAGES_APART * mmap.PAGESIZE else 1
    for z in range(start[0], start[0] + size[0]):
        for y in range(start[1], start[1] + size[1], together):
            first = (z * height + y) * row + start[2] * channels * itemsize
            yield first, first + (together - 1) * row + used
