"""PNGs of 16 bit with colour or transparency. Pillow keeps 8 bits of them, but gives either byte of each number."""

from collections.abc import Callable

import numpy as np
from PIL import ImageOps
from PIL.ImageFile import ImageFile

_COLOUR = {  # Pillow's name of the pixels in the file, most significant byte first -> its name for the other byte
    "RGB;16B": "RGB;16L",
    "RGBA;16B": "RGBA;16L",
}
_GREY_ALPHA = "LA;16B"  # as "RGBA", its pixels are the bytes: grey high, grey low, alpha high, alpha low
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601, as in Pillow


def is_deep(image: ImageFile) -> bool:
    """Whether an opened image, not loaded yet, has more bits than Pillow would give."""
    return _raw_mode(image) in (*_COLOUR, _GREY_ALPHA)


def deep_grey(open_image: Callable[[], ImageFile]) -> np.ndarray:
    """uint16 (h, w) of an image that `is_deep`, turned as its EXIF tag says; alpha is left out."""
    with open_image() as image:
        name = _raw_mode(image)
    if name == _GREY_ALPHA:
        pixels = _decode(open_image, "RGBA")
        return pixels[..., 0] << 8 | pixels[..., 1]
    colours = _decode(open_image, name)[..., :3] << 8 | _decode(open_image, _COLOUR[name])[..., :3]
    return np.rint(colours @ _LUMA).astype(np.uint16)


def _raw_mode(image: ImageFile) -> str:
    return str(image.tile[0].args) if image.tile else ""


def _decode(open_image: Callable[[], ImageFile], raw_mode: str) -> np.ndarray:
    """Pixels (h, w, 3 or 4), the bytes that `raw_mode` picks, as uint16."""
    with open_image() as image:
        image.tile = [tile._replace(args=raw_mode) for tile in image.tile]
        return np.asarray(ImageOps.exif_transpose(image)).astype(np.uint16)
