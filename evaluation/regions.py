"""Regions of a chest CT by rules on HU alone: the same for real, drawn and reconstructed CTs.

lung      see `common.organs.lung_mask`
body      what is denser than fat and air between, the largest piece, with its holes closed slice by slice
mediastinum  in each axial slice what the convex hull of the lungs holds besides lung and bone: heart, great vessels
bone      denser than 150 HU, in pieces that reach out of that hull by at least a tenth: spine, ribs, sternum
contrast  denser than 150 HU, in the other pieces: contrast-filled heart chambers and vessels, calcifications

Bone and contrast count in slices that show lung. Where contrast touches bone, the narrow place parts them. A segmenter
knows better; rules have no weights, and err alike on both sides of a comparison.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.morphology import convex_hull_image

from common.organs import lung_mask, pockets_of

Mask = NDArray[np.bool_]

REGIONS = ("lung", "mediastinum", "body", "bone", "contrast")
DENSE_HU = 150
_BODY_HU = -300
_OUT_OF_HULL = 0.1  # share of a dense piece from which on it is bone


def regions_of(hu: NDArray, spacing: Sequence[float]) -> dict[str, Mask]:
    """Masks (D, H, W) by the names of `REGIONS`; empty ones where there is nothing of the kind.

    Args:
        hu: (D, H, W), axes foot -> head, front -> back, right -> left. spacing: (d, h, w) in mm.
    """
    lung = lung_mask(hu, spacing)
    hull = np.stack([convex_hull_image(plane) if plane.any() else plane for plane in lung])
    dense = (hu > DENSE_HU) & lung.any(axis=(1, 2), keepdims=True)
    pieces = pockets_of(dense, spacing)
    sizes = np.bincount(pieces.ravel())
    outside = np.bincount(pieces[~hull], minlength=len(sizes))
    is_bone = outside >= _OUT_OF_HULL * np.maximum(sizes, 1)
    bone = dense & is_bone[pieces]
    return {
        "lung": lung,
        "mediastinum": hull & ~lung & ~bone,
        "body": _body(hu),
        "bone": bone,
        "contrast": dense & hull & ~bone & ~lung,
    }


def _body(hu: NDArray) -> Mask:
    pieces, count = ndimage.label(hu > _BODY_HU)
    if count == 0:
        return np.zeros(hu.shape, bool)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return np.stack([ndimage.binary_fill_holes(plane) for plane in pieces == sizes.argmax()])
