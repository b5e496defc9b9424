"""The latent cache: whole-volume latents and X-ray features, computed once because their networks are frozen."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.atomic import remove_abandoned, replacing, write_text
from common.errors import BadFileError, UserError
from common.geometry import Triple, slices
from common.json_file import read_json
from dataset.store.store import StoredCase

REMEDY = "encode_latents.py overwrite=true makes it anew, dataset.latents=never encodes on the fly"
Ranges = Mapping[str, tuple[float, float]]  # Store.xray_ranges


@dataclass(frozen=True)
class LatentSource:
    """What the latents of a cache depend on, besides the volumes."""

    codec_hash: str
    encoder_hash: str
    hu_window: tuple[float, float]

    def check(self, folder: Path, stored: "LatentSource") -> None:
        """ValueError unless the stored cache was made by the same networks in the same window."""
        for name, wanted in asdict(self).items():
            found = asdict(stored)[name]
            if list(wanted) != list(found):
                raise UserError(
                    f"the latent cache {folder} was made with another {name}: {found}, now {wanted}; {REMEDY}"
                )


class LatentCache:
    """Reads crops of cached latents.

    Files per volume: `<id>.npy` float16 (D, H, W, C), unscaled latents (channels last: a crop is 4.5 times as fast to
    read), and `<id>.npz` with float16 X-ray tokens and pooled features. `latents.json`, written last, holds the
    source and the training set's mean and std per channel.

    Raises:
        FileNotFoundError: the folder holds no finished cache.
        ValueError: it was made by other networks, in another window, from other volumes or X-rays, or for smaller
            patches.

    Args:
        shapes: of every case's latent (d, h, w), padded to hold a patch.
        xray_ranges: by which the store scales the X-rays now; new training patients move them.
    """

    def __init__(
        self,
        folder: str | Path,
        source: LatentSource,
        cases: Sequence[StoredCase],
        shapes: Sequence[Triple],
        xray_ranges: Ranges,
    ) -> None:
        self.folder = Path(folder)
        if not is_finished(self.folder):
            raise FileNotFoundError(f"no finished latent cache in {self.folder}; encode_latents.py makes it")
        info = read_json(self.folder / "latents.json", f"{REMEDY}.")
        source.check(self.folder, stored_source(info))
        for case, shape in zip(cases, shapes, strict=True):
            found = info["volumes"].get(case.patient_id)
            wanted = _identity(case) | _xray_identity(case, xray_ranges)
            if found != wanted:
                raise UserError(
                    f"the latent cache {self.folder} does not fit volume {case.patient_id}: {found} there, {wanted}"
                    " in the store; encode_latents.py makes anew what has changed, dataset.latents=never encodes on"
                    " the fly"
                )
            if not _holds(info["shapes"][case.patient_id], shape):
                raise UserError(
                    f"the latent cache {self.folder} was made for smaller patches: the latent of {case.patient_id}"
                    f" measures {info['shapes'][case.patient_id]}, need {list(shape)}; run encode_latents.py again"
                    " with this model.patch_size"
                )
        self.mean, self.std = torch.tensor(info["mean"]), torch.tensor(info["std"])

    @property
    def channels(self) -> int:
        return len(self.mean)

    def read(self, case: StoredCase, start: Triple, size: Triple) -> Tensor:
        """Unscaled latents float16 (C, d, h, w), a view with channels last, of the box at latent voxel `start`."""
        whole = np.load(self.folder / f"{case.patient_id}.npy", mmap_mode="r")
        return torch.from_numpy(np.array(whole[slices(start, size)])).permute(3, 0, 1, 2)  # a copy may be written to

    def read_xray(self, case: StoredCase) -> tuple[Tensor, Tensor]:
        """Tokens float32 (N, T) and pooled feature float32 (P,)."""
        with np.load(self.folder / f"{case.patient_id}.npz") as stored:
            return torch.from_numpy(stored["tokens"]).float(), torch.from_numpy(stored["pooled"]).float()


class LatentWriter:
    """Writes a cache volume by volume; any process may write any volume, one or several call `finish`."""

    def __init__(self, folder: str | Path, source: LatentSource, xray_ranges: Ranges, overwrite: bool = False) -> None:
        self.folder, self.source, self.xray_ranges = Path(folder), source, xray_ranges
        self._overwrite = overwrite

    def is_written(self, case: StoredCase, shape: Triple) -> bool:
        """Whether all of this case is there. ValueError as `has_latents`."""
        return self.has_latents(case, shape) and self.has_xray(case)

    def has_latents(self, case: StoredCase, shape: Triple) -> bool:
        """Whether this volume is there, from the same source, and its latent is as large as `shape`.

        Raises:
            ValueError: it was made by other networks and may not be overwritten.
        """
        try:
            info = self._info(case)
        except (FileNotFoundError, BadFileError):
            return False
        try:
            self.source.check(self.folder, stored_source(info))
        except ValueError:
            if not self._overwrite:
                raise
            return False
        return bool(info["identity"] == _identity(case)) and _holds(info["shape"], shape)

    def has_xray(self, case: StoredCase) -> bool:
        """Whether this X-ray's features are there, from the same encoder and scaled as the store does now."""
        path = self.folder / f"{case.patient_id}.npz"
        if not path.is_file():
            return False
        with np.load(path) as stored:
            return "identity" in stored and str(stored["identity"]) == self._xray_identity(case)

    def write(self, case: StoredCase, shape: Triple, tiles: Iterable[tuple[Triple, Tensor]]) -> None:
        """Store a volume's latents from tiles (start, (C, d, h, w)) that do not overlap and cover `shape`.

        Raises:
            OSError: no space left. ValueError: no tiles.
        """
        self._begin()
        self._info_path(case).unlink(missing_ok=True)  # it speaks of the latents that are replaced now
        with replacing(self.folder / f"{case.patient_id}.npy") as temporary:
            total, square = _write_tiles(temporary, shape, tiles)
        info = asdict(self.source) | {
            "identity": _identity(case),
            "shape": list(shape),
            "count": int(np.prod(shape)),
            "sum": total.tolist(),
            "square": square.tolist(),
        }
        write_text(self._info_path(case), json.dumps(info))

    def write_xray(self, case: StoredCase, tokens: Tensor, pooled: Tensor) -> None:
        """Store an X-ray's tokens (N, T) and pooled feature (P,). OSError if there is no space left."""
        self._begin()
        with replacing(self.folder / f"{case.patient_id}.npz") as temporary:
            np.savez(
                temporary,
                tokens=tokens.half().cpu().numpy(),
                pooled=pooled.half().cpu().numpy(),
                identity=np.array(self._xray_identity(case)),
            )

    def finish(self, cases: Sequence[StoredCase]) -> None:
        """Write the statistics of the training cases, all of which are written; only then is the cache complete."""
        infos = {case.patient_id: self._info(case) for case in cases}
        train = [infos[c.patient_id] for c in cases if c.split == "train"]
        count = sum(info["count"] for info in train)
        mean = sum(np.asarray(info["sum"]) for info in train) / count
        variance = sum(np.asarray(info["square"]) for info in train) / count - mean**2
        std = np.sqrt(np.maximum(variance, 1e-12))
        content = (
            asdict(self.source)
            | {"mean": mean.tolist(), "std": std.tolist()}
            | {"volumes": {c.patient_id: _identity(c) | _xray_identity(c, self.xray_ranges) for c in cases}}
            | {"shapes": {name: info["shape"] for name, info in infos.items()}}
        )
        write_text(self.folder / "latents.json", json.dumps(content))
        remove_abandoned(self.folder)

    def _begin(self) -> None:
        (self.folder / "latents.json").unlink(missing_ok=True)  # no longer complete

    def _info(self, case: StoredCase) -> Any:
        return read_json(self._info_path(case), "Run encode_latents.py again.")

    def _info_path(self, case: StoredCase) -> Path:
        return self.folder / f"{case.patient_id}.json"

    def _xray_identity(self, case: StoredCase) -> str:
        return json.dumps({"encoder": self.source.encoder_hash} | _xray_identity(case, self.xray_ranges))


def _write_tiles(path: Path, shape: Triple, tiles: Iterable[tuple[Triple, Tensor]]) -> tuple[np.ndarray, np.ndarray]:
    """Write float16 (D, H, W, C) from tiles; the sum and the sum of squares of each channel, float64 (C,).

    Row by row, not mapped: a process that fills up a disk through a mapped file is killed without a message.
    """
    total = square = np.zeros(0)
    with path.open("wb") as file:
        begin = 0
        for start, tile in tiles:
            block = tile.permute(1, 2, 3, 0).cpu().numpy()
            channels = block.shape[-1]
            if begin == 0:
                header = {"descr": "<f2", "fortran_order": False, "shape": (*shape, channels)}
                np.lib.format.write_array_header_1_0(file, header)
                begin, total, square = file.tell(), np.zeros(channels), np.zeros(channels)
            half = np.ascontiguousarray(block, dtype="<f2")
            for z, y in np.ndindex(*half.shape[:2]):
                row = ((start[0] + z) * shape[1] + start[1] + y) * shape[2] + start[2]
                file.seek(begin + 2 * channels * row)
                file.write(half[z, y].data)
            wide = block.reshape(-1, channels).astype(np.float64)
            total, square = total + wide.sum(0), square + (wide**2).sum(0)
    if begin == 0:
        raise ValueError("a volume needs at least one tile of latents, got none")
    return total, square


def is_finished(folder: str | Path) -> bool:
    return (Path(folder) / "latents.json").is_file()


def stored_source(info: dict) -> LatentSource:
    low, high = info["hu_window"]
    return LatentSource(info["codec_hash"], info["encoder_hash"], (low, high))


def _holds(stored: Sequence[int], wanted: Sequence[int]) -> bool:
    return all(a >= b for a, b in zip(stored, wanted, strict=True))


def _identity(case: StoredCase) -> dict:
    return {"shape": list(case.shape), "spacing": list(case.spacing), "source_hash": case.source_hash}


def _xray_identity(case: StoredCase, ranges: Ranges) -> dict:
    """What X-ray features depend on besides the encoder; a kind without a range is scaled by each image itself."""
    scaled = ranges.get(case.xray_kind)
    return {"source_hash": case.source_hash, "xray_range": None if scaled is None else list(scaled)}
