"""CTs within the report: real and generated ones, small enough to be embedded, for its viewer."""

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from common.atomic import write_text

FOLDER = "report"
MOST_BYTES = 16_000_000  # of all embedded volumes together; with the viewer itself a report stays below 20 MB
_SIDE = 128  # most voxels along an axis of an embedded volume
_HU_STEP = 4  # HU are rounded to it, far below what a window shows
_REAL = "_real.nii.gz"


def shown_cases(psnr: Mapping[str, float], count: int = 6) -> list[str]:
    """Whose CTs the viewer shows: the best, the worst and those in the middle, in falling order of `psnr`."""
    order = sorted(psnr, key=lambda name: -psnr[name])
    if len(order) <= count:
        return order
    third, middle = count // 3, len(order) // 2
    chosen = [*order[:third], *order[middle - 1 : middle - 1 + count - 2 * third], *order[-third:]]
    return list(dict.fromkeys(chosen))


def embed(folder: Path, name: str, pair: Sequence[NDArray], affine: NDArray, most_bytes: int) -> None:
    """Write FOLDER/NAME.js, which gives the page's viewer a case's CTs.

    Args:
        folder: of the evaluation. pair: real and generated HU (D, H, W) of one grid.
        affine: (x, y, z) voxel → mm, RAS, of NIfTI; x runs along W.
        most_bytes: of the file; voxels are averaged until it is no larger.
    """
    side = _SIDE
    while True:
        text = json.dumps(
            {key: _encoded(hu, affine, side) for key, hu in zip(("real", "generated"), pair, strict=True)}
        )
        if len(text) <= most_bytes or side <= 8:
            break
        side = int(side * 0.8)
    write_text(folder / FOLDER / f"{name}.js", f"addVolumes({json.dumps(name)}, {text});\n")


def embedded_pair(folder: Path, name: str) -> tuple[dict[str, NDArray], tuple[float, ...]]:
    """The CTs that `embed` wrote, HU (D, H, W), and their spacing (d, h, w) in mm."""
    text = (folder / FOLDER / f"{name}.js").read_text(encoding="utf-8")
    _, pair = json.loads(f"[{text.strip().removeprefix('addVolumes(').removesuffix(');')}]")
    images = {key: nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(ct))) for key, ct in pair.items()}
    w, h, d = (float(s) for s in images["real"].header.get_zooms())
    return {key: np.asarray(image.dataobj).transpose(2, 1, 0) for key, image in images.items()}, (d, h, w)


def embedded(folder: Path) -> list[str]:
    """Cases whose CTs are embedded, as they were chosen."""
    try:
        chosen: list[str] = json.loads((folder / FOLDER / "cases.json").read_text(encoding="utf-8"))
    except OSError:
        return []
    return [name for name in chosen if (folder / FOLDER / f"{name}.js").is_file()]


def choose(folder: Path, names: Sequence[str]) -> None:
    """Note whose CTs the viewer shows; files of others go."""
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    for ending in (".js", _REAL):
        for path in (folder / FOLDER).glob(f"*{ending}"):
            if path.name.removesuffix(ending) not in names and path.name not in ("page.js", "niivue-0.69.0.js"):
                path.unlink()
    write_text(folder / FOLDER / "cases.json", json.dumps(list(names)))


def real_path(folder: Path, name: str) -> Path:
    """Where the real CT of a case lies at full size."""
    return folder / FOLDER / f"{name}{_REAL}"


def full_size(folder: Path) -> dict[str, dict[str, str]]:
    """By case its CTs at full size, of those whose real one is there; paths in the evaluation's folder."""
    found = {}
    for name in embedded(folder):
        generated = [path for end in ("_mean", "") if (path := folder / "volumes" / f"{name}{end}.nii.gz").is_file()]
        if real_path(folder, name).is_file() and generated:
            paths = {"real": real_path(folder, name), "generated": generated[0]}
            found[name] = {key: path.relative_to(folder).as_posix() for key, path in paths.items()}
    return found


def _encoded(hu: NDArray, affine: NDArray, side: int) -> str:
    """A gzipped NIfTI in base64, of blocks' means, with at most about `side` voxels along an axis."""
    steps = [-(-n // side) for n in hu.shape]
    for axis, step in enumerate(steps):
        if step > 1:
            whole = hu.shape[axis] // step * step
            blocks = np.moveaxis(hu, axis, 0)[:whole].reshape(whole // step, step, *np.delete(hu.shape, axis))
            hu = np.moveaxis(blocks.mean(1, dtype=np.float32), 0, axis)
    placed = np.array(affine, dtype=np.float64)
    placed[:3, 3] += placed[:3, :3] @ [(step - 1) / 2 for step in steps[::-1]]
    placed[:3, :3] *= steps[::-1]
    rounded = (np.round(hu / _HU_STEP) * _HU_STEP).astype(np.int16)
    image = nib.Nifti1Image(rounded.transpose(2, 1, 0), placed)
    image.header.set_xyzt_units("mm")
    stream = BytesIO(image.to_bytes())
    return base64.b64encode(gzip.compress(stream.getvalue(), 9, mtime=0)).decode("ascii")
