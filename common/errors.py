"""Which errors are a user's to mend, and which do not speak of a file at all."""

import errno
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class UserError(ValueError):
    """A mistake of whoever gave the settings or files: one message without a traceback; says the rule, what was found,
    what to do.
    """


class AgreedError(UserError):
    """A mistake that all processes of a distributed run have met together, and that the first of them tells."""


class BadFileError(UserError):
    """A file breaks a rule: its path, the rule, what was found instead, and what to do about it.

    elsewhere: what to do where a command lacks the settings that `remedy` names; None: the same.
    """

    def __init__(self, path: Path, rule: str, found: str, remedy: str, elsewhere: str | None = None) -> None:
        super().__init__(path, rule, found, remedy, elsewhere)  # all, so that it survives pickling between processes
        self.path, self.rule, self.found, self.remedy, self.elsewhere = path, rule, found, remedy, elsewhere

    def __str__(self) -> str:
        return f"{self.path}: {self.rule}; got {self.found}. {self.remedy}"


def of_all(items: Iterable[Item], work: Callable[[Item], Result], then: str = "") -> list[Result]:
    """What the work makes of each item; where files are bad, a UserError that names them all once it is through.

    Args:
        then: what to do when they have been mended.
    """
    results, bad = [], []
    for item in items:
        try:
            results.append(work(item))
        except BadFileError as error:
            bad.append(error)
    if bad:
        head = [f"{len(bad)} files cannot be used:"] if len(bad) > 1 else []
        raise UserError("\n".join([*head, *map(str, bad), *([then] if then else [])]))
    return results


FILE_ERRORS = (OSError, FileExistsError, FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)
_DISK = (errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOSPC, errno.EROFS, errno.ESTALE)


def of_a_file(error: BaseException) -> bool:
    """Whether an error of the system speaks of a file or a disk, not of a connection or a process."""
    if not isinstance(error, OSError):
        return False
    of_disk = error.errno is None or error.errno in _DISK if type(error) is OSError else type(error) in FILE_ERRORS
    return error.filename is not None or of_disk


def of_the_machine(error: Exception) -> bool:
    """Whether a reader's error comes from disk, network or memory, and may pass; else the file's bytes are wrong.

    Readers seek to where a damaged header points, which the system answers with EINVAL.
    """
    if isinstance(error, OSError):
        return error.errno not in (None, errno.EINVAL)
    return isinstance(error, MemoryError)


@contextmanager
def refusing_damage(path: Path, rule: str, remedy: str, quote: bool = True) -> Iterator[None]:
    """What a reader raises on damaged bytes, an open list, becomes a BadFileError; the machine's errors pass.

    Args:
        quote: the reader's own words; not where they may hold tags of a patient.
    """
    try:
        yield
    except BadFileError:
        raise
    except Exception as error:
        if of_the_machine(error):
            raise
        found = f"a truncated or damaged one ({(quote and str(error)) or type(error).__name__})"
        raise BadFileError(path, rule, found, remedy) from None
