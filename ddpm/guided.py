"""What the network predicts for windows of one patient's volume, with classifier-free guidance."""

import torch
from torch import Tensor

from common.geometry import STEP, triple
from common.patches import positions_mm
from ddpm.denoiser import Condition, PatchDenoiser
from ddpm.plan import Grid, SamplingPlan


class GuidedDenoiser:
    """Predicts a batch of windows (N, C, d, h, w) at times (N,), given their first latent voxels (N, 3).

    Args:
        condition: what the X-ray tells and, as a second row, the null condition; on `device`, as the network is.
    """

    def __init__(
        self, denoiser: PatchDenoiser, condition: Condition, grid: Grid, plan: SamplingPlan, device: torch.device
    ) -> None:
        self.denoiser, self.condition, self.plan, self.device = denoiser, condition, plan, device
        self.spacing = torch.tensor([grid.spacing], device=device)
        self.volume = torch.tensor([grid.shape], device=device)

    def __call__(self, x: Tensor, t: Tensor, coords: Tensor) -> Tensor:
        guided = self.plan.guides(float(t[0]))
        x, t, coords = x.to(self.device), t.to(self.device), coords.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.plan.bf16 is True):
            if not guided:
                return self._predict(x, t, coords, self.condition[:1])
            if self.plan.batch == 1:
                seen, unseen = (self._predict(x, t, coords, self.condition[i : i + 1]) for i in range(2))
            else:
                rows = torch.arange(2, device=self.device).repeat_interleave(len(x))
                x, t, coords = (torch.cat([values, values]) for values in (x, t, coords))
                seen, unseen = self._predict(x, t, coords, self.condition[rows]).chunk(2)
        return unseen + self.plan.guidance * (seen - unseen)

    def _predict(self, x: Tensor, t: Tensor, coords: Tensor, condition: Condition) -> Tensor:
        n = len(x)
        spacing, volume = self.spacing.expand(n, 3), self.volume.expand(n, 3)
        places = positions_mm(coords * STEP, spacing, volume, triple(x.shape[2:]), STEP)
        return self.denoiser(x, t, condition, places, spacing).float()
