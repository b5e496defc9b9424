"""A fingerprint of a network's tensors, to tell one set of weights from another."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn


def tensor_hash(module: nn.Module) -> str:
    """`hash_of` the parameters and saved buffers. Not defined for modules on the meta device."""
    return hash_of(module.state_dict().items())


def hash_of(named: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 (hex) over the names, types, shapes and bytes of tensors, in order of name; the same on every device."""
    digest = hashlib.sha256()
    for name, tensor in sorted(named, key=lambda item: item[0]):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def tensors_of(state: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors in nested dicts and lists, by the path to each."""
    if isinstance(state, Tensor):
        yield name, state
    elif isinstance(state, dict):
        for key, value in state.items():
            yield from tensors_of(value, f"{name}.{key}")
    elif isinstance(state, list | tuple):
        for i, value in enumerate(state):
            yield from tensors_of(value, f"{name}.{i}")
