"""Files of trained networks: a description of the networks and their tensors.

They hold plain data and tensors only (`torch.load(weights_only=True)`). Stages: "vqgan" and "ddpm" are those of
training, "model" is what `export_model.py` writes: averaged weights, codec and X-ray encoder in one file that needs no
other.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from common.checkpoint_key import CHECKPOINT_KEY
from common.errors import UserError
from common.torch_file import check_claims, save
from common.weights import under
from pipeline.checkpoints.description import FORMAT, ModelDescription
from pipeline.checkpoints.parts import at_most, build, differences
from pipeline.checkpoints.restricted_pickle import OURS, load

log = logging.getLogger(__name__)
Network = TypeVar("Network", bound=nn.Module)
State = Mapping[str, Tensor]
SHOWN = 5  # differing tensors that a message names
UNBUILT = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True)
class StoredCheckpoint:
    """A checkpoint of ours, on the CPU. Its methods raise a UserError that names the file.

    state: tensors by "network.tensor". average: those of them that training averaged.
    """

    path: Path
    description: ModelDescription
    state: State
    average: State = field(default_factory=dict)

    def built(self, name: str, **changed: Any) -> Any:
        """A network that it describes, without the weights that it holds.

        Args:
            changed: arguments that differ from the description's.
        """
        try:
            network = build(self.description.parts[name] | changed)
            if not isinstance(network, nn.Module):
                raise TypeError(f"{network} is no network")
        except UNBUILT as error:
            raise UserError(f"{self.path} describes no {name} that this version can build: {error}") from error
        return network

    def network(self, name: str, averaged: bool = False) -> Any:
        """A network that it describes, with its weights; built only if it has the tensors that the file holds."""
        weights = self.weights(name, averaged)
        with at_most(len(weights)), torch.device("meta"):  # where tensors have shapes and take no memory
            described = self.built(name)
        found, needed = ({key: tuple(t.shape) for key, t in s.items()} for s in (weights, described.state_dict()))
        if found != needed:
            others = [
                f"{k}: {found.get(k)}, described {needed.get(k)}"
                for k in sorted(found.keys() | needed.keys())
                if found.get(k) != needed.get(k)
            ]
            raise UserError(f"{self.path} holds a network of another shape: {'; '.join(others[:SHOWN])}")
        return self.load(self.built(name), weights)

    def weights(self, name: str, averaged: bool = False) -> dict[str, Tensor]:
        """Of one of the networks; the averaged ones where there are any."""
        return under({**self.state, **(self.average if averaged else {})}, f"{name}.")

    def load(self, network: Network, weights: State) -> Network:
        """Load weights of this file."""
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            lines = " ".join(str(error).splitlines()[:4])
            raise UserError(f"{self.path} holds a network of another shape: {lines}") from error
        return network

    def unlike(self, module: nn.Module, now: ModelDescription) -> list[str]:
        """Where a module and its description differ from those stored: settings, or else the first few tensors.

        Settings that shape the weights, and those that keep patients from training.
        """
        stored, new = ({name: tuple(t.shape) for name, t in s.items()} for s in (self.state, module.state_dict()))
        described, given = ({**d.shaping(), **d.held_out()} for d in (self.description, now))
        return differences(described, given) or differences(stored, new)[:SHOWN]


def read(path: str | Path, stage: str, *others: str) -> StoredCheckpoint:
    """A checkpoint of ours.

    Args:
        stage: "vqgan" or "ddpm", what it must hold, unless it is one of the `others`.

    Raises:
        FileNotFoundError: no such file. UserError: damaged, or not such a checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        maker = "launch_vqgan_patches_4gpu.sh" if stage == "vqgan" else "launch_ddpm_patches_4gpu.sh"
        raise FileNotFoundError(f"no {stage} checkpoint at {path}; {maker} trains one, or give another path")
    content = load(path, OURS)
    plain = content.get(CHECKPOINT_KEY)
    if not plain or not isinstance(plain, Mapping):
        raise UserError(f"{path} is not a checkpoint of this project: it holds no description of its parts")
    if plain.get("format") != FORMAT or plain.get("stage") not in (stage, *others):
        found = f"stage {plain.get('stage')!r} in format {plain.get('format')!r}"
        raise UserError(f"{path} holds {found}, need stage {stage!r} in format {FORMAT}")
    state, average = _tensors(content.get("state_dict"), path), _average(content, path)
    return StoredCheckpoint(path, ModelDescription.from_plain(plain, path), state, average)


def write(path: Path, description: ModelDescription, networks: Mapping[str, nn.Module], **more: Any) -> None:
    """Write a file that `read` reads, with `more` in it."""
    state = {f"{name}.{key}": t.cpu() for name, part in networks.items() for key, t in part.state_dict().items()}
    save({CHECKPOINT_KEY: description.to_plain(), "state_dict": state, **more}, path)


def init_weights(module: nn.Module, path: str | Path, now: ModelDescription) -> StoredCheckpoint:
    """Start a module of training, described by `now`, from a checkpoint's weights, the averaged ones if there are any;
    that checkpoint.

    The scale of the latents comes along only if both have them of one codec, discriminators only if both have the same.

    Raises:
        UserError: they do not fit, or were trained with another X-ray encoder.
    """
    stored = read(path, now.stage, *(["model"] if now.stage == "ddpm" else []))
    before, after = stored.description.shaping(), now.shaping()
    if before["encoder_hash"] != after["encoder_hash"]:
        raise UserError(
            f"{path} was trained with another X-ray encoder: hash {before['encoder_hash'][:12]}, now"
            f" {after['encoder_hash'][:12]}; set xray_encoder to the same one (xray_encoder=exported takes an export's)"
        )
    frozen = ("vqgan.", "xray_encoder.") if stored.description.stage == "model" else ()
    state = {name: t for name, t in {**stored.state, **stored.average}.items() if not name.startswith(frozen)}
    if before["codec_hash"] != after["codec_hash"]:
        state |= {k: v for k, v in module.state_dict().items() if k.startswith("latent_scale.")}
    stored.load(module, _with_discriminators_of(module, state))
    return stored


def _with_discriminators_of(module: nn.Module, state: State) -> State:
    """The state, with the module's discriminators, perhaps none, where the stored ones are of another shape."""
    stored, own = (
        {name: t for name, t in tensors.items() if name.startswith("adversarial.")}
        for tensors in (state, module.state_dict())
    )
    if {name: t.shape for name, t in stored.items()} == {name: t.shape for name, t in own.items()}:
        return state
    if own:
        log.info("the discriminators begin anew: those of the weights are %s", "others" if stored else "none")
    return {name: t for name, t in state.items() if name not in stored} | own


def _average(content: Mapping[str, Any], path: Path) -> State:
    callbacks = content.get("callbacks")
    for name, state in callbacks.items() if isinstance(callbacks, Mapping) else ():
        if str(name).startswith("WeightAverage") and isinstance(state, Mapping):
            return _tensors(state.get("average"), path)
    return {}


def _tensors(state: Any, path: Path) -> State:
    if isinstance(state, Mapping) and all(isinstance(k, str) and isinstance(t, Tensor) for k, t in state.items()):
        check_claims(state, path)
        return state
    raise UserError(f"{path} is not a checkpoint of this project: it holds no tensors by name")
