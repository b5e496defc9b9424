"""What cached latents depend on, besides the volumes."""

from dataclasses import asdict, dataclass
from pathlib import Path

from common.errors import UserError

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
