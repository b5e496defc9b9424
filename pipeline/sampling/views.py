"""Further X-rays of a patient, beside the frontal one: which files they are."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from common.errors import UserError
from dataset.scans.camera import LATERAL
from dataset.scans.xray_files import is_image, name_of

log = logging.getLogger(__name__)


def given_views(lateral: str | Path | None, views: Mapping[str, str | Path] | None) -> dict[str, Path]:
    """Files or folders of further X-rays by their names."""
    named = {**(views or {}), **({} if lateral is None else {LATERAL: lateral})}
    return {name: Path(path) for name, path in named.items()}


def views_of(image: Path, views: Mapping[str, Path]) -> dict[str, Path]:
    """Further X-rays of an image's patient by their names: files, or in folders those of the image's name."""
    found: dict[str, Path] = {}
    for name, path in views.items():
        if path.is_dir():
            same = [p for p in sorted(path.iterdir()) if name_of(p) == name_of(image) and is_image(p)]
            if len(same) > 1:
                raise UserError(f"{path} holds {len(same)} images named {name_of(image)}; keep the {name} one")
            if not same:
                log.info("%s has no %s in %s: drawn without it", image.name, name, path)
            found.update((name, file) for file in same)
        elif path.exists():
            found[name] = path
        else:
            raise FileNotFoundError(f"no X-ray at {path}; {name} takes an image, or a folder of images")
    return found


def check_views(pairs: Sequence[tuple[Path, Path]], views: Mapping[str, Path]) -> None:
    """UserError for one further X-ray that several patients would share."""
    single = [name for name, path in views.items() if not path.is_dir()]
    if len(pairs) > 1 and single:
        raise UserError(
            f"{len(pairs)} X-rays, but {', '.join(single)} is one image: give a folder, with images named as the X-rays"
        )
