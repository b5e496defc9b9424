"""Sampling that stops where the network's answers are no longer numbers: NaN, decoded, would look like air or water."""

import math

import torch
from torch import Tensor

from common.collectives import Team
from common.errors import UserError
from ddpm.plan import SamplingPlan
from ddpm.samplers import Predict
from ddpm.windows import PredictWindows


class FiniteSteps:
    """Watches the calls of one drawing. Each call notes on its device whether it was finite; that is read once a step.

    Args:
        predict: of windows. times: of the steps, falling from 1 to 0.
        team: its members see their own windows and all stop at the same step.
    """

    def __init__(self, predict: PredictWindows, times: Tensor, plan: SamplingPlan, team: Team) -> None:
        self.predict, self.times, self.plan, self.team = predict, times, plan, team
        self._seen: list[tuple[Tensor, Tensor]] = []

    def windows(self, x: Tensor, t: Tensor, coords: Tensor) -> Tensor:
        out = self.predict(x, t, coords)
        self._seen.append((coords, out.isfinite().flatten(1).all(1)))
        return out

    def volume(self, predict: Predict) -> Predict:
        """`predict` of a volume, made of calls of `windows`; UserError where it is not finite."""

        def watched(x: Tensor, t: Tensor) -> Tensor:
            self._seen.clear()
            out = predict(x, t)
            if not out.isfinite().all():  # the same for all members, whose sum it is
                raise self._error(float(t[0]))
            return out

        return watched

    def latent(self, drawn: Tensor) -> Tensor:
        """What the last step made; UserError if it is not finite."""
        if not drawn.isfinite().all():
            raise self._error(0.0)
        return drawn

    def _error(self, t: float) -> UserError:
        steps = len(self.times) - 1
        step = min(steps, 1 + int((self.times > t + 1e-9).sum()))
        dtype = "bfloat16" if self.plan.bf16 is True else "float32"
        remedies = ["bf16=false"] * (self.plan.bf16 is True) + ["a lower guidance"] * (self.plan.guidance != 1)
        return UserError(
            f"the network's answer is NaN or infinite at step {step} of {steps} (time {t:.3g}),"
            f" {self._where()}, in {dtype}; nothing is written."
            f" Try {', '.join([*remedies, 'another checkpoint: this one may be of a training that had diverged'])}"
        )

    def _where(self) -> str:
        bad = [corner for coords, finite in self._seen for corner in coords[~finite.cpu()].tolist()]
        first = torch.full((self.team.size, 3), 0.0)
        first[self.team.rank] = torch.tensor([n + 1.0 for n in min(bad)] if bad else [0.0] * 3)
        found = [tuple(int(n) - 1 for n in row) for row in self.team.sum(first).tolist() if row[0]]
        return f"in the window at latent voxel {min(found)}" if found else "where all windows were finite still"


def check_decoded(block: Tensor, total: float, corner: tuple[int, int, int]) -> None:
    """UserError if a decoded tile, at this first voxel and with this sum, is not finite."""
    if not math.isfinite(total) and not block.isfinite().all():
        raise UserError(
            f"the VQ-GAN's decoder gave NaN or infinite values in the tile at voxel {corner}, in"
            f" {str(block.dtype).removeprefix('torch.')}; nothing is written. Train or import the VQ-GAN anew"
        )
