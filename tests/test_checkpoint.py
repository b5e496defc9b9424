"""What a checkpoint says of the code that made it."""

import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.checkpoints import checkpoint


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_the_commit_is_that_of_the_code():
    words = ["git", "rev-parse", "HEAD"]
    expected = subprocess.run(
        words, cwd=Path(checkpoint.__file__).parent, capture_output=True, text=True, check=False
    ).stdout
    assert checkpoint.versions()["commit"] == expected.strip()


def test_a_machine_without_git_has_no_commit(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    versions = checkpoint.versions()
    assert versions["commit"] == ""
    assert versions["torch"]
