"""What values look like that are no HU, or not all of a CT's."""

import numpy as np

_AIR, _TISSUE = (-1150, -700), (-200, 200)  # HU around the patient and of lungs; of soft tissue
_LEAST = 0.05  # of all voxels that are of either
_SHIFTS = {
    8192: "HU + 8192, as CT-RATE's first release",
    1024: "HU + 1024, the rescale intercept is not applied",
    -1024: "HU - 1024, rescaled twice",
}
_BITS = (12, 13, 14, 15)
_CUT_LOW, _CUT_HIGH = 0.01, 0.001  # of all voxels, at the one lowest or highest value: more than chance leaves there
_PILE, _BESIDE = 10, 10  # so many times as many as of each of the next values (HU)
_OUTSIDE = -500  # HU; what lies outside the body is lower


def likeness(thin: np.ndarray) -> tuple[str, str]:
    """What the values of a CT are like that holds no air or no tissue, and what to do; empty if they are like nothing
    known.
    """
    for shift, name in _SHIFTS.items():
        hu = thin.astype(np.int32) - shift
        if _fits(hu):
            air = int(np.median(hu[_within(hu, _AIR)])) + shift
            return f"air lies at {air}: {name}", f"Set dataset.hu_offset={-shift}, or hu_offset in pairs.csv."
    for bits in _BITS:
        if _fits(np.where(thin >= 2 ** (bits - 1), thin.astype(np.int32) - 2**bits, thin)):
            return f"a sign of {bits} bits lost", "Convert it again with its numbers read as signed."
    return "", ""


def clipped(thin: np.ndarray) -> tuple[float, float]:
    """Lowest and highest value (HU) that a CT was clipped to; minus infinity, infinity at ends where it was not."""
    below, above = (_pile(values, least) for values, least in ((thin, _CUT_LOW), (-thin.astype(np.int32), _CUT_HIGH)))
    return (-np.inf if below is None else below), (np.inf if above is None else -above)


def _pile(values: np.ndarray, least: float) -> int | None:
    """The lowest value, where that of a share of `least` or more is, and of many more than of those next to it."""
    low = int(values.min())
    at, beside = np.count_nonzero(values == low), np.count_nonzero(values <= low + _BESIDE)
    return low if at >= max(least * values.size, _PILE, _PILE * (beside - at) / _BESIDE) else None


def outside(thin: np.ndarray) -> int | None:
    """The one value that the corners of a CT's slices are filled with, where that is no air; else None."""
    corners = thin[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    usual = int(np.median(corners))
    filled = thin.min() < usual and usual > _OUTSIDE and (corners == usual).mean() > 0.5
    return usual if filled else None


def _fits(hu: np.ndarray) -> bool:
    return bool(min(_within(hu, _AIR).mean(), _within(hu, _TISSUE).mean()) >= _LEAST)


def _within(hu: np.ndarray, ends: tuple[int, int]) -> np.ndarray:
    return (hu > ends[0]) & (hu < ends[1])
