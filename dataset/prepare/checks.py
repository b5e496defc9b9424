"""What is suspicious about a CT or an X-ray that could be read, and the table that says so."""

from collections.abc import Sequence

import numpy as np

from dataset.prepare.hu_scale import clipped, likeness, outside
from dataset.scans.lost_affine import RULE as LOST_RULE
from dataset.scans.lost_affine import TO_TELL, is_identity, is_lost
from dataset.scans.slice_order import odd_slices
from dataset.scans.volume_io import Volume
from dataset.scans.xray_io import MIN_SIDE, Xray
from dataset.store.case import Problem

AIRLESS_HU, _MIN_AIR = -500, 0.01
_TISSUE_HU, _MIN_TISSUE = (-200, 200), 0.05
_AIR = -950  # HU; a CT clipped below it shows all air that there is
_CUT_RULE = "a CT has all values of dataset.hu_window"
_SPACING_MM = (0.05, 50.0)
_ANISOTROPY = 10.0
_LEAST_COVERED_MM = 50.0  # lungs are 200 mm high and more
_XRAY_ASPECT = (0.5, 2.0)  # width by height; between these a view can be frontal
_MAX_XRAY_SIDE = 16384  # pixels; the largest detectors have about 5000
_XRAY_LEVELS = 16
_SAMPLE_SIDE = 512  # pixels


def check_volume(
    patient_id: str, path: str, volume: Volume, thin: np.ndarray, window: tuple[float, float]
) -> list[Problem]:
    """Problems of a CT; `thin` is a thinned copy of its voxels, `window` the lowest and highest HU that are kept."""
    problems = []
    if thin.min() == thin.max():
        rule, found = "a CT is not constant", f"{thin.min()} everywhere"
        return [Problem(patient_id, path, rule, found, "Export the scan again.")]
    air = float((thin < AIRLESS_HU).mean())
    tissue = float(((thin > _TISSUE_HU[0]) & (thin < _TISSUE_HU[1])).mean())
    cut = _of_clipping(patient_id, path, thin, window, air < _MIN_AIR)
    if cut and tissue >= _MIN_TISSUE:
        problems.append(cut)
    elif air < _MIN_AIR or tissue < _MIN_TISSUE:
        low, high = _TISSUE_HU
        rule = f"a chest CT holds air (below {AIRLESS_HU} HU) and soft tissue ({low} to {high} HU)"
        found = f"{thin.min()} to {thin.max()}, {air:.1%} air, {tissue:.1%} tissue"
        like, remedy = likeness(thin)
        found += f"; {like}" if like else ""
        remedy = remedy or "Check that this is the CT and that its rescale slope and intercept are applied."
        problems.append(Problem(patient_id, path, rule, found, remedy))
    value = outside(thin)
    if value is not None:
        rule, found = "air lies around the body", f"{value} HU in the corners of its slices, filled in"
        remedy = "Prefer the CT as it was, or one filled with -1000."
        problems.append(Problem(patient_id, path, rule, found, remedy, fatal=False))
    odd = odd_slices(volume.hu)
    if odd:
        rule = "a slice looks more like its neighbours than they like each other"
        found = f"slice(s) {', '.join(map(str, odd[:5]))} of {len(volume.hu)}, from the feet: misplaced or damaged"
        problems.append(Problem(patient_id, path, rule, found, "Export the scan again."))
    if is_lost(volume.source_affine) and not any(note.rule == LOST_RULE for note in volume.notes):
        found = "voxels of 1 mm from place 0 on, as files say whose geometry was lost"
        remedy = "Compare with the original: sizes may be wrong, left and right or front and back exchanged."
        fatal = is_identity(volume.source_affine)
        remedy += f" Say what it is: {TO_TELL}." * fatal
        problems.append(Problem(patient_id, path, LOST_RULE, found, remedy, fatal))
    spacing = volume.spacing
    found = " x ".join(f"{size:.3g}" for size in spacing) + " mm"
    if min(spacing) < _SPACING_MM[0] or max(spacing) > _SPACING_MM[1]:
        rule = f"voxels measure {_SPACING_MM[0]} to {_SPACING_MM[1]} mm"
        problems.append(Problem(patient_id, path, rule, found, "Correct the spacing in the header."))
    elif max(spacing) > _ANISOTROPY * min(spacing):
        rule = f"voxels are at most {_ANISOTROPY:g} times longer than wide"
        problems.append(Problem(patient_id, path, rule, found, "Prefer a thinner reconstruction.", fatal=False))
    covered = spacing[0] * len(volume.hu)
    if covered < _LEAST_COVERED_MM:
        rule = f"a CT covers at least {_LEAST_COVERED_MM:g} mm from foot to head"
        found = f"{len(volume.hu)} slices, {covered:.3g} mm"
        remedy = "Give the series of the whole chest; leave the case out if there is none."
        problems.append(Problem(patient_id, path, rule, found, remedy, fatal=False))
    return problems


def _of_clipping(
    patient_id: str, path: str, thin: np.ndarray, window: tuple[float, float], airless: bool
) -> Problem | None:
    """Of a CT whose values end before those of others do: fatal where that is seen in the window and leaves no air."""
    low, high = clipped(thin)
    if airless and (low <= AIRLESS_HU or likeness(thin) != ("", "")):
        return None  # its values are no HU
    seen = low > max(window[0], _AIR) or high < window[1]
    if not seen and not airless:
        return None
    ends = " to ".join(f"{end:g}" for end in (low, high) if np.isfinite(end))
    more = f" and {'more' if np.isinf(high) else 'less'}" * (" to " not in ends)
    found = f"values clipped to {ends} HU{more}; dataset.hu_window is [{window[0]:g}, {window[1]:g}]"
    remedy = "Nothing, as long as dataset.hu_window lies within."
    if seen:
        within = f"[{max(low, window[0]):g},{min(high, window[1]):g}]"
        remedy = f"Export it unclipped, or set dataset.hu_window={within} for all."
    return Problem(patient_id, path, _CUT_RULE, found, remedy, fatal=seen and airless, note=not seen)


def check_xray(patient_id: str, path: str, xray: Xray, frontal: bool = True) -> list[Problem]:
    """Problems of an X-ray; a frontal one has a shape that laterals need not have."""
    problems = []
    h, w = xray.image.shape
    step = max(1, min(h, w) // _SAMPLE_SIDE)
    sample = xray.image[::step, ::step]  # sorting all pixels of a film takes a second
    low, high = np.percentile(sample, (1, 99))
    middle = sample[(sample > low) & (sample < high)]
    levels = len(np.unique(middle))
    if levels < _XRAY_LEVELS:
        rule = f"an X-ray shows at least {_XRAY_LEVELS} grey levels"
        problems.append(Problem(patient_id, path, rule, f"{levels} (blank?)", "Export the X-ray again."))
    if xray.useless_window:
        rule = "an X-ray's window shows the X-ray"
        found = "none that can be, or one that tells hardly any pixels apart: its full range was taken"
        problems.append(Problem(patient_id, path, rule, found, "Compare its picture.", fatal=False))
    if xray.foreign_sidecar:
        rule = "a .json of the X-ray's name holds its 'camera' and 'synthetic'"
        found, remedy = "another tool's file, left unread", "Rename it if it is not the X-ray's geometry."
        problems.append(Problem(patient_id, path, rule, found, remedy, fatal=False))
    narrow, wide = _XRAY_ASPECT
    if frontal and not xray.synthetic and not narrow < w / h < wide:
        rule = f"a frontal X-ray is more than {narrow:g} and less than {wide:g} times as wide as high"
        shape = " (shaped like a lateral)" if w < h else ""
        problems.append(Problem(patient_id, path, rule, f"{w} x {h}{shape}", "Give the frontal view."))
    if min(h, w) < MIN_SIDE or max(h, w) > _MAX_XRAY_SIDE:
        rule = f"an X-ray has {MIN_SIDE} to {_MAX_XRAY_SIDE} pixels a side"
        problems.append(Problem(patient_id, path, rule, f"{w} x {h}", "Export it at the detector's resolution."))
    return problems


def _mark(problem: Problem) -> str:
    return " (a note)" if problem.note else "" if problem.fatal else " (used anyway)"


def format_problems(problems: Sequence[Problem]) -> str:
    """A plain table, one problem a row."""
    header = ("case", "file", "rule", "found", "remedy")
    rows = [(p.patient_id, p.path, p.rule + _mark(p), p.found, p.remedy) for p in problems]
    cells = [header, *[tuple(" ".join(cell.split()) for cell in row) for row in rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    cells.insert(1, tuple("-" * width for width in widths))
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells)
