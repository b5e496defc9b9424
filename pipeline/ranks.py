"""The processes of torchrun, when they sample."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import distributed

from common.collectives import Team, gathered
from common.errors import AgreedError
from common.launcher import rank_and_world

_PATIENCE = timedelta(days=7)  # some wait while others draw, decode and write whole CTs


@contextmanager
def joined(device: torch.device, model: Mapping[str, str]) -> Iterator[Team]:
    """All processes as one team, which can share the windows of a volume or wait for one another.

    Args:
        model: hashes of what this process draws with, by name; AgreedError unless all have the same.
    """
    rank, world = rank_and_world()
    if world == 1:
        yield Team()
        return
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    # Latents that live on the CPU are summed there, whatever device the network is on.
    distributed.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=_PATIENCE)
    try:
        _check_alike(model)
        yield Team(rank, world)
    finally:
        distributed.destroy_process_group()


def _check_alike(model: Mapping[str, str]) -> None:
    """Else the windows of one CT, or the cases of one evaluation, would be those of two models."""
    first, *others = gathered(dict(model))
    for rank, other in enumerate(others, 1):
        unlike = [f"{name} {first[name][:8]} and {other[name][:8]}" for name in first if first[name] != other[name]]
        if unlike:
            raise AgreedError(
                f"all processes must draw with the same model; processes 0 and {rank} have {', '.join(unlike)}. Was the"
                " checkpoint replaced while they read it, by a training that goes on, or has each machine one of its"
                " own? Give all a copy of one"
            )
