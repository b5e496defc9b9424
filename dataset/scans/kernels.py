"""How sharp the reconstruction kernels of CT vendors are, by their names."""

import re

_UNKNOWN = 50.0
_BY_NAME = {  # GE, then Philips, on the scale of Siemens' numbers: 10 is smoothest, 80 sharpest
    "soft": 20, "standard": 30, "stnd": 30, "std": 30, "chest": 40, "detail": 45, "lung": 60, "bone": 65,
    "bone+": 70, "boneplus": 70, "edge": 75,
    "a": 20, "b": 30, "c": 40, "d": 50, "e": 60, "l": 60, "f": 65, "ya": 55, "yb": 60, "yc": 65, "yd": 70,
    "ia": 20, "ib": 30, "sb": 30, "sc": 40,
}  # fmt: skip
_CANON_SHARP, _CANON_LUNG = 30, 50


def sharpness(kernel: str) -> float:
    """About 10 (soft) to 80 (sharp): Siemens' own number ("B30f", "Br40d"), others put beside it; 50 where unknown.

    Canon's FC01 to FC19 are soft, FC30 to FC49 for bone, FC50 to FC59 and above for lung.
    """
    name = kernel.split("/")[0].strip().lower()
    if name in _BY_NAME:
        return float(_BY_NAME[name])
    if canon := re.fullmatch(r"fc(\d+).*", name):
        number = int(canon[1])
        return 30.0 if number < _CANON_SHARP else 65.0 if number < _CANON_LUNG else 60.0
    if siemens := re.fullmatch(r"[a-z]{1,2}(\d{2})[a-z]?", name):
        return float(siemens[1])
    return _UNKNOWN
