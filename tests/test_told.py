"""Commands that are told to end: what is finished is kept, nothing half written stays, the same command goes on."""

import runpy
import shutil
import signal
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import encode_latents
import evaluate_ddpm_patches
import prepare_data
import sample_ddpm_patches
from common.told import Told, heard_later, hearing_signals
from dataset.scans import nifti_stream
from dataset.scans.nifti_stream import stream_ct
from tests.forks import forked
from tests.processes import ROOT
from tests.tiny import run

# A file stays under its temporary name for a while, also in processes that a command starts.
SLOW_DISK = """
import os, time
from common import atomic
replace = os.replace
def slowly(a, b):
    if a.name.startswith(".tmp"):
        time.sleep(0.5)
    replace(a, b)
class Slow:
    def __getattr__(self, name):
        return slowly if name == "replace" else getattr(os, name)
atomic.os = Slow()
"""


def commands(workshop):
    """Command, settings, and pattern of the files that each finished case leaves."""
    drawn = [f"ckpt={workshop.ddpm_ckpt}", "steps=1"]
    return {
        "prepare": (prepare_data, [workshop.data, "dataset.store=out", "dataset.prepare_workers=2"], "cases/*.json"),
        "encode": (encode_latents, [*workshop.encode, "dataset.latents_dir=out"], "phantom*.json"),
        "sample": (sample_ddpm_patches, ["xray=films", "output=out", "shape=[16,16,16]", *drawn], "*.json"),
        "evaluate": (
            evaluate_ddpm_patches,
            [workshop.data, *drawn, "split=train", "controls=false", "run_dir=out"],
            "unfinished/*",
        ),
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asked", "to_all"),
    [(signal.SIGTERM, False), (signal.SIGTERM, True), (signal.SIGUSR1, True), (signal.SIGINT, True)],
)
@pytest.mark.parametrize("name", ["prepare", "encode", "sample", "evaluate"])
def test_a_command_that_is_told_to_end_goes_on_later(name, asked, to_all, workshop, elsewhere):
    Path("slow").mkdir()
    Path("slow/sitecustomize.py").write_text(SLOW_DISK)
    Path("films").mkdir()
    for i in range(4):
        shutil.copy(workshop.xray, f"films/{i}.png")
    module, settings, pattern = commands(workshop)[name]
    slow = {"PYTHONPATH": f"{elsewhere}/slow:{ROOT}"}
    slowly = partial(runpy.run_path, "slow/sitecustomize.py")
    out = elsewhere / "out"
    with forked(module, *settings, log=elsewhere / "log", first=slowly, **slow) as (command,):
        command.until(lambda: any(finished(out, pattern)) and any(out.rglob(".tmp*")))
        command.signal(asked, to_all)
        assert command.status() == 128 + asked, command.said
        assert command.gone(10), command.said
    what = "interrupted" if asked == signal.SIGINT else asked.name
    assert command.said.endswith(f"\n{what}; what is finished is kept, and the same command goes on from there\n")
    assert "Traceback" not in command.said
    assert "error" not in command.said
    assert [path for path in out.rglob(".tmp*")] == []
    kept = {path: path.stat().st_mtime_ns for path in finished(out, pattern)}
    run(module, *settings)
    if name != "evaluate":  # whose cases are then in its report
        assert {path: path.stat().st_mtime_ns for path in kept} == kept
        assert len(list(finished(out, pattern))) in (4, 5)
    assert [path for path in out.rglob(".tmp*")] == []


def finished(out, pattern):
    return (path for path in out.glob(pattern) if not path.name.startswith(".tmp"))


def told(done, *numbers):
    with hearing_signals():
        with heard_later():
            for number in numbers:
                signal.raise_signal(number)
                done.append(number)
        done.append("more")


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGTERM, Told), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_is_heard_when_the_block_has_ended(number, raised):
    done = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job's is ignored
    try:
        with pytest.raises(raised):
            told(done, number)
    finally:
        signal.signal(signal.SIGINT, before)
    assert done == [number]


def test_the_second_signal_is_heard_at_once():
    done = []
    with pytest.raises(Told) as ended:
        told(done, signal.SIGUSR1, signal.SIGTERM)
    assert done == [signal.SIGUSR1]
    assert ended.value.name == "SIGTERM"


@pytest.mark.parametrize(("before", "asks"), [(signal.SIG_DFL, True), (signal.SIG_IGN, False)])
def test_a_terminal_that_closes_ends_a_command_but_under_nohup(before, asks):
    kept = signal.signal(signal.SIGHUP, before)
    try:
        with pytest.raises(Told) if asks else nullcontext(), hearing_signals():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, kept)


def test_signals_that_end_the_process_or_nothing_stay_as_they_are():
    handlers = {signal.SIGTERM: signal.SIG_DFL, signal.SIGUSR1: signal.SIG_IGN}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        with heard_later():
            assert {number: signal.getsignal(number) for number in handlers} == handlers
        assert {number: signal.getsignal(number) for number in handlers} == handlers
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("name", ["ct.nii", "ct.nii.gz"])
def test_threads_that_pack_are_not_left_in_the_middle(name, tmp_path, monkeypatch):
    monkeypatch.setattr(nifti_stream, "PIECE", 16)
    read = []

    def told(start, size):
        if not read:
            signal.raise_signal(signal.SIGTERM)
        read.append(start)
        return np.zeros(size, dtype=np.int16)

    with hearing_signals(), pytest.raises(Told):
        stream_ct(tmp_path / name, told, (4, 4, 4), np.diag([-1.0, -1.0, 1.0, 1.0]), "LPS", "made")
    assert len(read) == 4
    assert list(tmp_path.iterdir()) == []
