"""JSON files that may be damaged."""

import json
from pathlib import Path
from typing import Any

from common.errors import BadFileError


def read_json(path: Path, remedy: str) -> Any:
    """What a file holds.

    Raises:
        FileNotFoundError: no such file. BadFileError: not JSON; says what to do.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadFileError(path, "a JSON file is whole", f"a damaged one ({error})", remedy) from error
