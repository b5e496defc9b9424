"""Chest X-rays on disk <-> grey images in [0, 1] with their geometry.

Shown as radiologists see them: head up, the patient's left on the image's right. Their cameras (3, 4) are those of
`dataset.scans.camera`.
"""

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from common.atomic import replacing, write_text
from common.errors import BadFileError, of_the_machine, refusing_damage
from dataset.scans import camera as cam
from dataset.scans.camera import FRONTAL, Film, Matrix
from dataset.scans.deep_png import deep_grey, is_deep
from dataset.scans.dicom_file import is_dicom
from dataset.scans.xray_dicom import read_xray_dicom
from dataset.scans.xray_files import sidecar_of

if TYPE_CHECKING:  # preparation workers start without torch
    from torch import Tensor

MAX_PIXELS = 80_000_000  # the largest detectors have about 20 million
MIN_SIDE = 64
KIND_FULL_SCALE = {"uint8": 255, "uint16": 65535}
_TWELVE_BITS, _16_BITS = 4095, 65535
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0  # a TIFF tag, and its value where large numbers are dark
_SCALE_PERCENTILES = (0.5, 99.5)
_SIZE_RULE = f"an X-ray has at least {MIN_SIDE} pixels a side and at most {MAX_PIXELS // 1_000_000} million in all"
_SIZE_REMEDY = "Export it at the detector's resolution."
_SIDECAR_KEYS = {"camera", "affine", "synthetic"}
_SIDECAR_RULE = (
    "an X-ray's sidecar holds 'camera' (3x4 finite numbers or null), or 'affine' (2x3) instead, and 'synthetic'"
    " (true or false)"
)
_SIDECAR_REMEDY = "Rewrite or remove it."


@dataclass(frozen=True)
class Xray:
    """A chest X-ray.

    image: float32 (h, w), values of the file divided by the full scale of its type.
    kind: what the file stored: "uint8" (also a 16-bit file without a value above 255), "uint16", "uint12" (none above
        4095) or "dicom". Images of one kind share an intensity scale.
    camera: float64 (3, 4); None if unknown.
    synthetic: projected from a CT.
    foreign_sidecar: the `<stem>.json` beside it is another tool's and was left unread.
    view: "PA", "AP", "LL" or "RL" by the file's tags; empty where they do not tell.
    useless_window: its window is none or shows hardly any of it, and was left out.
    """

    image: np.ndarray
    kind: str
    camera: Matrix | None
    synthetic: bool
    foreign_sidecar: bool = False
    view: str = ""
    useless_window: bool = False


def read_xray(path: Path | str, film: Film = Film(), expected: str = FRONTAL) -> Xray:  # noqa: B008 (frozen)
    """Read a PNG, JPEG, TIFF or DICOM image of 8 or 16 bit with 1, 3 or 4 channels (alpha is left out).

    The geometry comes from the sidecar `<stem>.json` that `write_xray` makes, or else from DICOM tags; the sidecar of
    a DICOM image speaks of its pixels as they are given here. `film` says what tags of pixel size leave open,
    `expected` which views (`camera.FRONTAL`, `LATERAL`, `ANY`) tags may tell.

    Raises:
        OSError, MemoryError: no such file, or the machine cannot read it now.
        BadFileError: (a ValueError) not an image, damaged, too small or large, or another view; names the file.
    """
    path = Path(path)
    if is_dicom(path):
        image, camera, view, useless = read_xray_dicom(path, lambda size: _check_size(size, path), film, expected)
        xray = Xray(image, "dicom", camera, synthetic=False, view=view, useless_window=useless)
    else:
        xray = Xray(*_read_picture(path), camera=None, synthetic=False)
    return _with_sidecar(xray, sidecar_of(path))


def write_xray(path: Path | str, image: np.ndarray, camera: Matrix | None, synthetic: bool) -> None:
    """Write an image (h, w) in [0, 1] as a 16-bit PNG, with its geometry in `<stem>.json` beside it."""
    path = Path(path)
    if image.ndim != 2 or not (np.isfinite(image).all() and image.min() >= 0 and image.max() <= 1):
        raise ValueError(f"an X-ray to write must be (h, w) in [0, 1], got shape {image.shape} for {path}")
    geometry = None if camera is None else np.asarray(camera, dtype=float).tolist()
    write_text(sidecar_of(path), json.dumps({"camera": geometry, "synthetic": synthetic}) + "\n")
    with replacing(path) as temporary:
        Image.fromarray(np.rint(image * KIND_FULL_SCALE["uint16"]).astype(np.uint16)).save(temporary)


def to_square(xray: Xray, size: int = 512) -> tuple[np.ndarray, Matrix | None]:
    """Pad with 0 to a centred square, then resize: (image float32 (size, size) in [0, 1], its camera)."""
    h, w = xray.image.shape
    side = max(h, w)
    top, left = (side - h) // 2, (side - w) // 2
    padded = np.zeros((side, side), dtype=np.float32)
    padded[top : top + h, left : left + w] = xray.image
    image = _resize(padded, size)
    if xray.camera is None:
        return image, None
    return image, cam.of_pixels(cam.resized(size / side, (left, top)), xray.camera)


def intensity_percentiles(image: np.ndarray) -> tuple[float, float]:
    """The 0.5 and 99.5 percentiles, which scale an image robustly; of the file's own image, which nothing pads."""
    low, high = np.percentile(image, _SCALE_PERCENTILES)
    return float(low), float(high)


def scale_xray(image: np.ndarray, ends: tuple[float, float]) -> np.ndarray:
    """Stretch (low, high) to [0, 1], clipped, float32."""
    low, high = ends
    return np.clip((image - low) / max(high - low, 1e-6), 0, 1).astype(np.float32)


def encoder_view(image: np.ndarray, size: int, mean: Sequence[float], std: Sequence[float]) -> "Tensor":
    """Image (h, w) in [0, 1] -> float32 (3, size, size), resized and normalised for an encoder."""
    import torch  # here, because preparation workers start without it

    grey = torch.from_numpy(_resize(image, size)).expand(3, size, size)
    return (grey - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def _resize(image: np.ndarray, size: int) -> np.ndarray:
    """Smoothed resize of a square float32 image; never leaves the range of its values."""
    if image.shape == (size, size):
        return image.astype(np.float32)
    return np.array(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))


def _check_size(size: tuple[int, int], path: Path) -> None:
    w, h = size
    if w * h > MAX_PIXELS or min(w, h) < MIN_SIDE:
        raise BadFileError(path, _SIZE_RULE, f"{w} x {h}", _SIZE_REMEDY)


def _read_picture(path: Path) -> tuple[np.ndarray, str]:
    """Image float32 (h, w) in [0, 1] and its kind."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of size, which is checked, and of tags
            with _open_picture(path) as image:
                _check_size(image.size, path)
                deep = is_deep(image)
                image.verify()  # checksums; leaves the image unusable
            pixels = deep_grey(partial(_open_picture, path)) if deep else _grey(path)
    except Image.DecompressionBombError:
        raise BadFileError(path, _SIZE_RULE, "a far larger image", _SIZE_REMEDY) from None
    except BadFileError:
        raise
    except Exception as error:  # what Pillow raises on damaged bytes is an open list
        if of_the_machine(error):
            raise  # no such file, no permission: the system's message names it
        rule = "an X-ray is a whole PNG, JPEG, TIFF or DICOM image"
        found = "something else" if isinstance(error, UnidentifiedImageError) else f"a damaged one ({error})"
        raise BadFileError(path, rule, found, "Export the X-ray again.") from error
    if pixels.max() <= KIND_FULL_SCALE["uint8"]:
        return pixels.astype(np.float32) / KIND_FULL_SCALE["uint8"], "uint8"
    kind = "uint12" if pixels.max() <= _TWELVE_BITS else "uint16"
    return pixels.astype(np.float32) / KIND_FULL_SCALE["uint16"], kind


def _open_picture(path: Path) -> ImageFile:
    return Image.open(path, formats=("PNG", "JPEG", "TIFF"))


def _grey(path: Path) -> np.ndarray:
    """uint8 or uint16 (h, w)."""
    with _open_picture(path) as opened:
        tags, frames = getattr(opened, "tag_v2", {}), getattr(opened, "n_frames", 1)
        image = ImageOps.exif_transpose(opened)
    if frames > 1 and opened.format == "TIFF":
        raise BadFileError(path, "an X-ray has one frame", f"{frames} pages", "Save the X-ray alone.")
    if image.mode == "F" or (image.mode == "I" and not _fits_16_bits(image)):
        rule = "an X-ray holds whole numbers of 8 or 16 bit"
        raise BadFileError(path, rule, "numbers of 32 bit", "Export it as 16 bit.")
    if image.mode.startswith("I"):
        pixels = np.asarray(image).astype(np.uint16)
        white = next(most for most in (KIND_FULL_SCALE["uint8"], _TWELVE_BITS, _16_BITS) if pixels.max() <= most)
        return white - pixels if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO else pixels  # Pillow turns 8 bits alone
    if image.mode in ("L", "LA"):
        return np.asarray(image.getchannel(0))
    return np.asarray(image.convert("RGB").convert("L"))


def _fits_16_bits(image: Image.Image) -> bool:
    values = np.asarray(image)
    return bool(values.min() >= 0 and values.max() <= _16_BITS)


def _with_sidecar(xray: Xray, path: Path) -> Xray:
    """The X-ray with what its sidecar says, if there is one."""
    if not path.is_file():
        return xray
    with refusing_damage(path, _SIDECAR_RULE, _SIDECAR_REMEDY, quote=False):
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict) and content and _SIDECAR_KEYS.isdisjoint(content):  # of dcm2niix, for instance
            return replace(xray, foreign_sidecar=True)
        known = _told(content)
        synthetic = bool(content["synthetic"])
    if known is not None and not (cam.is_camera(known) and np.argmax(np.abs(cam.ray_to_source(known)[0])) != 2):
        raise BadFileError(path, _SIDECAR_RULE, f"the camera {known.tolist()}", _SIDECAR_REMEDY)
    return replace(xray, camera=xray.camera if known is None else known / known[2, 3], synthetic=synthetic)


def _told(sidecar: Mapping[str, Any]) -> Matrix | None:
    """The camera in a sidecar: its own, or that of an affine, which parallel rays have."""
    if "camera" in sidecar:
        return None if sidecar["camera"] is None else np.array(sidecar["camera"], dtype=float)
    return None if sidecar["affine"] is None else cam.from_affine(sidecar["affine"])
