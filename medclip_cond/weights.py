"""Files and models of pretrained encoders."""

from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import cached_file, hub

from common.errors import UserError
from common.weights import read_weights, under

# not by the environment, which is read when the hub's library is first imported, as Lightning does
hub.constants.HF_HUB_DISABLE_TELEMETRY = True


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


def read_tower(path: Path, trunk: str, projection: str, needed: str, remedy: str) -> tuple[dict[str, Tensor], Tensor]:
    """A vision tower's tensors, by their names within it, and its projection to the space shared with text (P, T).

    Args:
        trunk, projection: what the tower's names begin with, and the projection's name.
        needed: a name that every tower of this kind has.

    Raises:
        UserError: it is damaged, or no such file.
    """
    state = read_weights(path, remedy)
    if trunk + needed not in state or projection not in state:
        raise UserError(f"{path} is no checkpoint with the tensors {trunk + needed} and {projection}: {remedy}")
    return under(state, trunk), state[projection]


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
