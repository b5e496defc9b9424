"""A film registered to its patient's CT by the CT's own projections: where the film's camera really stood.

Sought are the film's turn, shift and magnification, two small turns out of its plane, and the breath by which the film
differs from the CT. Two steps: all shifts at once by FFT for a grid of turns and magnifications (masked normalised
correlation, Padfield 2012, of gradients), then Gauss-Newton on images of even local contrast, coarse and fine, where
tiles that disagree weigh little. What lies outside the collimator, the body or the CT's field of view does not count.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from common.geometry import Spacing
from dataset.scans.camera import Matrix
from dataset.scans.film_search import search
from dataset.scans.film_view import BREATH, PITCH, TURN, YAW, ZOOM, FilmView, Pose, moved, smoothed
from dataset.scans.slabs import Image, Slabs

COARSE, FINE = 64, 128  # pixels of the longer side
LEAST_SCORE = 0.88  # of a film and its own patient's CT: 0.90 and more in calibration; other patients' 0.86, once 0.90
_FARTHEST = np.array([0.5, 0.5, np.radians(25), np.log(1.7), np.radians(10), np.radians(10), 45.0])  # poses believed
_LIKELY = np.array([np.inf] * 4 + [np.radians(2.5)] * 2 + [10.0])  # standard deviations of poses
_PIXELS_APART = 8  # residuals closer than this count as one
_KEPT_ROUNDS = 3  # for which slopes by finite differences hold: they change slowly
_STEPS = np.array([0, 0, 0, 0, np.radians(1), np.radians(1), 3.0])  # of finite differences


@dataclass(frozen=True)
class Registration:
    """Where a film's camera stood.

    camera: (3, 4); the declared one where not `ok`. score: correlation of the gradients of film and projection at
    the end, -1 to 1. ok: whether film and CT fit as one patient's do. breath_mm: by how much the diaphragm
    stands higher on the film than in the CT.
    """

    camera: Matrix
    score: float
    ok: bool
    breath_mm: float


def register(image: np.ndarray, hu: np.ndarray, spacing: Spacing, declared: Matrix) -> Registration:
    """Find the camera of a frontal or lateral film.

    Args:
        image: (h, w) in [0, 1], bright = dense.
        hu: int16 (D, H, W), axes foot -> head, front -> back, patient right -> left; thinned to about 4 mm.
        spacing: (d, h, w) in mm.
        declared: camera (3, 4) to start from. The true one is found within 70 mm of it, 8° in the film's plane and 5°
            out of it, and magnifications of 0.9 to 1.3 beyond its own.
    """
    slabs = Slabs.of(hu, spacing, declared)
    view = FilmView.of(image, declared, COARSE)
    found = search(view, slabs)
    if found is None:
        return Registration(declared, 0.0, False, 0.0)
    pose = refine(view, slabs, found.pose, 4, range(YAW))
    pose = refine(view, slabs, pose, 8)
    fine = FilmView.of(image, declared, FINE)
    pose = refine(fine, slabs, pose, 6)
    score = likeness(fine, slabs, pose)
    ok = score >= LEAST_SCORE and bool((np.abs(pose) <= _FARTHEST).all())
    return Registration(fine.camera_of(pose) if ok else declared, score, ok, float(pose[BREATH]))


def refine(view: FilmView, slabs: Slabs, pose: Pose, rounds: int, free: range = range(7)) -> Pose:
    """Gauss-Newton from a pose, in the parameters that are `free`."""
    pose, chosen = pose.copy(), list(free)
    pixels = view.size * np.array([1, 1, 0.5, 0.5, 0.5, 0.5, 0.25 / view.size])  # of motion, about, per parameter
    aside: dict[int, Image] = {}
    for count in range(rounds):
        projected, mask = view.projected(slabs, pose)
        common = ndimage.binary_erosion(mask * view.open > 0).astype(np.float32)
        if common.sum() < 0.03 * common.size:
            break
        gain = float((view.even * projected * common).sum() / max((projected**2 * common).sum(), 1e-6))
        residual = (view.even - gain * projected) * common
        weight = _trust(residual, common)
        if count % _KEPT_ROUNDS == 0:
            aside = _slopes_aside(view, slabs, pose, projected, mask, {YAW, PITCH, BREATH} & set(chosen))
        known = _slopes_in_plane(view, pose, projected) | aside
        slopes = gain * np.stack([known[k] for k in chosen])
        slopes = (slopes * common).reshape(len(chosen), -1)
        normal = (slopes * weight.ravel()) @ slopes.T
        pull = (slopes * weight.ravel()) @ residual.ravel()
        variance = float((weight * residual**2).sum() / max(weight.sum(), 1e-6)) * _PIXELS_APART
        prior = variance / _LIKELY[chosen] ** 2
        damping = np.diag(prior + 1e-3 * np.diag(normal) + 1e-9)
        step = np.linalg.solve(normal + damping, pull - prior * pose[chosen])
        longest = float(np.abs(step * pixels[chosen]).max())
        pose[chosen] += step / max(1.0, longest / 3)
        if longest < 0.02:
            break
    return pose


def _trust(residual: Image, common: Image) -> Image:
    """Weights (h, w) of pixels: small where residuals around them are larger than elsewhere (Geman & McClure 1987)."""
    around = smoothed(residual**2, 3.0) / (smoothed(common, 3.0) + 1e-3)
    usual = float(np.median(around[common > 0]))
    return (common / (1 + around / (2 * usual + 1e-9)) ** 2).astype(np.float32)


def _slopes_in_plane(view: FilmView, pose: Pose, projected: Image) -> dict[int, Image]:
    """Of the projection (h, w) by the parameters of the film's plane, from its own slopes."""
    down, across = (slope * view.size for slope in np.gradient(projected))
    centre = moved(view.camera, pose)[:2, 3].astype(np.float32)
    x, y = (axis.reshape(projected.shape) for axis in view.pixels[:2] - centre[:, None])
    return {0: -across, 1: -down, TURN: y * across - x * down, ZOOM: -(x * across + y * down)}


def _slopes_aside(
    view: FilmView, slabs: Slabs, pose: Pose, projected: Image, mask: Image, chosen: set[int]
) -> dict[int, Image]:
    """Of the projection (h, w) by other parameters, by finite differences."""
    slopes = {}
    for k in chosen:
        aside = pose.copy()
        aside[k] += _STEPS[k]
        other, other_mask = view.projected(slabs, aside)
        slopes[k] = (other - projected) * (other_mask * mask) / _STEPS[k]
    return slopes


def likeness(view: FilmView, slabs: Slabs, pose: Pose) -> float:
    """Correlation of the smoothed gradients of film and projection, over what both show; 0 where that is little."""
    projected, mask = view.projected(slabs, pose)
    common = ndimage.binary_erosion(mask * view.open > 0, iterations=2)
    if common.mean() < 0.03:
        return 0.0
    images = (smoothed(image, view.size / 64) for image in (view.even, projected))
    ours, theirs = (np.array(np.gradient(image))[:, common] for image in images)
    return float((ours * theirs).sum() / max(np.sqrt((ours**2).sum() * (theirs**2).sum()), 1e-6))
