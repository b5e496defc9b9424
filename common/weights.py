"""Reading files of published weights."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from zipfile import is_zipfile

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from common.errors import UserError, of_the_machine
from common.torch_file import check_archive

Renaming = tuple[str, str | Callable[[re.Match[str]], str]]  # pattern, and what takes its place


def read_weights(path: Path, remedy: str) -> dict[str, Tensor]:
    """The named tensors of a torch or safetensors file, which may be none; nothing in the file is run.

    Of a file that holds more than that, those under "state_dict".

    Args:
        remedy: what to get and where to put it, for the error.

    Raises:
        UserError: there is no such file, or it is damaged, or its tensors would take more memory than it has bytes.
    """
    if not path.is_file():
        raise UserError(f"no file of weights at {path}: {remedy}")
    if is_zipfile(path):
        check_archive(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, UnpicklingError, SafetensorError, EOFError, ValueError, OSError) as error:
        if of_the_machine(error):
            raise
        raise UserError(f"{path} is not a readable file of weights (damaged or cut off?): {remedy}") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):  # of a whole training
        state = state["state_dict"]
    entries = state.items() if isinstance(state, dict) else ()
    weights = {name: value for name, value in entries if isinstance(name, str) and isinstance(value, Tensor)}
    size = path.stat().st_size
    for name, value in weights.items():  # each by itself: names may share a tensor
        if value.numel() * value.element_size() > size:
            raise UserError(f"{path} is malformed: {name} claims {tuple(value.shape)}, the file has {size:,} bytes")
    return weights


def under(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries whose name starts with `prefix`, without it."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def rename(name: str, rules: Sequence[Renaming]) -> str:
    """A tensor's name after all rules, in their order."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name
