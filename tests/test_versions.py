"""What a result says of the code that made it."""

import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.versions import versions


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_the_commit_is_that_of_the_code():
    words = ["git", "rev-parse", "HEAD"]
    expected = subprocess.run(words, cwd=Path(__file__).parent, capture_output=True, text=True, check=False).stdout
    assert versions()["commit"] == expected.strip()


def test_a_machine_without_git_has_no_commit(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    made_with = versions()
    assert made_with["commit"] == ""
    assert made_with["torch"]
