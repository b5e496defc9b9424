"""Files appear whole or not at all."""

import errno
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MARK = ".tmp"
_ABANDONED_S = 24 * 3600  # no file takes as long to write, also by the clock of another machine


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path in the folder of `path` that becomes `path` when the block ends well.

    The temporary name keeps the suffixes (`.nii.gz`), by which writers choose the format. A missing folder is
    made. If the block fails, the temporary file is removed and `path` stays as it was; an OSError (no space left)
    then names `path`, where it names no file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # not the process id alone: processes of several machines or containers may share it, and the folder
    temporary = path.with_name(f"{_MARK}{secrets.token_hex(6)}-{path.name}")
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)  # else a power cut may bring the old file back
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Returns when what was written to a file or folder is on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems know it of files only
            raise
    finally:
        os.close(number)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text so that readers see the old or the new file, never a part. What is no UTF-8 is escaped."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def remove_abandoned(folder: Path, older_than_s: float = _ABANDONED_S, nested: bool = True) -> None:
    """Remove the temporary files below `folder` that a killed process left there more than a day ago.

    Args:
        older_than_s: 0 where nobody else writes: all, whatever the clock says.
        nested: also in the folders within.
    """
    for path in folder.glob(f"{'**/' if nested else ''}{_MARK}{'[0-9a-f]' * 12}-*"):
        try:
            if not older_than_s or time.time() - path.stat().st_mtime >= older_than_s:
                path.unlink()
        except FileNotFoundError:  # somebody else's, and just finished
            continue
