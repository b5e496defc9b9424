"""What a result says of the code that made it."""

import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.versions import changes, versions


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_the_commit_is_that_of_the_code():
    words = ["git", "rev-parse", "HEAD"]
    expected = subprocess.run(words, cwd=Path(__file__).parent, capture_output=True, text=True, check=False).stdout
    assert versions()["commit"] == expected.strip()


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with one file of code, in place of ours."""
    for name in ("GIT_AUTHOR", "GIT_COMMITTER"):
        monkeypatch.setenv(f"{name}_NAME", "a")
        monkeypatch.setenv(f"{name}_EMAIL", "a@b.c")
    monkeypatch.setattr("pipeline.versions.ROOT", tmp_path)
    (tmp_path / "a.py").write_text("1\n")
    for words in (["init", "-q"], ["add", "a.py"], ["commit", "-qm", "first"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    return tmp_path


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_changes_of_the_code_are_told_and_those_of_other_files_are_not(repository):
    assert changes() == ("", [])
    (repository / "a.py").write_text("2\n")
    for name in ("new.py", "patients.csv"):
        (repository / name).write_text("3\n")
    changed, new = changes()
    assert "-1\n+2\n" in changed
    assert new == ["new.py"]


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_a_bare_export_inside_another_repository_has_no_commit(repository, monkeypatch):
    export = repository / "export"
    export.mkdir()
    assert versions()["commit"]
    monkeypatch.setattr("pipeline.versions.ROOT", export)
    assert versions()["commit"] == ""
    assert changes() == ("", [])


def test_a_machine_without_git_has_no_commit(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    made_with = versions()
    assert made_with["commit"] == ""
    assert made_with["torch"]
    assert changes() == ("", [])
