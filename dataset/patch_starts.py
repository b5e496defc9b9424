"""Where the patches of a training begin. Sizes and starts are ordered (d, h, w), in voxels."""

from dataclasses import dataclass

import numpy as np

from common.errors import UserError
from common.geometry import STEP, Region, Triple, triple


@dataclass(frozen=True)
class RandomStarts:
    """Starts on multiples of 4, drawn evenly from all places that a patch can take in a padded volume.

    Args:
        patch: size of a patch.
        foreground_share: of the draws, those whose centre lies in the patient's body.
        overhang: a multiple of 4, by which the other draws may reach beyond the volume's faces.

    Raises:
        ValueError: a share that is none, an overhang that is no multiple of 4 or more than half a patch.
    """

    patch: Triple
    foreground_share: float = 0.0
    overhang: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.foreground_share <= 1:
            raise UserError(f"foreground_share must lie in [0, 1], got {self.foreground_share}")
        if self.overhang % STEP or not 0 <= self.overhang <= min(self.patch) // 2:
            raise UserError(
                f"overhang must be a multiple of {STEP} voxels, from 0 to half a patch, got {self.overhang} for"
                f" patches of {list(self.patch)}; lower model.overhang, 0 draws within the volume"
            )

    def draw(self, rng: np.random.Generator, shape: Triple, body: Region) -> Triple:
        """The first voxel of a patch in a padded volume of `shape`; below 0 in an overhang."""
        last = triple([n + self.overhang for n in last_start(shape, self.patch)])
        anywhere = _draw(rng, (-self.overhang,) * 3, last)
        if self.foreground_share == 0 or rng.random() >= self.foreground_share:
            return anywhere
        return _draw(rng, *centred_starts(body, shape, self.patch))


def last_start(shape: Triple, patch: Triple) -> Triple:
    """The last voxel where a patch may begin in a padded volume."""
    return triple([(n - p) // STEP * STEP for n, p in zip(shape, patch, strict=True)])


def centred_starts(region: Region, shape: Triple, patch: Triple) -> tuple[Triple, Triple]:
    """First and last start of patches whose centre lies in `region`.

    Where the patch would leave the padded volume of `shape`, the nearest start takes its place.
    """
    limits = last_start(shape, patch)
    low, high = region
    first = [min(max(0, -(-(2 * a - p) // (2 * STEP))) * STEP, m) for a, p, m in zip(low, patch, limits, strict=True)]
    last = [min(max(0, (2 * b - p) // (2 * STEP)) * STEP, m) for b, p, m in zip(high, patch, limits, strict=True)]
    return triple(first), triple([max(a, b) for a, b in zip(first, last, strict=True)])


def _draw(rng: np.random.Generator, first: Triple, last: Triple) -> Triple:
    """A start on the multiples of 4 from `first` to `last`."""
    d, h, w = (a + int(rng.integers((b - a) // STEP + 1)) * STEP for a, b in zip(first, last, strict=True))
    return d, h, w
