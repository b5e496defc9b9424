"""What a result was made with."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("torch", "pytorch-lightning", "numpy", "transformers")


def versions() -> dict[str, str]:
    """Of packages, Python and this code."""
    return {name: version(name) for name in PACKAGES} | {"python": platform.python_version(), "commit": _commit()}


def _commit() -> str:
    """Of this code; empty without its repository, or on a machine without git."""
    words = ["git", "rev-parse", "HEAD"]
    try:
        return subprocess.run(
            words, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        ).stdout.strip()
    except OSError:
        return ""
