"""Small pictures of a case, for the report: the middle coronal plane of the CT, and the X-ray.

Where the X-ray fits its CT better in another way, it stands there once more, mended in that way.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from common.atomic import replacing
from common.planes import planes_at
from common.voxel_file import box_of
from dataset.scans.pair_check import mended
from dataset.scans.volume_io import Volume
from dataset.scans.xray_io import Xray

HEIGHT = 160  # pixels
_MAX_WIDTH = 2 * HEIGHT
_GAP = 4
_CT_WINDOW = (-1000, 500)  # HU: lungs and soft tissue both show
_GREY_PERCENTILES = (0.5, 99.5)


def thumbnail_path(store: Path, name: str) -> Path:
    return store / "thumbnails" / f"{name}.png"


def write_thumbnail(
    store: Path, name: str, volume: Volume | None, xray: Xray | None, better: str | None = None
) -> None:
    """Write CT and X-ray side by side, whichever there is, as a grey PNG; none if there is neither.

    better: what the X-ray seems to be, by `fits_better`; shown mended, too.
    """
    path = thumbnail_path(store, name)
    views = [*([] if volume is None else [coronal_view(volume)]), *([] if xray is None else [xray_view(xray)])]
    if better is not None and xray is not None:
        views.append(xray_view(replace(xray, image=mended(xray.image, better))))
    if not views:
        path.unlink(missing_ok=True)  # of an earlier state of the case
        return
    page = Image.new("L", (sum(view.width + _GAP for view in views) - _GAP, HEIGHT), 255)
    left = 0
    for view in views:
        page.paste(view, (left, 0))
        left += view.width + _GAP
    with replacing(path) as temporary:
        page.save(temporary)


def coronal_view(volume: Volume) -> Image.Image:
    """The middle coronal plane in true proportions, head up, the patient's right on the left."""
    plane = planes_at(box_of(volume.hu), volume.hu.shape)["coronal"]
    d, _, w = volume.spacing
    return _picture(_grey(plane, *_CT_WINDOW), plane.shape[1] * w / (plane.shape[0] * d))


def xray_view(xray: Xray) -> Image.Image:
    h, w = xray.image.shape
    step = max(1, h // (2 * HEIGHT))  # a film has a hundred times the pixels needed
    small = xray.image[::step, ::step]
    low, high = np.percentile(small, _GREY_PERCENTILES)
    return _picture(_grey(small, float(low), float(high)), w / h)


def _grey(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return ((values.clip(low, high).astype(np.float32) - low) * (255 / max(high - low, 1e-6))).astype(np.uint8)


def _picture(grey: np.ndarray, aspect: float) -> Image.Image:
    width = int(np.clip(round(HEIGHT * aspect), 1, _MAX_WIDTH))
    return Image.fromarray(np.ascontiguousarray(grey)).resize((width, HEIGHT), Image.Resampling.BILINEAR)
