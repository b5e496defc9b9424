"""Reading torch files that somebody else wrote, as data: nothing they name is imported or called.

A pickle can name any function and have it called while it is read. Here only tensors and plain containers are
built; every other class or function that a file names becomes a `Placeholder`.
"""

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from common.errors import UserError, of_the_machine
from common.torch_file import check_archive

ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
}


class Placeholder:
    """Stands for whatever else a file names. Takes any arguments, items and state, and does nothing.

    Attributes:
        state: what the file stored in the object, if it is an object.
    """

    state: Any = None

    def __new__(cls, *args: Any, **kwargs: Any) -> "Placeholder":
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Accepts what the named class would have been given."""

    def __call__(self, *args: Any, **kwargs: Any) -> "Placeholder":
        return Placeholder()

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        """An item of a container that is not a plain one."""

    def append(self, value: Any) -> None:
        """The same, of a list-like one."""


class RestrictedPickle:
    """What `torch.load` wants of a `pickle_module`."""

    class Unpickler(pickle.Unpickler):
        def find_class(self, module_name: str, global_name: str, /) -> Any:
            if module_name == "torch" and isinstance(getattr(torch, global_name, None), torch.dtype):
                return getattr(torch, global_name)
            return ALLOWED.get((module_name, global_name), Placeholder)


FOREIGN = {"pickle_module": RestrictedPickle, "weights_only": False}
OURS = {"weights_only": True, "mmap": True}


def load(path: str | Path, how: Mapping[str, Any] = FOREIGN) -> dict[str, Any]:
    """A file of `torch.save` on the CPU.

    Args:
        how: FOREIGN puts placeholders for all that is not plain data, OURS refuses it.

    Raises:
        FileNotFoundError: no such file.
        UserError: not such a file, or damaged, or what it holds is not a dict.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    if not zipfile.is_zipfile(path):
        kind = "empty, cut off or no file of torch.save (zip format, torch 1.6 or later)"
        raise UserError(f"{path} is not a readable checkpoint: {kind}")
    check_archive(path)
    try:
        content = torch.load(path, map_location="cpu", **how)
    except Exception as error:  # noqa: BLE001, wrong bytes can raise anything; torch advises to trust the file
        if of_the_machine(error):
            raise
        more = "more than tensors and plain data, which could run code and is not loaded"
        raise UserError(f"{path} is not a readable checkpoint: damaged, or it holds {more}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, need a checkpoint's dict")
    return content


def plain_state(value: Any) -> Any:
    """Settings as plain containers: what placeholders of omegaconf nodes and of namespaces hold; None for others."""
    if isinstance(value, Placeholder):
        state = value.state if isinstance(value.state, Mapping) else {}
        for key in ("_content", "_val"):  # of an omegaconf container, of its leaves
            if key in state:
                return plain_state(state[key])
        return {key: plain_state(v) for key, v in state.items()} or None
    if isinstance(value, Mapping):
        return {key: plain_state(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain_state(v) for v in value]
    return value
