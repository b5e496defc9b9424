"""What a frozen encoder sees in X-rays, and in variants of them, kept in files."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.atomic import replacing
from common.errors import BadFileError, UserError
from common.npz_file import read_npz
from dataset.store.store import quantised, unquantised


@dataclass(frozen=True)
class XrayFeatures:
    """tokens: (N, T). pooled: (P,). image: of a variant, (size, size) in [0, 1]; None for the X-ray itself."""

    tokens: Tensor
    pooled: Tensor
    image: np.ndarray | None = None


def read(folder: Path, name: str, variant: int, view: str, identity: str) -> XrayFeatures:
    """In float32. BadFileError for a damaged file; UserError where they follow from something else."""
    path = _path(folder, name, variant, view)
    stored = read_npz(path, "Run encode_latents.py again.")
    if str(stored.get("identity", identity)) != identity:  # the first versions wrote none
        raise UserError(
            f"{path} holds features of another encoder or X-ray than at the start: encode_latents.py has replaced it"
            " meanwhile. Wait for it; then the same command goes on, unless the encoder is another one now"
        )
    tokens, pooled = (torch.from_numpy(stored[name]).float() for name in ("tokens", "pooled"))
    return XrayFeatures(tokens, pooled, unquantised(stored["image"]) if variant else None)


def are_stored(folder: Path, name: str, variant: int, view: str, identity: str) -> bool:
    """Whether they are there, whole and of this identity."""
    try:
        stored = read_npz(_path(folder, name, variant, view), "Run encode_latents.py again.")
    except (FileNotFoundError, BadFileError):
        return False
    return "identity" in stored and str(stored["identity"]) == identity


def write(folder: Path, name: str, variant: int, view: str, features: XrayFeatures, identity: str) -> None:
    """Features in float16, and what they follow from. OSError if there is no space left."""
    path = _path(folder, name, variant, view)
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: getattr(features, name).half().cpu().numpy() for name in ("tokens", "pooled")}
    if features.image is not None:
        arrays["image"] = quantised(features.image)
    with replacing(path) as temporary:
        np.savez(temporary, identity=np.array(identity), **arrays)


def _path(folder: Path, name: str, variant: int, view: str) -> Path:
    return folder / (f"films/{variant}" if variant else "") / (f"views/{view}" if view else "") / f"{name}.npz"
