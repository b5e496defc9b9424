"""What is suspicious about a CT or an X-ray that could be read, and the table that says so."""

from collections.abc import Sequence

import numpy as np

from dataset.prepare.hu_scale import likeness
from dataset.scans.slice_order import odd_slices
from dataset.scans.volume_io import Volume
from dataset.scans.xray_io import MIN_SIDE, Xray
from dataset.store.case import Problem

_AIR_HU, _MIN_AIR = -500, 0.01
_TISSUE_HU, _MIN_TISSUE = (-200, 200), 0.05
_SPACING_MM = (0.05, 50.0)
_LOST_GEOMETRY = (np.eye(4), np.diag([-1.0, -1.0, 1.0, 1.0]))  # nibabel's and SimpleITK's for a bare array
_ANISOTROPY = 10.0
_XRAY_ASPECT = (0.5, 2.0)  # width by height; between these a view can be frontal
_MAX_XRAY_SIDE = 16384  # pixels; the largest detectors have about 5000
_XRAY_LEVELS = 16
_SAMPLE_SIDE = 512  # pixels


def check_volume(patient_id: str, path: str, volume: Volume, thin: np.ndarray) -> list[Problem]:
    """Problems of a CT; `thin` is a thinned copy of its voxels."""
    problems = []
    if thin.min() == thin.max():
        rule, found = "a CT is not constant", f"{thin.min()} everywhere"
        return [Problem(patient_id, path, rule, found, "Export the scan again.")]
    air = float((thin < _AIR_HU).mean())
    tissue = float(((thin > _TISSUE_HU[0]) & (thin < _TISSUE_HU[1])).mean())
    if air < _MIN_AIR or tissue < _MIN_TISSUE:
        low, high = _TISSUE_HU
        rule = f"a chest CT holds air (below {_AIR_HU} HU) and soft tissue ({low} to {high} HU)"
        found = f"{thin.min()} to {thin.max()}, {air:.1%} air, {tissue:.1%} tissue"
        like, remedy = likeness(thin)
        found += f"; {like}" if like else ""
        remedy = remedy or "Check that this is the CT and that its rescale slope and intercept are applied."
        problems.append(Problem(patient_id, path, rule, found, remedy))
    odd = odd_slices(volume.hu)
    if odd:
        rule = "a slice looks more like its neighbours than they like each other"
        found = f"slice(s) {', '.join(map(str, odd[:5]))} of {len(volume.hu)}, from the feet: misplaced or damaged"
        problems.append(Problem(patient_id, path, rule, found, "Export the scan again."))
    if any(np.array_equal(volume.source_affine, affine) for affine in _LOST_GEOMETRY):
        rule = "a header tells the voxels' sizes and directions"
        found = "voxels of 1 mm from place 0 on, as files say whose geometry was lost"
        remedy = "Compare with the original: sizes may be wrong, left and right or front and back exchanged."
        problems.append(Problem(patient_id, path, rule, found, remedy, fatal=False))
    spacing = volume.spacing
    found = " x ".join(f"{size:.3g}" for size in spacing) + " mm"
    if min(spacing) < _SPACING_MM[0] or max(spacing) > _SPACING_MM[1]:
        rule = f"voxels measure {_SPACING_MM[0]} to {_SPACING_MM[1]} mm"
        problems.append(Problem(patient_id, path, rule, found, "Correct the spacing in the header."))
    elif max(spacing) > _ANISOTROPY * min(spacing):
        rule = f"voxels are at most {_ANISOTROPY:g} times longer than wide"
        problems.append(Problem(patient_id, path, rule, found, "Prefer a thinner reconstruction.", fatal=False))
    return problems


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
        problems.append(Problem(patient_id, path, rule, found, "Compare the report's picture.", fatal=False))
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
