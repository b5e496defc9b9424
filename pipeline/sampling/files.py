"""The files of a drawn CT: NIfTI, preview and the facts that tell whether it is finished."""

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np

from common.atomic import write_text
from common.errors import UserError
from common.geometry import Triple
from common.notice import NOTICE
from common.planes import planes_at
from common.voxel_file import ReadBox
from dataset.scans.nifti_stream import stream_ct, write_mean_and_std
from dataset.scans.xray_files import SUFFIXES, is_image, name_of, sidecar_of
from evaluation.pictures import preview
from pipeline.sampling.ct_sampler import Placement

log = logging.getLogger(__name__)

VOLUMES = (".nii.gz", ".nii")


def stem_of(nifti: Path) -> str:
    for suffix in VOLUMES:
        if nifti.name.endswith(suffix):
            return nifti.name.removesuffix(suffix)
    raise UserError(f"output must end in .nii.gz or .nii, got {nifti}")


def beside(nifti: Path, ending: str) -> Path:
    """The file of the same stem with another ending: ct.nii.gz, "_mean.nii.gz" -> ct_mean.nii.gz."""
    return nifti.with_name(stem_of(nifti) + ending)


def sample_paths(nifti: Path, num_samples: int) -> list[Path]:
    """Where an X-ray's samples go: the path itself for one, NAME_s0, NAME_s1, ... for several."""
    if num_samples == 1:
        return [nifti]
    return [beside(nifti, f"_s{i}{nifti.name.removeprefix(stem_of(nifti))}") for i in range(num_samples)]


def all_paths(nifti: Path, num_samples: int) -> list[Path]:
    """Every NIfTI that an X-ray's samples become: the samples and, of several, their statistics."""
    return sample_paths(nifti, num_samples) + (list(statistic_paths(nifti)) if num_samples > 1 else [])


def statistic_paths(nifti: Path) -> tuple[Path, Path]:
    """Where the mean and the standard deviation of several samples go."""
    suffix = nifti.name.removeprefix(stem_of(nifti))
    return beside(nifti, f"_mean{suffix}"), beside(nifti, f"_std{suffix}")


def jobs(
    xrays: Sequence[Path],
    output: Path,
    num_samples: int = 1,
    views: Mapping[str, Path] | None = None,
    reference: Path | None = None,
) -> list[tuple[Path, Path]]:
    """X-rays, one of them perhaps a folder, and the NIfTIs to write for them.

    Raises:
        FileNotFoundError, ValueError: no X-ray, an output of another kind, or files that would overwrite each other, or
            the further views or the reference that the CTs are drawn from.
    """
    for xray in xrays:
        if not xray.exists():
            raise FileNotFoundError(f"no X-ray at {xray}; xray= takes an image, a folder of images or a list of both")
    if len(xrays) == 1 and not xrays[0].is_dir():
        if not output.name.endswith(VOLUMES):
            if output.suffix and not output.is_dir():
                raise UserError(f"output must end in .nii.gz or .nii, or be a folder, got {output}")
            output = output / f"{name_of(xrays[0])}.nii.gz"
        pairs = [(xrays[0], output)]
    else:
        if output.name.endswith(VOLUMES):
            given = " ".join(map(str, xrays))
            raise UserError(f"xray={given} is a folder or a list, so output must be a folder, got {output}")
        images = [image for xray in xrays for image in (_images(xray) if xray.is_dir() else [xray])]
        pairs = [(image, output / f"{name_of(image)}.nii.gz") for image in images]
    _check_collisions(pairs)
    _check_kept(pairs, num_samples, [*(views or {}).values(), *([reference] if reference else [])])
    return pairs


def _images(folder: Path) -> list[Path]:
    images = sorted(filter(is_image, folder.iterdir()))
    if not images:
        raise UserError(
            f"no images in {folder} itself; X-rays end in {', '.join(sorted(SUFFIXES))}, or are such files by content"
        )
    return images


def _check_collisions(pairs: Sequence[tuple[Path, Path]]) -> None:
    made: dict[Path, Path] = {}
    for image, target in pairs:
        if target in made:
            raise UserError(f"{made[target]} and {image} would both become {target}; rename one or draw it apart")
        made[target] = image


def _check_kept(pairs: Sequence[tuple[Path, Path]], num_samples: int, others: Sequence[Path]) -> None:
    """UserError where what is written would overwrite what it is drawn from, or be taken for a part of it later.

    Args:
        others: files, and folders of images, that further belong to it.
    """
    kept: dict[Path, Path] = {}
    for file in (*(image for image, _ in pairs), *others):
        for path in (file,) if file.is_dir() else (file, sidecar_of(file)):  # an image with its geometry
            kept |= {_real(path): file, _real(path.parent) / path.name: file}  # what a link leads to, and the link
    for _, target in pairs:
        folder = _real(target.parent)
        if folder in kept:
            raise UserError(f"{target} would lie among the images of {kept[folder]}; give output another folder")
        for nifti in (target, *all_paths(target, num_samples)):
            for path in (nifti, beside(nifti, ".png"), beside(nifti, ".json")):
                if (found := kept.get(folder / path.name)) is not None:
                    raise UserError(f"{path} would overwrite {found} or its geometry; give output another folder")


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # `Path.resolve` raises where links go round in circles


def prepare_folder(folder: Path, shape: Triple, volumes: int) -> None:
    """Make a folder, and refuse now what would fail after hours: no right to write, or no room for one CT.

    Whether there is room for all `volumes` nobody knows before they are compressed; if it may not suffice, a warning
    says so.

    Raises:
        OSError: of the system.
    """
    folder.mkdir(parents=True, exist_ok=True)
    TemporaryFile(dir=folder).close()
    needed, all_needed = bytes_on_disk(shape, 1), bytes_on_disk(shape, volumes)
    free = shutil.disk_usage(folder).free
    if free < needed:
        reason = f"no room: up to {needed / 1e9:.2g} GB to write, {free / 1e9:.2g} GB free"
        raise OSError(errno.ENOSPC, reason, str(folder))
    if free < all_needed:
        words = "%s: %d CTs take up to %.2g GB, %.2g GB are free; finished ones stay if the disk is full before the end"
        log.warning(words, folder, volumes, all_needed / 1e9, free / 1e9)


def bytes_on_disk(shape: Triple, volumes: int) -> int:
    """Most bytes that several CTs, and one as it is being made, can take."""
    return 2 * (volumes + 1) * int(np.prod(shape, dtype=np.int64))


def file_hash(path: Path) -> str:
    """SHA-256 of a file: it names an X-ray without telling the patient's name."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_finished(nifti: Path, facts: Mapping[str, Any]) -> bool:
    """Whether the NIfTI is there and was drawn with just these facts."""
    try:
        stored = json.loads(beside(nifti, ".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return nifti.is_file() and isinstance(stored, dict) and json.loads(json.dumps(facts)).items() <= stored.items()


def write_sample(
    nifti: Path, read: ReadBox, place: Placement, xray: np.ndarray, facts: Mapping[str, Any], run: Mapping[str, Any]
) -> None:
    """NIfTI, then preview, then JSON: a JSON that is there describes complete files.

    Args:
        read: boxes of the CT. xray: (512, 512) in [0, 1].
        facts: what the CT follows from. run: how it was made.
    """
    with naming_disk(nifti, place.grid.shape):
        beside(nifti, ".json").unlink(missing_ok=True)
        stream_ct(nifti, read, place.grid.shape, place.affine, place.axes, NOTICE)
        preview(xray, planes_at(read, place.grid.shape), place.grid.shape, place.grid.spacing, beside(nifti, ".png"))
        _write_facts(nifti, facts, run)


def write_statistics(
    samples: Sequence[Path], nifti: Path, shape: Triple, facts: Mapping[str, Any], run: Mapping[str, Any]
) -> None:
    """Mean and standard deviation (HU) of an X-ray's samples, each with its JSON."""
    paths, count = statistic_paths(nifti), len(samples)
    with naming_disk(nifti, shape):
        for path in paths:
            beside(path, ".json").unlink(missing_ok=True)
        write_mean_and_std(samples, *paths, (f"Mean of {count}. {NOTICE}", f"SD of {count}. {NOTICE}"))
        for path, name in zip(paths, ("mean", "std"), strict=True):
            _write_facts(path, {**facts, "statistic": name}, run)


def _write_facts(nifti: Path, facts: Mapping[str, Any], run: Mapping[str, Any]) -> None:
    text = {"generated": True, "notice": NOTICE, **facts, "run": dict(run)}
    write_text(beside(nifti, ".json"), json.dumps(text, indent=1) + "\n")


@contextmanager
def naming_disk(nifti: Path, shape: Triple) -> Iterator[None]:
    """Says which file found the disk full."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        room = f"up to {bytes_on_disk(shape, 1) / 1e9:.2g} GB for this CT; nothing half-written is left"
        raise OSError(error.errno, f"no space left on the disk, which needs {room}", str(nifti)) from error
