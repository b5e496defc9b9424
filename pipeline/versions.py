"""What a result was made with."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("torch", "pytorch-lightning", "numpy", "transformers")
ROOT = Path(__file__).resolve().parents[1]
OF_CODE = ("*.py", "*.yaml", "*.j2", "*.sh", "requirements.txt")


def versions() -> dict[str, str]:
    """Of packages, Python and this code."""
    return {name: version(name) for name in PACKAGES} | {"python": platform.python_version(), "commit": _commit()}


def changes() -> tuple[str, list[str]]:
    """How this code differs from its commit, as `git diff` shows it, and its files that git does not know."""
    new = git("ls-files", "--others", "--exclude-standard", "--", *OF_CODE)
    return git("diff", "HEAD", "--", *OF_CODE), new.splitlines()


def git(*words: str) -> str:
    """What git says of this code; nothing without its repository, or on a machine without git."""
    # a bare export may lie in the folder of somebody else's repository
    env = os.environ | {"GIT_CEILING_DIRECTORIES": str(ROOT.parent)}
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, env=env, capture_output=True, check=False)
    except OSError:
        return ""
    return done.stdout.decode("utf-8", "replace")


def _commit() -> str:
    return git("rev-parse", "HEAD").strip()
