"""The processes of torchrun, when they sample."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import distributed

from common.launcher import rank_and_world
from ddpm.generator import Team

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


def wait_for_all(team: Team) -> None:
    """Returns when every member has come here. torchrun ends the others as soon as one process fails."""
    if team.size > 1:
        distributed.all_reduce(torch.zeros(1))
