"""What a user reads about a bad file."""

from pathlib import Path


class BadFileError(ValueError):
    """A file breaks a rule: its path, the rule, what was found instead, and what to do about it."""

    def __init__(self, path: Path, rule: str, found: str, remedy: str) -> None:
        super().__init__(path, rule, found, remedy)  # all four, so that it survives pickling between processes
        self.path, self.rule, self.found, self.remedy = path, rule, found, remedy

    def __str__(self) -> str:
        return f"{self.path}: {self.rule}; got {self.found}. {self.remedy}"
