"""The same CT or X-ray in two patients: it would leak from one split into another. Also if it was encoded anew.

A look is a small picture of coarse structure. X-rays of two phantoms agree by up to 0.86, of two real chests by 0.68,
one with itself as a small JPEG by 0.999; CTs by up to 0.90 and 0.72, and resampled ones by 0.98 and more.
"""

from collections.abc import Iterable, Mapping
from operator import itemgetter
from typing import Protocol

import numpy as np
from scipy import ndimage

from common.geometry import axis_weights, centres
from dataset.store.case import Case, Problem, sharing

_SIDES = {2: 32, 3: 16}  # of looks, by the number of axes
_COARSE = 0.08  # of a side: structure wider than this does not count
_ALIKE = {"CT": 0.97, "X-ray": 0.98}  # correlation
_LEAST = 1e-4  # spread of an image that shows anything
_FULL = 30.0  # int8 per standard deviation
_CT_RANGE = (-1000, 500)  # HU


class Looked(Protocol):
    """What is known of a case's files: fingerprints and looks, empty where there is nothing to compare."""

    @property
    def ct_content(self) -> str: ...
    @property
    def xray_content(self) -> str: ...
    @property
    def ct_look(self) -> str: ...
    @property
    def xray_look(self) -> str: ...


def look_of(image: np.ndarray) -> str:
    """Of an X-ray (h, w) in [0, 1] or HU (D, H, W), as text; empty where it shows nothing."""
    small = image.clip(*_CT_RANGE) if image.ndim == 3 else image
    small = small.astype(np.float32)
    side = _SIDES[image.ndim]
    for axis, n in enumerate(image.shape):
        weights = axis_weights(n, 1.0, centres(side, n / side)).astype(np.float32)
        small = np.moveaxis(np.tensordot(weights, small, (1, axis)), 0, axis)
    small = small - ndimage.gaussian_filter(small, _COARSE * side, mode="nearest")
    spread = float(small.std())
    if spread < _LEAST:
        return ""
    small = (small - small.mean()) / spread
    return np.rint(small * _FULL).clip(-127, 127).astype(np.int8).tobytes().hex()


def leaks(found: Mapping[str, Looked], cases: Iterable[Case]) -> list[Problem]:
    """A problem for every case whose CT or X-ray another patient has, too: fatal where it is the same to the bit."""
    patients = {case.name: case.patient_id for case in cases}
    by_name = sorted((name, patients[name], one) for name, one in found.items())
    problems = []
    for what, contents, looks in (
        ("CT", [one.ct_content for *_, one in by_name], [one.ct_look for *_, one in by_name]),
        ("X-ray", [one.xray_content for *_, one in by_name], [one.xray_look for *_, one in by_name]),
    ):
        named = [(name, patient) for name, patient, _ in by_name]
        problems += _same(named, contents, what) + _alike(named, contents, looks, what)
    return problems


def _same(named: list[tuple[str, str]], contents: list[str], what: str) -> list[Problem]:
    rule, remedy = f"every patient has another {what}", "Keep one of them, or give them one patient_id."
    known = [(one, content) for one, content in zip(named, contents, strict=True) if content]
    return [
        Problem(name, what, rule, f"that of {', '.join(other for (other, _), _ in group)}", remedy)
        for group in sharing(known, itemgetter(1))
        if len({patient for (_, patient), _ in group}) > 1
        for (name, _), _ in group
    ]


def _alike(named: list[tuple[str, str]], contents: list[str], looks: list[str], what: str) -> list[Problem]:
    """Of those whose content differs."""
    known = [i for i, look in enumerate(looks) if look]
    if len(known) < 2:
        return []
    pictures = np.stack([np.frombuffer(bytes.fromhex(looks[i]), np.int8).astype(np.float32) for i in known])
    pictures /= np.maximum(np.linalg.norm(pictures, axis=1, keepdims=True), 1e-6)
    rule = f"every patient has another {what}, also one of another file format or size"
    remedy = "Look at both. If they are one, keep one of them, or give them one patient_id: else one leaks."
    problems = []
    for row, i in enumerate(known):
        likeness = pictures @ pictures[row]
        for j in (known[k] for k in np.flatnonzero(likeness > _ALIKE[what])):
            if named[i][1] != named[j][1] and contents[i] != contents[j]:
                told = f"nearly that of {named[j][0]}"
                problems.append(Problem(named[i][0], what, rule, told, remedy, fatal=False))
    return problems
