"""How much a GPU holds, so that windows and latents need not be fitted by hand."""

from collections.abc import Callable
from typing import Any

import torch

LATENT_COPIES = 7  # of the latent at once: state, sum, x0, noise, and what a sampler's step makes of them
LATENT_SHARE = 0.4  # of the free memory that they may take
WINDOW_SHARE = 0.8  # of what is left then
MOST_WINDOWS = 32  # at once; a GPU is busy long before


def free_bytes(device: torch.device) -> int:
    """Bytes that this process can still get on a GPU."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def peak_bytes(run: Callable[[], Any], device: torch.device) -> int:
    """Bytes that a computation takes on a GPU while it runs."""
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    return torch.cuda.max_memory_allocated(device) - before


def latents_fit(latent_bytes: int, device: torch.device) -> bool:
    return LATENT_COPIES * latent_bytes <= LATENT_SHARE * free_bytes(device)


def windows_that_fit(window: Callable[[], Any], reserved: int, device: torch.device) -> int:
    """How many windows a GPU can evaluate at once, from the memory that one takes.

    Args:
        window: evaluates one. reserved: bytes to keep free for the latents.
    """
    one = max(1, peak_bytes(window, device))
    return max(1, min(MOST_WINDOWS, int(WINDOW_SHARE * (free_bytes(device) - reserved) / one)))
