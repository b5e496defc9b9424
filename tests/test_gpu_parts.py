"""The parts of benchmarks/gpu.sh that watch a step, and a training under the launcher, measure what they say."""

import time
from types import SimpleNamespace

import pytest
import torch

from benchmarks import profile_step, restart

CPU = torch.device("cpu")


def test_operations_are_counted_per_step_and_only_in_the_last_ones(monkeypatch):
    seconds = SimpleNamespace(t=0.0)
    monkeypatch.setattr(profile_step, "now", lambda device: seconds.t)
    clock, x = profile_step.KernelClock(warmup=1, profiled=2), torch.ones(3)
    trainer = SimpleNamespace(global_step=0, max_steps=6, strategy=SimpleNamespace(root_device=CPU))
    for takes in (100, 1, 2, 6, 50, 50):
        clock.on_train_batch_start(trainer)
        for _ in range(3 if trainer.global_step >= 4 else 7):
            x.cos()
        seconds.t += takes
        trainer.global_step += 1
        clock.on_train_batch_end(trainer)
    assert clock.seconds == 3  # neither the warm-up nor the profiled steps
    assert clock.kernels["aten::cos"][0] == 3
    assert clock.kernels["aten::cos"][1] > 0


def test_attention_is_named_by_the_operation_that_torch_chose():
    q = torch.randn(1, 2, 16, 8)

    def run():
        torch.nn.functional.scaled_dot_product_attention(q, q, q)
        return 2.0

    found = profile_step.watched("call", run, CPU, calls=1)
    assert found["call_s"] == 2
    assert found["call_attention"]["aten::scaled_dot_product_attention"] == 1
    assert len(found["call_attention"]) == 2  # and the kernel's own name


@pytest.fixture
def launcher(tmp_path, monkeypatch):
    """A stand-in that says what it was given and then goes on for a minute."""
    path = tmp_path / "launcher"
    path.write_text('#!/bin/sh\necho "$NGPU $MASTER_PORT $@"\nexec sleep 60\n')
    path.chmod(0o755)
    monkeypatch.setattr(restart, "LAUNCHER", path)


def test_a_training_is_heard_as_it_goes_and_ends_with_the_benchmark(launcher, capfd):
    def benchmark():
        with restart.Training(["a=1"], CPU, 7) as training:
            started.append(training)
            while not training.said:
                time.sleep(0.01)
            restart.end()  # as SIGTERM does

    started = []
    with pytest.raises(SystemExit, match="143"):
        benchmark()
    assert capfd.readouterr().err == "1 7 a=1\n"
    assert started[0].process.returncode == -15
