"""JSON files that may be damaged."""

import json
from pathlib import Path
from typing import Any

from common.errors import refusing_damage


def read_json(path: Path, remedy: str) -> Any:
    """What a file holds.

    Raises:
        FileNotFoundError: no such file. BadFileError: not JSON; says what to do.
    """
    with refusing_damage(path, "a JSON file is whole", remedy):
        return json.loads(path.read_text(encoding="utf-8"))
