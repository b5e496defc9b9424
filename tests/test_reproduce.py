"""A training's first steps are repeated from its run folder, and what differs is told."""

import json
import sys

import pytest
import torch
from omegaconf import OmegaConf

import train_ddpm_patches_4gpu
import train_vqgan_patches_4gpu
from benchmarks import reproduce
from tests.tiny import run

STAGES = {"vqgan": train_vqgan_patches_4gpu, "ddpm": train_ddpm_patches_4gpu}


@pytest.fixture
def repeated(monkeypatch, capsys):
    """Calls the benchmark; its figures."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["reproduce", *words])
        capsys.readouterr()
        reproduce.main()
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return call


def mistake(repeated, capsys, *words):
    with pytest.raises(SystemExit) as stop:
        repeated(*words)
    assert stop.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("stage", STAGES)
def test_the_losses_of_the_first_steps_are_those_of_the_run(stage, workshop, elsewhere, repeated):
    words = [*getattr(workshop, stage), "model.max_epochs=2", "trainer.log_every_n_steps=1", "model.lr_final=0.1"]
    run(STAGES[stage], *words, "run_dir=run", "checkpoint_dir=checkpoints", "model.val_every_n_epochs=1")
    before = {path: path.read_bytes() for path in elsewhere.rglob("*") if path.is_file()}
    told = repeated("run", "steps=6")
    assert told["steps"] == [0, 1, 2, 3, 4, 5]
    assert len(set(told["then"])) == 6
    assert told["now"] == told["then"]
    assert (told["equal"], told["largest_difference"], told["differs"]) == (True, 0, [])
    assert {path: path.read_bytes() for path in elsewhere.rglob("*") if path.is_file()} == before


def test_another_start_shows(workshop, elsewhere, repeated):
    run(STAGES["ddpm"], *workshop.ddpm, "run_dir=run", "checkpoint_dir=run", "trainer.log_every_n_steps=2")
    start = elsewhere / "run/starts/step00000000"
    cfg = OmegaConf.load(start / "config.yaml")
    OmegaConf.save(OmegaConf.merge(cfg, {"seed": cfg.seed + 1}), start / "config.yaml")
    then = json.loads((start / "run.json").read_text())
    then["versions"]["torch"] = "1.0"
    (start / "run.json").write_text(json.dumps(then))
    told = repeated("run")
    assert told["steps"] == [1, 3]
    assert not told["equal"]
    assert told["largest_difference"] > 0.01
    assert told["differs"] == [f"torch: 1.0, now {torch.__version__}"]


@pytest.fixture
def started(workshop, elsewhere):
    """The folder of a training's start, without the training."""
    start = elsewhere / "run/starts/step00000000"
    start.mkdir(parents=True)
    return start


def test_a_class_that_is_not_ours_is_not_built(started, repeated, capsys):
    (started / "run.json").write_text("{}")
    (started / "config.yaml").write_text("module: {_target_: os.system, command: touch planted}")
    assert "names os.system" in mistake(repeated, capsys, "run")
    assert not (started.parents[2] / "planted").exists()


def test_what_is_no_training_is_one_message(started, repeated, capsys):
    assert "no record" in mistake(repeated, capsys, "run")
    assert "'nowhere' is no run folder" in mistake(repeated, capsys, "nowhere")
    assert "is no run folder" in mistake(repeated, capsys)


def test_as_many_processes_are_wanted(workshop, elsewhere, repeated, capsys):
    run(STAGES["ddpm"], *workshop.ddpm, "run_dir=run", "checkpoint_dir=run", "model.max_steps=1")
    path = elsewhere / "run/starts/step00000000/run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"processes": 4}))
    assert "torchrun --nproc_per_node=4 -m benchmarks.reproduce run" in mistake(repeated, capsys, "run")
