"""Which device a single process works on."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from common.errors import UserError
from common.launcher import local_rank


def pick_device(name: str) -> torch.device:
    """ "auto": this process' GPU if there is one, else the CPU; or a device by its name.

    Raises:
        ValueError: a name that torch does not know, or a GPU that is not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", local_rank() % torch.cuda.device_count())
        return torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):  # others of torch's are not tried, or hold nothing
        raise UserError(f"device must be auto, cpu, cuda or cuda:N, got {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device={name}, but this machine has {torch.cuda.device_count()} GPUs")
    return device


def fast_float32() -> None:
    """On GPUs, float32 matrix products in TF32, as cuDNN's convolutions have it by default."""
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")


@contextmanager
def computing_as_commands() -> Iterator[None]:
    """Within it float32 is as commands have it, afterwards as it was."""
    before = torch.get_float32_matmul_precision()
    fast_float32()
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
