"""Files of `numpy.savez`, read so that none can make much memory of few bytes."""

from pathlib import Path
from zipfile import ZipFile

import numpy as np
from numpy.lib import format as npy

from common.errors import refusing_damage


def read_npz(path: Path, remedy: str) -> dict[str, np.ndarray]:
    """The arrays by their names.

    Args:
        remedy: what to do, for the error.

    Raises:
        FileNotFoundError: no such file.
        BadFileError: damaged, compressed, larger arrays than the file, or arrays of objects.
    """
    arrays = {}
    with refusing_damage(path, "a file of arrays is whole and as large as they are", remedy), ZipFile(path) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
            raise ValueError("it is compressed")
        for entry in archive.infolist():
            with archive.open(entry) as file:
                if npy.read_magic(file) != (1, 0):
                    raise ValueError(f"{entry.filename} is of another format")
                shape, _, kind = npy.read_array_header_1_0(file)
                if int(np.prod(shape, dtype=object)) * kind.itemsize > entry.file_size:
                    raise ValueError(f"{entry.filename} claims to hold {shape}")
                file.seek(0)
                arrays[entry.filename.removesuffix(".npy")] = npy.read_array(file, allow_pickle=False)
    return arrays
