"""Compressed arrays on disk, each of which says what it was made from."""

from pathlib import Path

import blosc2
import numpy as np

from common.atomic import replacing
from common.errors import UserError

_BLOCK = 32  # voxels along each axis that are decompressed together
_SOURCE = "source_hash"


def write_array(path: Path, array: np.ndarray, source_hash: str, chunk: int) -> None:
    """Store an array losslessly, in chunks of `chunk` along each axis. OSError if there is no room for it."""
    packed = blosc2.asarray(
        np.ascontiguousarray(array),
        chunks=tuple(min(chunk, n) for n in array.shape),
        blocks=tuple(min(_BLOCK, n) for n in array.shape),
        cparams={"codec": blosc2.Codec.LZ4, "clevel": 5, "nthreads": 1, "filters": [blosc2.Filter.SHUFFLE]},
        meta={_SOURCE: source_hash},
    )
    with replacing(path) as temporary:
        temporary.write_bytes(packed.to_cframe())  # blosc2's own writing does not say why it failed


def open_array(path: Path, source_hash: str) -> blosc2.NDArray:
    """The array at `path`, read where it is indexed.

    Raises:
        FileNotFoundError: no such file. ValueError: it was made from something else than `source_hash` says.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} of the manifest is missing. Run prepare_data.py again.")
    array = blosc2.open(str(path), mode="r", mmap_mode="r", dparams={"nthreads": 1})
    if _SOURCE not in array.schunk.meta or array.schunk.meta[_SOURCE] != source_hash:
        raise UserError(
            f"{path} is not the one of the manifest: its case was prepared anew by a run that has not finished, or"
            " since the manifest was read. Run prepare_data.py again, then this."
        )
    return array
