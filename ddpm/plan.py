"""What to draw and how: the values that sampling is called with."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from common.errors import UserError
from common.geometry import Triple
from ddpm.samplers import MEAN, SAMPLERS

MODES = ("whole", "fused", "independent")
AUTO = "auto"


def check_whole(name: str, value: Any, unit: str = "") -> int:
    """The value, if it is a whole number from 1; ValueError names it otherwise."""
    if not _is_whole(value):
        raise UserError(f"{name} must be a whole number from 1{unit}, got {value!r}")
    return int(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True)
class XrayInput:
    """An X-ray as the networks take it.

    xray: (1, 512, 512) in [0, 1]; cxr: (3, S, S), normalised; camera: (3, 4), patient mm → pixels of `xray`.
    dropped: draw as if there were no X-ray, as the networks learned it from those that training dropped.
    views: further X-rays of the patient by the names that the denoiser has for them.
    """

    xray: Tensor
    cxr: Tensor
    camera: Tensor
    dropped: bool = False
    views: "Mapping[str, XrayInput]" = field(default_factory=dict)


@dataclass(frozen=True)
class Grid:
    """The volume to draw: shape (D, H, W) in voxels, spacing (d, h, w) in mm."""

    shape: Triple
    spacing: tuple[float, float, float]


@dataclass(frozen=True)
class SamplingPlan:
    """How to draw; the defaults are those of config/sampling. `VolumeGenerator.settle` replaces every "auto".

    steps: of the sampler, a name in `ddpm.samplers.SAMPLERS`; "mean" draws nothing, and takes one.
    mode: "whole" (the whole latent per step), "fused" (windows, blended at every step) or "independent" (windows
        drawn apart and averaged, the guide's baseline); "auto": whole where one training patch covers the volume.
    guidance: 1 follows the X-ray as trained, more exaggerates it (classifier-free guidance, Ho & Salimans 2021), if
        training has dropped X-rays.
    window_batch: windows that the network sees at once; with guidance each counts twice, with and without X-ray, and
        a batch of 1 sees them one after the other. "auto": as many as fit into the GPU's free memory; 1 on a CPU.
    bf16: evaluate the network in bfloat16; "auto": on GPUs that have it.
    guidance_interval: (lowest, highest) time t, 0 clean and 1 noise, at which guidance acts (Kynkäänniemi et al. 2024).
    latent_device: where the latent and its sums live, "cpu" or "cuda"; "auto": beside the network if they fit there.
    """

    steps: int = 50
    sampler: str = "ddim"
    mode: str = AUTO
    guidance: float = 1.0
    window_batch: int | str = AUTO
    bf16: bool | str = AUTO
    guidance_interval: Sequence[float] = (0.0, 1.0)
    latent_device: str = AUTO

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise UserError(f"sampler must be one of {sorted(SAMPLERS)}, got {self.sampler!r}")
        if self.mode not in (*MODES, AUTO):
            raise UserError(f"mode must be one of {[*MODES, AUTO]}, got {self.mode!r}")
        if self.latent_device not in ("cpu", "cuda", AUTO):
            raise UserError(f"latent_device must be auto, cpu or cuda, got {self.latent_device!r}")
        if self.bf16 not in (True, False, AUTO):
            raise UserError(f"bf16 must be auto, true or false, got {self.bf16!r}")
        check_whole("steps", self.steps)
        if self.sampler == MEAN:
            object.__setattr__(self, "steps", 1)
        if self.window_batch != AUTO and not _is_whole(self.window_batch):
            raise UserError(f"window_batch must be auto or a whole number from 1, got {self.window_batch!r}")
        if not _is_number(self.guidance):
            raise UserError(f"guidance must be a finite number, got {self.guidance!r}")
        object.__setattr__(self, "guidance_interval", _checked_interval(self.guidance_interval))

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


def _checked_interval(times: Any) -> tuple[float, float]:
    if isinstance(times, Sequence) and len(times) == 2 and all(map(_is_number, times)):
        low, high = times
        if 0 <= low <= high <= 1:
            return low, high
    found = list(times) if isinstance(times, Sequence) and not isinstance(times, str) else times
    raise UserError(f"guidance_interval needs two times, 0 <= low <= high <= 1, got {found!r}")
