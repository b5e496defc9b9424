"""The latent cache: whole-volume latents and X-ray features, computed once because their networks are frozen."""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dataset.patches import Triple, box, triple
from dataset.store import StoredCase

REMEDY = "encode_latents.py overwrite=true makes it anew, dataset.latents=never encodes on the fly"


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
                raise ValueError(
                    f"the latent cache {folder} was made with another {name}: {found}, now {wanted}; {REMEDY}"
                )


class LatentCache:
    """Reads crops of cached latents.

    Files per volume: `<id>.npy` float16 (D, H, W, C), unscaled latents (channels last: a crop is 4.5 times as fast to
    read), and `<id>.npz` with float16 X-ray tokens and pooled features. `latents.json`, written last, holds the
    source and the training set's mean and std per channel.

    Raises:
        FileNotFoundError: the folder holds no finished cache.
        ValueError: it was made by other networks, in another window, from other volumes, or for smaller patches.

    Args:
        shapes: of every case's latent (d, h, w), padded to hold a patch.
    """

    def __init__(
        self, folder: str | Path, source: LatentSource, cases: Sequence[StoredCase], shapes: Sequence[Triple]
    ) -> None:
        self.folder = Path(folder)
        if not is_finished(self.folder):
            raise FileNotFoundError(f"no finished latent cache in {self.folder}; encode_latents.py makes it")
        info = json.loads((self.folder / "latents.json").read_text())
        source.check(self.folder, stored_source(info))
        for case, shape in zip(cases, shapes, strict=True):
            found = info["volumes"].get(case.patient_id)
            if found != _identity(case):
                raise ValueError(
                    f"the latent cache {self.folder} does not fit volume {case.patient_id}:"
                    f" {found} there, {_identity(case)} in the store; {REMEDY}"
                )
            if not _holds(info["shapes"][case.patient_id], shape):
                raise ValueError(
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
        return torch.from_numpy(np.array(whole[box(start, size)])).permute(3, 0, 1, 2)  # a copy may be written to

    def read_xray(self, case: StoredCase) -> tuple[Tensor, Tensor]:
        """Tokens float32 (N, T) and pooled feature float32 (P,)."""
        with np.load(self.folder / f"{case.patient_id}.npz") as stored:
            return torch.from_numpy(stored["tokens"]).float(), torch.from_numpy(stored["pooled"]).float()


class LatentWriter:
    """Writes a cache volume by volume; any process may write any volume, one calls `finish`."""

    def __init__(self, folder: str | Path, source: LatentSource, overwrite: bool = False) -> None:
        self.folder, self.source = Path(folder), source
        self.folder.mkdir(parents=True, exist_ok=True)
        self._overwrite = overwrite

    def is_written(self, case: StoredCase, shape: Triple) -> bool:
        """Whether this volume is there, from the same source, and its latent is as large as `shape`.

        Raises:
            ValueError: it was made by other networks and may not be overwritten.
        """
        path = self.folder / f"{case.patient_id}.json"
        if not path.is_file():
            return False
        info = json.loads(path.read_text())
        try:
            self.source.check(self.folder, stored_source(info))
        except ValueError:
            if not self._overwrite:
                raise
            return False
        return bool(info["identity"] == _identity(case)) and _holds(info["shape"], shape)

    def write(
        self,
        case: StoredCase,
        shape: Triple,
        tiles: Iterable[tuple[Triple, Tensor]],
        tokens: Tensor,
        pooled: Tensor,
    ) -> None:
        """Store a volume's latents from tiles (start, (C, d, h, w)) that do not overlap and cover `shape`."""
        (self.folder / "latents.json").unlink(missing_ok=True)  # no longer complete
        stem = self.folder / case.patient_id
        partial = stem.with_name(f"{case.patient_id}.partial.npy")
        stored: np.memmap | None = None
        total = square = np.zeros(1)
        for start, tile in tiles:
            block = tile.permute(1, 2, 3, 0).cpu().numpy()
            if stored is None:
                stored = np.lib.format.open_memmap(partial, "w+", np.float16, (*shape, block.shape[-1]))
            stored[box(start, triple(block.shape[:3]))] = block
            wide = block.reshape(-1, block.shape[-1]).astype(np.float64)
            total, square = total + wide.sum(0), square + (wide**2).sum(0)
        if stored is None:
            raise ValueError(f"no latents to write for {case.patient_id}")
        stored.flush()
        os.replace(partial, f"{stem}.npy")
        np.savez(partial.with_suffix(".npz"), tokens=tokens.half().cpu().numpy(), pooled=pooled.half().cpu().numpy())
        os.replace(partial.with_suffix(".npz"), f"{stem}.npz")
        info = asdict(self.source) | {
            "identity": _identity(case),
            "shape": list(shape),
            "count": int(np.prod(shape)),
            "sum": total.tolist(),
            "square": square.tolist(),
        }
        _write_json(Path(f"{stem}.json"), info)

    def finish(self, cases: Sequence[StoredCase]) -> None:
        """Write the statistics of the training cases; only then is the cache complete."""
        infos = {c.patient_id: json.loads((self.folder / f"{c.patient_id}.json").read_text()) for c in cases}
        train = [infos[c.patient_id] for c in cases if c.split == "train"]
        count = sum(info["count"] for info in train)
        mean = sum(np.asarray(info["sum"]) for info in train) / count
        variance = sum(np.asarray(info["square"]) for info in train) / count - mean**2
        std = np.sqrt(np.maximum(variance, 1e-12))
        _write_json(
            self.folder / "latents.json",
            asdict(self.source)
            | {"mean": mean.tolist(), "std": std.tolist()}
            | {"volumes": {name: info["identity"] for name, info in infos.items()}}
            | {"shapes": {name: info["shape"] for name, info in infos.items()}},
        )


def is_finished(folder: str | Path) -> bool:
    return (Path(folder) / "latents.json").is_file()


def stored_source(info: dict) -> LatentSource:
    low, high = info["hu_window"]
    return LatentSource(info["codec_hash"], info["encoder_hash"], (low, high))


def _holds(stored: Sequence[int], wanted: Sequence[int]) -> bool:
    return all(a >= b for a, b in zip(stored, wanted, strict=True))


def _identity(case: StoredCase) -> dict:
    return {"shape": list(case.shape), "spacing": list(case.spacing), "source_hash": case.source_hash}


def _write_json(path: Path, content: dict) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content))
    os.replace(partial, path)
