"""What to draw and how: the values that sampling is called with."""

from dataclasses import dataclass

from torch import Tensor

from dataset.patches import Triple
from ddpm.samplers import SAMPLERS

MODES = ("whole", "fused", "independent")
AUTO = "auto"


@dataclass(frozen=True)
class XrayInput:
    """An X-ray as the networks take it.

    xray: (1, 512, 512) in [0, 1]; cxr: (3, S, S), normalised; affine: (2, 3), patient mm → pixels of `xray`.
    """

    xray: Tensor
    cxr: Tensor
    affine: Tensor


@dataclass(frozen=True)
class Grid:
    """The volume to draw: shape (D, H, W) in voxels, spacing (d, h, w) in mm."""

    shape: Triple
    spacing: tuple[float, float, float]


@dataclass(frozen=True)
class SamplingPlan:
    """How to draw. `VolumeGenerator.settle` replaces every "auto".

    steps: of the sampler, a name in `ddpm.samplers.SAMPLERS`.
    mode: "whole" (the whole latent per step), "fused" (windows, blended at every step) or "independent" (windows
        drawn apart and averaged, the guide's baseline); "auto": whole where one training patch covers the volume.
    guidance: 1 follows the X-ray as trained, more exaggerates it (classifier-free guidance, Ho & Salimans 2021).
    window_batch: windows that the network sees at once; with guidance each counts twice, with and without X-ray, and
        a batch of 1 sees them one after the other. "auto": as many as fit into the GPU's free memory; 1 on a CPU.
    bf16: evaluate the network in bfloat16.
    guidance_interval: (lowest, highest) time t, 0 clean and 1 noise, at which guidance acts (Kynkäänniemi et al. 2024).
    latent_device: where the latent and its sums live, "cpu" or "cuda"; "auto": beside the network if they fit there.
    """

    steps: int
    sampler: str = "ddim"
    mode: str = "fused"
    guidance: float = 1.0
    window_batch: int | str = 1
    bf16: bool = False
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    latent_device: str = AUTO

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise ValueError(f"sampler must be one of {sorted(SAMPLERS)}, got {self.sampler!r}")
        if self.mode not in (*MODES, AUTO):
            raise ValueError(f"mode must be one of {[*MODES, AUTO]}, got {self.mode!r}")
        if self.latent_device not in ("cpu", "cuda", AUTO):
            raise ValueError(f"latent_device must be auto, cpu or cuda, got {self.latent_device!r}")
        if self.window_batch != AUTO and not (isinstance(self.window_batch, int) and self.window_batch > 0):
            raise ValueError(f"window_batch must be auto or a whole number from 1, got {self.window_batch!r}")
        if len(self.guidance_interval) != 2 or not 0 <= self.guidance_interval[0] <= self.guidance_interval[1] <= 1:
            raise ValueError(
                f"guidance_interval needs two times, 0 <= low <= high <= 1, got {list(self.guidance_interval)}"
            )

    @property
    def batch(self) -> int:
        """`window_batch` as a number; ValueError where it is still "auto"."""
        if isinstance(self.window_batch, str):
            raise ValueError(f"window_batch={self.window_batch} has no number yet; VolumeGenerator.settle gives it one")
        return self.window_batch

    @property
    def windows_per_call(self) -> int:
        return self.batch if self.guidance == 1 else max(1, self.batch // 2)

    def guides(self, t: float) -> bool:
        """Whether guidance acts at time t."""
        return self.guidance != 1 and self.guidance_interval[0] <= t <= self.guidance_interval[1]
