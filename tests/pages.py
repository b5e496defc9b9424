"""README.md and docs/ as tests read them: links, tables, code, commands."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(
    r"(?:[A-Z_]+=\S+ )*(?:python3? |torchrun |tensorboard |pip |srun |source |(?:\./|benchmarks/)\w+\.sh\b)"
)


@dataclass(frozen=True)
class Table:
    """A table and the comment `<!-- kind: names -->` before it, if there is one. Cells as they are written."""

    kind: str
    names: tuple[str, ...]
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def blocks(page: Path, language: str) -> list[str]:
    """The fenced code of a language."""
    return [code for name, code in _FENCE.findall(page.read_text(encoding="utf-8")) if name == language]


def prose(page: Path) -> str:
    """A page without its fenced code."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def code_spans(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", text)


def anchors(page: Path) -> set[str]:
    """What links may name of a page, as GitHub makes it from headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> list[str]:
    """Targets of a page's links and pictures that lie in the repository."""
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)) if not target.startswith("http")]


def tables(page: Path) -> Iterator[Table]:
    marker = re.compile(r"(?:<!-- (\w+): ([\w=. ]+) -->\n\n)?((?:^\|.*\|\n)+)", re.MULTILINE)
    for kind, names, text in marker.findall(prose(page)):
        head, _, *rows = (tuple(cell.strip() for cell in line.strip("|").split("|")) for line in text.splitlines())
        yield Table(kind, tuple(names.split()), head, tuple(rows))


def commands(page: Path) -> list[str]:
    """Every command line of a page, of its code and of its text."""
    code = "\n".join(blocks(page, "bash")).replace("\\\n", " ")
    lines = [line.strip() for line in code.splitlines()]
    written = [line for line in lines if line and not line.startswith("#")]
    return written + [span for span in code_spans(prose(page)) if _COMMAND.match(span)]


@dataclass(frozen=True)
class Call:
    """What a command line starts: a file of the repository, a module (`-m`) or a program; and its arguments."""

    program: str
    arguments: tuple[str, ...]


def call_of(words: list[str]) -> Call:
    """What the words of a command line start, behind variables, launchers and options of theirs."""
    first, rest = words[0], words[1:]
    if re.fullmatch(r"[A-Z_]+=.*", first) or first == "exec":
        return call_of(rest)
    if first == "bash" and rest[0] == "-c":
        return call_of(shlex.split(rest[1]))
    if first in ("srun", "torchrun"):
        while rest[0].startswith("--"):
            rest = rest[1:]
        return call_of(["python", *rest] if first == "torchrun" else rest)
    if first in ("python", "python3") and rest[0] != "-m":
        return Call(rest[0], tuple(rest[1:]))
    if first in ("python", "python3"):
        return Call(rest[1], tuple(rest[2:]))
    return Call(first.removeprefix("./"), tuple(rest))
