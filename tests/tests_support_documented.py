"""The commands of the READMEs, and those that the program prints, read out of their texts."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests_support import ROOT

GUIDES = tuple(
    f"platform/guides/{name}.md"
    for name in ("data", "training", "sweeps", "compression", "evaluation", "profiling", "python")
)
"""The guides in the order in which the README lists them: later ones use what the commands of earlier ones make."""
READMES = (
    "README.md",
    *GUIDES,
    "jobs/README.md",
    "search_spaces/README.md",
    "cluster/README.md",
    "platform/README.md",
    "platform/reference.md",
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a README."""

    file: str
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"


def blocks(file: str) -> Iterator[Block]:
    """Return the fenced blocks of a README, in order."""
    text = (ROOT / file).read_text()
    for found in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield Block(file, text.count("\n", 0, found.start()) + 1, found[1], found[2])


def lines(block: Block) -> list[str]:
    """Return the commands of a block, continued lines joined, comments gone."""
    joined = block.text.replace("\\\n", " ").splitlines()
    return [line for line in joined if shlex.split(line, comments=True)]


def spoken(file: str) -> list[str]:
    """Return what a README's running text quotes as commands of ours."""
    text = re.sub(r"^```.*?^```$", "", (ROOT / file).read_text(), flags=re.MULTILINE | re.DOTALL)
    return [" ".join(quoted.split()) for quoted in re.findall(r"`(paretune [^`]+)`", text)]


def printed(text: str) -> list[str]:
    """Return the commands that the program printed for its reader to type."""
    found = []
    for line in text.splitlines():
        match = re.search(r"([^\s`]*python[^\s`]* -m paretune|[^\s`]*paretune) (?=[a-z]+( |$|`))[^`]*", line)
        if match:
            found.append(match[0].strip())
    return found


def words(line: str) -> list[str]:
    """Return the arguments of a command of ours."""
    given = shlex.split(line, comments=True)
    at = next(index for index, word in enumerate(given) if Path(word).name == "paretune")
    return given[at + 1 :]


def is_ours(line: str) -> bool:
    """Tell whether a command is one of ours."""
    return Path(shlex.split(line, comments=True)[0]).name == "paretune"


def notebook_cells(file: str) -> list[str]:
    """Return the code cells of a notebook, in order."""
    cells = json.loads((ROOT / file).read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
