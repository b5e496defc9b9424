"""How a command ends: one message for a user's mistake, one line for Ctrl-C, a traceback for a fault of ours."""

import errno
import os
import pty
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hydra.errors import InstantiationException
from omegaconf.errors import ConfigAttributeError
from torch._utils import ExceptionWrapper

import prepare_data
import train_ddpm_patches_4gpu
from common.errors import BadFileError, UserError
from tests.processes import PATIENCE_S, script
from tests.test_ranks import ENDLESS, callback
from tests.tiny import DDPM_CKPT, load, run

ROOT = Path(__file__).resolve().parents[1]


def caused(error, cause):
    error.__cause__ = cause
    return error


def in_worker(error):
    """As torch's loader passes on what one of its processes met."""
    try:
        try:
            raise error
        except type(error):
            ExceptionWrapper(where="in DataLoader worker process 0").reraise()
    except Exception as passed_on:
        return passed_on


def ending(error, monkeypatch):
    """What is said, and the exit status, of a command that raises `error`."""

    def broken(**kwargs):
        raise error

    monkeypatch.setattr(prepare_data, "prepare", broken)
    with pytest.raises((SystemExit, type(error))) as ended:
        run(prepare_data, "dataset.root=/data")
    return ended.value


FAULTS = [
    KeyError("a bug"),
    ValueError("a bug"),
    TypeError("a bug"),
    ConnectionRefusedError(errno.ECONNREFUSED, "a bug"),
    BrokenPipeError(errno.EPIPE, "a bug"),
    OSError(errno.EADDRINUSE, "a bug"),
    ConfigAttributeError("a bug"),
    caused(InstantiationException("building failed"), TypeError("a bug")),
    in_worker(KeyError("a bug")),
    in_worker(ConnectionResetError(errno.ECONNRESET, "a bug")),
]


@pytest.mark.parametrize("error", FAULTS, ids=repr)
def test_a_fault_of_ours_keeps_its_traceback_and_says_whose_it_is(error, monkeypatch):
    ended = ending(error, monkeypatch)
    assert ended is error  # Python then prints its traceback and ends with status 1
    assert "a fault of the program" in ended.__notes__[0]
    assert "report" in ended.__notes__[0]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (UserError("a rule"), "a rule"),
        (OSError(errno.ENOSPC, "No space left", "/data/x"), "No space left: /data/x"),
        (OSError(errno.ENOSPC, "No space left"), "[Errno 28] No space left"),
        (FileNotFoundError("no weights in a"), "no weights in a"),
        (caused(InstantiationException("building failed"), UserError("a rule")), "a rule"),
        (in_worker(UserError("a rule\nKeyError: of two lines")), "a rule\nKeyError: of two lines"),
        (in_worker(BadFileError(Path("a.png"), "a rule", "b", "Do c.")), "a.png: a rule; got b. Do c."),
        (in_worker(PermissionError(13, "Denied", "/data/x")), "[Errno 13] Denied: '/data/x'"),
    ],
    ids=repr,
)
def test_a_mistake_of_the_user_is_one_message(error, message, monkeypatch, capsys):
    assert ending(error, monkeypatch).code == 2
    assert capsys.readouterr().err == f"\nerror: {message}\n(HYDRA_FULL_ERROR=1 shows the traceback)\n"


def test_the_traceback_of_a_mistake_is_there_for_who_wants_it(monkeypatch, capsys):
    monkeypatch.setattr(os.environ, "pop", lambda *_: None)  # `run` takes it out
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    assert ending(UserError("a rule"), monkeypatch).code == 2
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "error: a rule" in said


@pytest.mark.slow
def test_ctrl_c_is_one_line_that_says_how_to_go_on(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(f"""
import os, signal, sys
sys.path.insert(0, {str(ROOT)!r})
from pipeline.cli import script
@script("make_phantom_data")
def main(cfg):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job's is ignored
    os.kill(os.getpid(), signal.SIGINT)
main()
""")
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert done.stderr == "\ninterrupted; what is finished is kept, and the same command goes on from there\n"


def in_terminal(command):
    """A command whose terminal is read here; its process, and the file of the terminal."""
    process, terminal = pty.fork()
    if process == 0:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored, where the tests run under nohup
        os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        os.execv(command[0], command)
    os.set_blocking(terminal, False)
    return process, terminal


@pytest.mark.slow
def test_a_terminal_that_closes_costs_a_training_no_step(workshop, elsewhere):
    there = callback("Tell", file=elsewhere / "there", step=4)
    settings = [*workshop.ddpm, *ENDLESS, "model.val_every_n_epochs=1000000", there]
    process, terminal = in_terminal(script(train_ddpm_patches_4gpu, *settings))
    said, deadline = b"", time.monotonic() + PATIENCE_S
    try:
        while not Path("there").exists():
            assert time.monotonic() < deadline, said
            time.sleep(0.05)
            with suppress(BlockingIOError):  # there is nothing to read
                said += os.read(terminal, 1 << 16)
    finally:
        os.close(terminal)
        _, status = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGHUP, said
    assert load(DDPM_CKPT)["global_step"] >= 4
