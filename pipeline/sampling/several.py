"""Several CTs of one X-ray: their mean and their spread, with one of them in memory at a time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Draws:
    """first: int16 HU (D, H, W). mean: int16, of all. std: float32, over n - 1; None of a single draw."""

    first: np.ndarray
    mean: np.ndarray
    std: np.ndarray | None = None


def draw_several(draw: Callable[[int], np.ndarray], seeds: Sequence[int], spread: bool = False) -> Draws:
    """
    Args:
        draw: a seed → int16 HU (D, H, W). spread: also the standard deviation.
    """
    first = draw(seeds[0])
    if len(seeds) == 1:
        return Draws(first, first)
    total = first.astype(np.int32)
    squares = np.zeros(first.shape if spread else (), np.float32)  # of what differs from the first: no large numbers
    for seed in seeds[1:]:
        drawn = draw(seed)
        total += drawn
        if spread:
            squares += np.square(np.subtract(drawn, first, dtype=np.float32))
    mean = (total / len(seeds)).round().astype(np.int16)
    if not spread:
        return Draws(first, mean)
    apart = (total / len(seeds) - first).astype(np.float32)
    variance = (squares - len(seeds) * np.square(apart)) / (len(seeds) - 1)
    return Draws(first, mean, np.sqrt(np.maximum(variance, 0)))
