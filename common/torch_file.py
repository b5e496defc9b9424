"""Files of `torch.save`, written so that a full disk is told as such."""

from pathlib import Path
from typing import Any

import torch


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
