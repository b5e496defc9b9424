"""What values look like that are no HU."""

import numpy as np

_AIR, _TISSUE = (-1150, -700), (-200, 200)  # HU around the patient and of lungs; of soft tissue
_LEAST = 0.05  # of all voxels that are of either
_SHIFTS = {
    8192: "HU + 8192, as CT-RATE's first release",
    1024: "HU + 1024, the rescale intercept is not applied",
    -1024: "HU - 1024, rescaled twice",
}
_BITS = (12, 13, 14, 15)


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


def _fits(hu: np.ndarray) -> bool:
    return bool(min(_within(hu, _AIR).mean(), _within(hu, _TISSUE).mean()) >= _LEAST)


def _within(hu: np.ndarray, ends: tuple[int, int]) -> np.ndarray:
    return (hu > ends[0]) & (hu < ends[1])
