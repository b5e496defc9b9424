"""A fingerprint of a network's tensors, to tell one set of weights from another."""

from __future__ import annotations

import hashlib

import torch
from torch import nn


def tensor_hash(module: nn.Module) -> str:
    """SHA-256 (hex) over the names, types, shapes and bytes of the parameters and saved buffers, in order
    of name.

    The same on every device. Not defined for modules on the meta device.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
