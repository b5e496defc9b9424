"""What benchmarks/gpu.sh makes of its steps: nothing is lost when one fails, goals are judged the right way."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_results

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "gpu.sh"


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["gpu_results", str(tmp_path), *arguments])
        gpu_results.main()
        return capsys.readouterr().out

    return call


def measured(**figures):
    return json.dumps({"stage": "ddpm", **figures}) + "\n"


def test_every_step_is_kept_with_its_command_and_status(tmp_path, run):
    (tmp_path / "train.log").write_text("some progress\n" + measured(it_per_s=25.0, peak_gb=9.0))
    (tmp_path / "compiled.log").write_text("Traceback\nTypeError: no\n")
    run("train", "0", "90", "python -m benchmarks.train_step")
    run("compiled", "1", "12", "python -m benchmarks.train_step model.compile=true")
    run("never", "124", "1", "a command without a log")
    steps = json.loads((tmp_path / "summary.json").read_text())["steps"]
    assert steps["train"]["result"]["it_per_s"] == 25
    assert (steps["compiled"]["result"], steps["compiled"]["status"]) == (None, 1)
    assert steps["never"] == {"command": "a command without a log", "status": 124, "seconds": 1, "result": None}


def line(text, start):
    return next(row for row in text.splitlines() if row.startswith(start))


def test_without_a_gpu_no_goal_is_judged(tmp_path, run, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (tmp_path / "train.log").write_text(measured(it_per_s=1.0))
    run("train", "0", "1", "command")
    text = run()
    assert "no GPU" in text
    assert "goal >=" not in text


def test_goals_are_judged_in_their_direction(tmp_path, run, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    (tmp_path / "train.log").write_text(measured(it_per_s=25.0, peak_gb=9.0, samples_per_s=50.0, mfu=0.2))
    best = {"model.batch_size=8": {"samples_per_s": 130.0, "mfu": 0.45}, "model.batch_size=32": {"error": "memory"}}
    (tmp_path / "variants.log").write_text(measured(samples_per_s=50.0, mfu=None, variants=best))
    for name in ("train", "variants"):
        run(name, "0", "1", "command")
    text = run()
    assert " yes " in line(text, "train.it_per_s")
    assert " NO " in line(text, "train.peak_gb")
    assert " yes " in line(text, "best samples_per_s")
    assert "0.45" in line(text, "best mfu")
    assert "not measured" in line(text, "train.ratio_perceptual")
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert {"date", "gpu", "driver", "versions"} <= summary.keys()


def test_the_script_is_bash():
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)
