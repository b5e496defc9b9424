"""Reading files of published weights."""

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from common.errors import UserError, of_the_machine


def read_weights(path: Path, remedy: str) -> dict[str, Tensor]:
    """The named tensors of a torch or safetensors file, which may be none; nothing in the file is run.

    Args:
        remedy: what to get and where to put it, for the error.

    Raises:
        UserError: there is no such file, or it is damaged.
    """
    if not path.is_file():
        raise UserError(f"no file of weights at {path}: {remedy}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, UnpicklingError, SafetensorError, EOFError, ValueError, OSError) as error:
        if of_the_machine(error):
            raise
        raise UserError(f"{path} is not a readable file of weights (damaged or cut off?): {remedy}") from error
    entries = state.items() if isinstance(state, dict) else ()
    return {name: value for name, value in entries if isinstance(name, str) and isinstance(value, Tensor)}


def under(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries whose name starts with `prefix`, without it."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
