"""What make_env.sh does, with a stand-in for Python; and what the project says of itself."""

import shutil
import subprocess
import tomllib

import pytest
from omegaconf import OmegaConf

from tests.pages import ROOT
from tests.test_architecture import MAY_IMPORT

PYTHON = """#!/bin/sh
echo "$@" >>"$CALLS"
case "$1 $2" in
    "-V "*) echo "Python 3.12.0" ;;
    "-c "*) echo 3.12.0 ;;
    "-m venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python && echo "#!$PWD/.venv/bin/python" >.venv/bin/pip ;;
esac
"""
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Runs a copy of make_env.sh; returns what it had pip install."""
    for name in ("make_env.sh", "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    python, calls = tmp_path / "python", tmp_path / "calls"
    python.write_text(PYTHON)
    python.chmod(0o755)
    monkeypatch.setenv("PYTHON", str(python))
    monkeypatch.setenv("CALLS", str(calls))

    def run():
        calls.write_text("")
        subprocess.run([tmp_path / "make_env.sh"], check=True, capture_output=True)
        return [
            line.split(maxsplit=3)[3] for line in calls.read_text().splitlines() if line.startswith("-m pip install")
        ]

    return run


def test_a_second_run_ends_at_once(installed):
    torch, requirements, project = installed()
    assert torch.startswith("torch==")
    assert requirements == "-r requirements.txt"
    assert project.endswith("--editable .")
    assert installed() == []


def test_changed_requirements_are_installed(installed, tmp_path):
    installed()
    with (tmp_path / "requirements.txt").open("a") as file:
        file.write("six==1.17.0\n")
    assert len(installed()) == 3


def test_every_command_and_room_can_be_imported_from_anywhere():
    tools = PROJECT["tool"]["setuptools"]
    assert sorted(tools["py-modules"]) == sorted(path.stem for path in ROOT.glob("*.py"))
    rooms = {room.partition("/")[0] for room in MAY_IMPORT} - {"commands", "benchmarks", "tests"}
    assert sorted(tools["packages"]["find"]["include"]) == sorted(f"{room}*" for room in rooms)


def test_the_citation_is_of_this_version():
    citation = OmegaConf.load(ROOT / "CITATION.cff")
    assert citation["version"] == PROJECT["project"]["version"]
    assert citation["license"] == PROJECT["project"]["license"]
