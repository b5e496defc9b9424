import math

import pytest
import torch

from pipeline.training.schedules import warmup


def rates(total_steps, warmup_steps, final, steps):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = warmup(optimizer, total_steps, warmup_steps, final)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_the_rate_rises_and_then_stays():
    assert rates(100, 4, 1.0, 6) == pytest.approx([0.5, 1, 1.5, 2, 2, 2])


def test_the_rate_falls_along_a_cosine_to_its_final_share():
    found = rates(13, 3, 0.1, 14)
    assert max(found) == pytest.approx(2)
    assert found[8] == pytest.approx(2 * 0.55)  # half way: the mean of 1 and 0.1
    assert found[13] == pytest.approx(0.2)
    assert found[3:] == sorted(found[3:], reverse=True)


def test_training_without_an_end_keeps_its_rate():
    assert rates(math.inf, 0, 0.0, 3) == pytest.approx([2, 2, 2])
