"""The processes of torchrun, when they sample."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import distributed

from common.collectives import Team
from common.launcher import rank_and_world

_PATIENCE = timedelta(days=7)  # some wait while others draw, decode and write whole CTs


@contextmanager
def joined(device: torch.device) -> Iterator[Team]:
    """All processes as one team, which can share the windows of a volume or wait for one another."""
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
        yield Team(rank, world)
    finally:
        distributed.destroy_process_group()
