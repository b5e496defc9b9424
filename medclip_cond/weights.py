"""Finding and reading the files of pretrained encoders, from a local folder or the Hugging Face hub."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import cached_file

from common.errors import UserError


def find_file(weights: str, name: str, remedy: str, on_hub: bool) -> Path:
    """The path of an encoder's file.

    Args:
        weights: the file itself, a folder with a file `name`, or, if `on_hub`, the id of a hub repository; a copy of
            it in the local cache serves without a network.
        remedy: what to get and where to put it, for the error.

    Raises:
        FileNotFoundError: there is no such file.
    """
    path = Path(weights).expanduser()
    for candidate in (path, path / name):
        if candidate.is_file():
            return candidate
    if on_hub and not path.exists():
        try:
            return Path(cached_file(weights, name))
        except OSError as error:
            reason = str(error).strip().splitlines()[0]
            raise FileNotFoundError(f"cannot get {name} of {weights}: {reason}; {remedy}") from error
    raise FileNotFoundError(f"no file {path} or {path / name}: {remedy}")


def read_state(path: Path) -> dict[str, Tensor]:
    """All tensors of a torch file, by name; nothing in the file is run.

    Raises:
        ValueError: it is cut short, or no such file.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(f"{path} holds no weights that torch can read: download it again") from error


def under(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries whose name starts with `prefix`, without it."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def load_model(kind: type[PreTrainedModel], config: PreTrainedConfig, state: dict[str, Tensor], **options: Any) -> Any:
    """A transformers model with exactly these weights, under the names of published checkpoints.

    Raises:
        ValueError: weights are missing, left over or of another shape.
    """
    model, info = kind.from_pretrained(None, config=config, state_dict=state, output_loading_info=True, **options)
    wrong = {what: sorted(map(str, names))[:3] for what, names in info.items() if names}
    if wrong:
        raise UserError(f"these weights are not those of a {kind.__name__} of this kind: {wrong}")
    return model
