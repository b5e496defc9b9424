"""Files of `torch.save`: written so that a full disk is told as such, looked at before they are read."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from common.errors import UserError


def save(content: Any, path: Path) -> None:
    """`torch.save`, but the system's error where the disk is full, not torch's about the archive that it then closes.

    Not atomic; see `common.atomic.replacing`.
    """
    try:
        with path.open("wb") as file:  # by its name, torch would report a full disk as a bug
            torch.save(content, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def check_archive(path: Path) -> None:
    """UserError unless the entries are no code, take no more memory than the file, and have their stored checksums."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if any(entry.filename.endswith("constants.pkl") for entry in entries):
                raise UserError(f"{path} is a TorchScript program, which is code; need a checkpoint of torch.save")
            packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
            size, claimed = path.stat().st_size, sum(entry.file_size for entry in entries)
            if packed or claimed > size:
                raise UserError(
                    f"{path} is no checkpoint of torch.save, which does not compress: its {size:,} bytes stand for"
                    f" {claimed:,}; unpack it and save it anew if you trust it"
                )
            broken = archive.testzip()
    except (zipfile.BadZipFile, RuntimeError, EOFError, NotImplementedError) as error:
        raise UserError(f"{path} is not a readable checkpoint: damaged ({error})") from error
    if broken:
        raise UserError(
            f"{path} is not a readable checkpoint: damaged, {broken} in it no longer has the checksum that it was saved"
            " with; copy the file anew, or take another"
        )


def check_claims(state: Mapping[str, torch.Tensor], path: Path) -> None:
    """UserError if the tensors of a file are larger than the file: views can make much of little."""
    claimed, size = sum(t.numel() * t.element_size() for t in state.values()), path.stat().st_size
    if claimed > size:
        raise UserError(f"{path} is malformed: its tensors claim {claimed:,} bytes, the file has {size:,}")
