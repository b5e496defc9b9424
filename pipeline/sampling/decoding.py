"""How a latent is decoded on this device: the side of the tiles, and whether in half precision. Measured, once."""

from functools import cached_property

import torch

from ddpm import gpu_memory
from ddpm.generator import VolumeGenerator

AUTO = "auto"
TILE, LARGE = 32, 64  # latent voxels; large tiles repeat less of their surroundings
PROBE = 16  # latent voxels that are decoded to measure
SHARE = 0.8  # of a GPU's free memory that a tile may take
HU_APART, QUANTILE = 1.0, 0.999  # half precision must stay below the first in that share of voxels


class DecodingChoice:
    """Chooses for one generator.

    Args:
        hu_per_unit: of the decoded intensities.
    """

    def __init__(self, generator: VolumeGenerator, hu_per_unit: float) -> None:
        self.generator, self.hu_per_unit = generator, hu_per_unit

    def __call__(self, tile: int | str) -> tuple[int, bool]:
        """Side of the tiles, where `tile` is "auto", and whether to convolve in float16."""
        if self.generator.device.type != "cuda":  # a CPU's memory is small for large tiles, its float16 slow
            return (TILE if isinstance(tile, str) else tile), False
        half, probe_bytes = self._measured
        if not isinstance(tile, str):
            return tile, half
        halo = 2 * self.generator.codec.decoder_halo
        needed = probe_bytes * ((LARGE + halo) / (PROBE + halo)) ** 3
        return (LARGE if needed < SHARE * gpu_memory.free_bytes(self.generator.device) else TILE), half

    @cached_property
    def _measured(self) -> tuple[bool, int]:
        """Whether float16 will do, and the bytes that decoding PROBE³ latent voxels takes."""
        codec, device = self.generator.codec, self.generator.device
        stream = torch.Generator().manual_seed(0)
        noise = torch.randn(self.generator.denoiser.latent_channels, PROBE, PROBE, PROBE, generator=stream)
        scale = self.generator.latent_scale
        latent = scale.restore(noise[None].to(device))[0]  # of a trained latent's mean and std

        def decoded(half: bool) -> torch.Tensor:
            return next(iter(self.generator.decode(latent, PROBE, half)))[1]

        needed = gpu_memory.peak_bytes(lambda: decoded(False), device)
        if not codec.has_half:
            return False, needed
        apart = (decoded(False) - decoded(True)).abs().flatten().quantile(QUANTILE) * self.hu_per_unit
        return bool(apart < HU_APART), needed  # False where it is NaN
