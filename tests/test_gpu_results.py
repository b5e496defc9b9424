"""What benchmarks/gpu.sh makes of its steps: nothing is lost when one fails, goals are judged the right way."""

import json
import os
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
    assert (steps["compiled"]["said"], steps["never"]["said"]) == ("TypeError: no", "")
    assert (steps["never"]["command"], steps["never"]["status"]) == ("a command without a log", 124)


def test_a_step_that_was_cut_off_keeps_what_it_had_said(tmp_path, run):
    (tmp_path / "train.log").write_text(measured(it_per_s=1.0) + measured(it_per_s=2.0) + "the next one\n{broken\n")
    run("train", "124", "90", "command")
    assert json.loads((tmp_path / "summary.json").read_text())["steps"]["train"]["result"]["it_per_s"] == 2
    assert "status  124" in (tmp_path / "summary.txt").read_text()


def line(text, start):
    return next(row for row in text.splitlines() if row.startswith(start))


def test_without_a_gpu_no_goal_is_judged(tmp_path, run, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (tmp_path / "train.log").write_text(measured(it_per_s=1.0))
    run("train", "0", "1", "command")
    run()
    text = (tmp_path / "summary.txt").read_text()
    assert "no GPU" in text
    assert "goal >=" not in text


def test_goals_are_judged_in_their_direction(tmp_path, run, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    run()
    best = {"model.batch_size=8": {"samples_per_s": 160.0, "mfu": 0.45, "reserved_gb": 5.5}, "model.batch_size=32": {}}
    (tmp_path / "train.log").write_text(measured(it_per_s=25.0, samples_per_s=50.0, mfu=None, variants=best))
    run("train", "0", "1", "command")
    text = (tmp_path / "summary.txt").read_text()  # complete after every step
    assert text.startswith("NVIDIA H200\n")
    assert " yes " in line(text, "train.it_per_s")
    assert " yes " in line(text, "train.batch_size=8/samples_per_s")
    assert " NO " in line(text, "train.batch_size=8/reserved_gb")
    assert "160" in line(text, "best samples_per_s")
    assert "0.45" in line(text, "best mfu")
    assert "not measured" in line(text, "more.ratio_perceptual")
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert {"date", "gpu", "driver", "versions"} <= summary.keys()


@pytest.mark.parametrize("part", ["9", "all", "profile"])
def test_a_part_that_there_is_not_starts_nothing(tmp_path, part):
    environment = os.environ | {"OUT": str(tmp_path / "out"), "DEVICE": "cpu"}
    done = subprocess.run([str(SCRIPT), "1", part], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, f"benchmarks/gpu.sh: parts are 1 to 8, got {part}\n")


@pytest.mark.slow
def test_every_part_runs_on_a_cpu_at_its_smallest_size(tmp_path):
    environment = os.environ | {"OUT": str(tmp_path), "DEVICE": "cpu", "OMP_NUM_THREADS": "1", "PATIENCE": "20"}
    subprocess.run([str(SCRIPT)], env=environment, capture_output=True, check=True)
    summary = json.loads((tmp_path / "summary.json").read_text())
    found = {name: step["result"] for name, step in summary["steps"].items()}
    assert [name for name, step in summary["steps"].items() if step["status"]] == []
    parts = ["tests", "restart", "train", "profile", "full_volume", "whole", "eager", "compile"]
    assert list(found) == [*parts, "maisi", "more", "stage1"]
    assert found["maisi"]["maisi"]["parameters"] > 2e8
    assert found["more"]["ratio_perceptual"] > 0
    assert "skipped" in summary["steps"]["tests"]["said"]
    assert found["train"]["ratio_time_monai_over_ours"] > 0
    assert found["eager"]["variants"]["model.batch_size=4 model.graph=false"]["batch_size"] == 4
    assert 0 <= found["full_volume"]["decodings"]["share_1hu_apart"] < 0.5
    assert found["profile"]["kernels"] > 100
    assert {"51 channels", "111 channels", "112 channels"} == found["profile"]["stem_ms"]["batch 2"].keys()
    assert found["whole"]["whole"]["latent"] == [10, 8, 8]
    assert any("flash" in op for op in found["whole"]["whole"]["call_attention"])
    assert found["restart"]["step_end"] == found["restart"]["step_stopped"] + 2
    assert found["restart"]["backend"] == "gloo"
