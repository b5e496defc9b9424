"""Train 40 steps = train 17, kill -9, go on: bit by bit, in both stages, on one process, on two, on two machines."""

import os
import signal
from itertools import product
from pathlib import Path

import pytest
import torch

import train_ddpm_patches_4gpu
import train_vqgan_patches_4gpu
from common.launcher import meet_anew
from tests.forks import forked
from tests.processes import launcher, running, torchrun
from tests.test_resume import stop_at
from tests.tiny import free_port, load, run

STAGES = {"vqgan": train_vqgan_patches_4gpu, "ddpm": train_ddpm_patches_4gpu}
CASES = list(product(STAGES, ["vq", "kl"], [1, 2], [0, 2]))
BY_LAUNCHER = [("ddpm", "vq", 2, 2), ("vqgan", "kl", 2, 0)]  # go on by it, the others without what it does besides
TWO_GPUS = ("ddpm", "vq", 2, 0)
LENGTH = [
    *("model.max_steps=40", "model.max_epochs=100", "model.patches_per_volume=6", "model.val_every_n_epochs=2"),
    "model.checkpoint_every_n_steps=5",
]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def codecs(workshop, tmp_path_factory):
    """A VQ-GAN's checkpoint by its quantizer."""
    folder = tmp_path_factory.mktemp("kl")
    run(train_vqgan_patches_4gpu, *workshop.vqgan, "quantizer=kl", f"run_dir={folder}", f"checkpoint_dir={folder}")
    return {"vq": workshop.vqgan_ckpt, "kl": folder / "last.ckpt"}


@pytest.fixture(scope="module")
def settings_of(workshop, codecs):
    def settings(stage, quantizer, processes, workers, folder):
        own = {
            "vqgan": [*workshop.vqgan, f"quantizer={quantizer}"],
            "ddpm": [*workshop.ddpm, f"model.vqgan_ckpt={codecs[quantizer]}"],
        }
        return [*own[stage], *LENGTH, f"model.num_workers={workers}", f"run_dir={folder}", f"checkpoint_dir={folder}"]

    return settings


@pytest.fixture(scope="module")
def uninterrupted(settings_of, tmp_path_factory):
    """The last checkpoint of a training that nobody disturbed, without loader processes, which change nothing."""
    done = {}

    def train(stage, quantizer, processes, _):
        what = (stage, quantizer, processes)
        if what not in done:
            folder = tmp_path_factory.mktemp("whole")
            settings = settings_of(*what, 0, folder)
            with forked(STAGES[stage], *settings, log=folder / "log", processes=processes) as ranks:
                assert [rank.status() for rank in ranks] == [0] * processes, ranks[0].said
            done[what] = load(folder / "last.ckpt")
        return done[what]

    return train


def assert_equal(path, b):
    """Weights, averages, optimizer, schedule and counters are the same, to the bit."""
    a = load(path)
    assert (a["global_step"], a["epoch"]) == (40, b["epoch"])
    averages = [{name: s for name, s in x["callbacks"].items() if name.startswith("WeightAverage")} for x in (a, b)]
    torch.testing.assert_close(*averages, rtol=0, atol=0)
    for key in ("state_dict", "optimizer_states", "lr_schedulers"):
        torch.testing.assert_close(a[key], b[key], rtol=0, atol=0)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_killed_training_ends_as_one_that_was_not(case, settings_of, uninterrupted, elsewhere):
    stage, _, processes, _ = case
    settings = settings_of(*case, elsewhere / "run")
    dies = stop_at(17, signal="SIGKILL", rank=processes - 1)
    with forked(STAGES[stage], *settings, dies, log=elsewhere / "killed.log", processes=processes) as ranks:
        assert ranks[-1].status() == -signal.SIGKILL, ranks[-1].said
    assert load("run/last.ckpt")["global_step"] == 15
    if case in BY_LAUNCHER:
        variables = {"NGPU": str(processes), "MASTER_PORT": str(free_port())}
        with running(launcher(stage, *settings), elsewhere / "again.log", **variables) as training:
            assert training.status() == 0, training.said
    else:
        with forked(STAGES[stage], *settings, log=elsewhere / "again.log", processes=processes) as ranks:
            assert [rank.status() for rank in ranks] == [0] * processes, ranks[0].said
    assert_equal("run/last.ckpt", uninterrupted(*case))


@pytest.mark.parametrize(("step", "validating", "resumed"), [(17, False, 15), (24, True, 20)])
def test_torchrun_starts_all_anew_when_one_is_killed(step, validating, resumed, settings_of, uninterrupted, elsewhere):
    settings = settings_of(*TWO_GPUS, elsewhere / "run")
    dies = stop_at(step, signal="SIGKILL", rank=1, once=elsewhere / "dead", validating=validating)
    options = (f"--master_port={free_port()}", "--max_restarts=1")
    with running(torchrun(train_ddpm_patches_4gpu, *settings, dies, options=options), elsewhere / "log") as training:
        assert training.status() == 0, training.said
    assert Path("dead").exists()
    assert sorted(path.name for path in Path("run/starts").iterdir()) == ["step00000000", f"step{resumed:08d}"]
    assert training.said.count("continuing from") == 2  # each process says so
    assert f"Restored all states from the checkpoint at {elsewhere}/run/last.ckpt" in training.said
    assert_equal("run/last.ckpt", uninterrupted(*TWO_GPUS))


def test_processes_that_torchrun_starts_again_meet_at_another_port(monkeypatch):
    """At the first they would find the addresses of those that are gone: some restarts failed, some did not."""
    monkeypatch.setenv("MASTER_PORT", "29501")
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    for times, port in (("0", "29501"), ("2", "29701")):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", times)
        meet_anew()
        assert os.environ["MASTER_PORT"] == port
    assert os.environ["TORCHELASTIC_USE_AGENT_STORE"] == "False"


def machines(elsewhere, port, *settings):
    """The launcher as two machines start it: command and variables of each."""
    for node, own in enumerate(settings):
        variables = {"NODE_RANK": str(node), "MASTER_PORT": str(port), "MASTER_ADDR": "127.0.0.1"}
        yield launcher("ddpm", *own), elsewhere / f"node{node}.log", variables | {"NNODES": "2", "NGPU": "1"}


def test_two_machines_train_as_one_with_two_gpus(settings_of, uninterrupted, elsewhere):
    settings = settings_of(*TWO_GPUS, elsewhere / "run")
    (a, a_log, a_is), (b, b_log, b_is) = machines(elsewhere, free_port(), settings, settings)
    with running(a, a_log, **a_is) as first, running(b, b_log, **b_is) as second:
        assert (first.status(), second.status()) == (0, 0), first.said + second.said
    assert_equal("run/last.ckpt", uninterrupted(*TWO_GPUS))


def test_two_machines_without_a_shared_disk_are_refused(workshop, settings_of, elsewhere):
    own = [settings_of(*TWO_GPUS, elsewhere / folder) for folder in ("disk0", "disk1")]
    Path("disk0").mkdir()
    Path("disk0/last.ckpt").write_bytes(workshop.ddpm_ckpt.read_bytes())
    (a, a_log, a_is), (b, b_log, b_is) = machines(elsewhere, free_port(), *own)
    with running(a, a_log, **a_is) as first, running(b, b_log, **b_is) as second:
        assert (first.status(), second.status()) == (1, 1), first.said + second.said
    for said in (first.said, second.said):  # each machine's own
        assert said.count("all ranks must go on from the same checkpoint") == 1, said
        assert "rank 0 on" in said
        assert "step 4" in said
        assert "step 0" in said
    assert not Path("disk1/last.ckpt").exists()
