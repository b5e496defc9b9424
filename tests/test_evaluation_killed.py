"""An evaluation by two processes, killed and started again."""

import json
import time
from pathlib import Path

import pytest

import evaluate_ddpm_patches
from pipeline.sampling.evaluated_cases import Evaluation
from tests.forks import forked

pytestmark = pytest.mark.slow


def stop_after_one():
    """This process evaluates one case, and comes to no second one."""
    compare, done = Evaluation.compare, []

    def once(self, case):
        if done:
            time.sleep(3600)
        compare(self, case)
        done.append(case)

    Evaluation.compare = once


def metrics_of(folder):
    found = json.loads(Path(folder, "metrics.json").read_text())
    assert found["settings"].pop("run_dir") == folder
    return found


def test_one_that_is_killed_goes_on_to_the_same_result(workshop, elsewhere):
    settings = [workshop.data, f"ckpt={workshop.ddpm_ckpt}", "split=train", "steps=1", "device=cpu", "anatomy=false"]

    def evaluation(folder, **how):
        log = elsewhere / f"{folder}.log"
        return forked(evaluate_ddpm_patches, *settings, f"run_dir={folder}", log=log, processes=2, **how)

    with evaluation("whole") as ranks:
        assert [rank.status() for rank in ranks] == [0, 0], ranks[0].said
    with evaluation("killed", first=stop_after_one) as ranks:
        while len(list(Path("killed/unfinished").glob("*.json"))) < 2:
            assert all(rank.forked.is_alive() for rank in ranks), ranks[0].said
            time.sleep(0.1)
    assert not Path("killed/metrics.json").exists()
    with evaluation("killed") as ranks:
        assert [rank.status() for rank in ranks] == [0, 0], ranks[0].said
        assert sum(rank.said.count("evaluated before the interruption") for rank in ranks) == 2
    assert metrics_of("killed") == metrics_of("whole")
