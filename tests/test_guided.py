"""Classifier-free guidance: the known answer, however the two passes are made."""

import pytest
import torch

from ddpm.condition import Condition
from ddpm.guided import GuidedDenoiser
from ddpm.plan import Grid, SamplingPlan

SEEN, UNSEEN = 5.0, 2.0  # predictions with the X-ray and without


def denoiser(x, t, condition, positions, spacing):
    answers = torch.where(condition.dropped, UNSEEN, SEEN).expand(len(x))
    return answers.view(-1, 1, 1, 1, 1).expand_as(x)


def guided(plan, time=0.5):
    rows = torch.zeros(2, 1, 3)
    condition = Condition(rows[:, 0], rows, rows, (), rows, torch.tensor([False, True]))
    predict = GuidedDenoiser(denoiser, condition, Grid((16, 16, 16), (1.0, 1.0, 1.0)), plan, torch.device("cpu"))
    t = torch.full((2,), time)
    if plan.guidance != 1:
        with pytest.raises(ValueError, match="at comes before"):
            predict(torch.zeros(2, 1, 4, 4, 4), t, torch.zeros(2, 3, dtype=torch.int64))
    predict.at(t)
    return predict(torch.zeros(2, 1, 4, 4, 4), t, torch.zeros(2, 3, dtype=torch.int64))


@pytest.mark.parametrize(("weight", "expected"), [(0.0, 2.0), (1.0, 5.0), (3.0, 11.0), (-1.0, -1.0)])
@pytest.mark.parametrize("batch", [1, 4], ids=["two passes", "one pass"])
def test_guidance_goes_from_the_answer_without_the_xray_through_that_with_it(weight, expected, batch):
    """unseen + w (seen - unseen): w = 0 does not see the X-ray, 1 is what was trained, 3 goes on as far again twice."""
    found = guided(SamplingPlan(1, guidance=weight, window_batch=batch))
    assert torch.equal(found, torch.full((2, 1, 4, 4, 4), expected))


@pytest.mark.parametrize(("time", "expected"), [(0.1, 5.0), (0.5, 11.0), (0.9, 5.0)])
def test_guidance_acts_within_its_interval(time, expected):
    assert guided(
        SamplingPlan(1, guidance=3.0, window_batch=4, guidance_interval=(0.2, 0.8)), time
    ).unique().tolist() == [expected]
