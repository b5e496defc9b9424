"""What the network predicts for windows of one patient's volume, with classifier-free guidance."""

import torch
from torch import Tensor

from common.geometry import STEP, triple
from common.patches import positions_mm
from ddpm.condition import Condition
from ddpm.denoiser import PatchDenoiser
from ddpm.graph import Replayed
from ddpm.plan import Grid, SamplingPlan


class GuidedDenoiser:
    """Predicts a batch of windows (N, C, d, h, w) at times (N,), given their first latent voxels (N, 3).

    With guidance, `at` comes before the calls of a step: asked for the time at each of them, a GPU would stand still.

    Args:
        condition: what the X-ray tells and, as a second row, the null condition; on `device`, as the network is.
    """

    def __init__(
        self, denoiser: PatchDenoiser, condition: Condition, grid: Grid, plan: SamplingPlan, device: torch.device
    ) -> None:
        self.denoiser, self.condition, self.plan, self.device = denoiser, condition, plan, device
        self.spacing = torch.tensor([grid.spacing], device=device)
        self.volume = torch.tensor([grid.shape], device=device)
        self._replayed = Replayed() if device.type == "cuda" else None
        self._guided: bool | None = None if plan.guidance != 1 else False

    def at(self, t: Tensor) -> None:
        """The time, in t (N,), of the calls that follow."""
        if self.plan.guidance != 1:
            self._guided = self.plan.guides(float(t[0]))

    def __call__(self, x: Tensor, t: Tensor, coords: Tensor) -> Tensor:
        if self._guided is None:
            raise ValueError("guidance depends on the time: GuidedDenoiser.at comes before its first call")
        x, t, coords = x.to(self.device), t.to(self.device), coords.to(self.device)
        rows = torch.arange(2, device=self.device)  # with the X-ray, without
        if not self._guided:
            return self._predict(x, t, coords, rows[:1])
        if self.plan.batch == 1:
            seen, unseen = (self._predict(x, t, coords, rows[i : i + 1]) for i in range(2))
        else:
            x, t, coords = (torch.cat([values, values]) for values in (x, t, coords))
            seen, unseen = self._predict(x, t, coords, rows.repeat_interleave(len(x) // 2)).chunk(2)
        return unseen + self.plan.guidance * (seen - unseen)

    def _predict(self, *inputs: Tensor) -> Tensor:
        return self._answer(*inputs) if self._replayed is None else self._replayed(self._answer, *inputs)

    def _answer(self, x: Tensor, t: Tensor, coords: Tensor, rows: Tensor) -> Tensor:
        """What the network predicts; `rows` of the condition, one for all windows or one for each."""
        n = len(x)
        spacing, volume = self.spacing.expand(n, 3), self.volume.expand(n, 3)
        places = positions_mm(coords * STEP, spacing, volume, triple(x.shape[2:]), STEP)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.plan.bf16 is True):
            return self.denoiser(x, t, self.condition[rows], places, spacing).float()
