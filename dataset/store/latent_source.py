"""What cached latents and X-ray features depend on: networks, window, volumes and X-rays."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from common.errors import UserError
from dataset.store.store import StoredCase
from dataset.store.views import range_of, xray_of

Ranges = Mapping[str, tuple[float, float]]  # Store.xray_ranges
REMEDY = "encode_latents.py overwrite=true makes it anew, dataset.latents=never encodes on the fly"


@dataclass(frozen=True)
class LatentSource:
    """The networks, by their hashes, and the window."""

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


def stored_source(info: dict) -> LatentSource:
    low, high = info["hu_window"]
    return LatentSource(info["codec_hash"], info["encoder_hash"], (low, high))


def volume_identity(case: StoredCase) -> dict:
    return {"shape": list(case.shape), "spacing": list(case.spacing), "source_hash": case.source_hash}


def xray_identity(case: StoredCase, ranges: Ranges, view: str = "") -> dict:
    """What X-ray features depend on besides the encoder."""
    return {"source_hash": case.source_hash, "xray_range": list(range_of(xray_of(case, view), ranges))}


def features_identity(source: LatentSource, case: StoredCase, ranges: Ranges, variant: int, view: str) -> str:
    """The same and the encoder, as text."""
    number = {"variant": variant} if variant else {}
    return json.dumps({"encoder": source.encoder_hash} | xray_identity(case, ranges, view) | number)
