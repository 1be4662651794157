"""Command lines that are printed for the reader to type."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path


def command(*words: object) -> str:
    """Return a command line of this program, quoted for the shell and called as this one was."""
    return shlex.join([*_program(), *map(str, words)])


def _program() -> list[str]:
    """Return the words that start this program: its name if the shell finds it, else the path it was called by."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py" and called.parent.name == "paretune":
        return ["python" if _found("python", Path(sys.executable)) else sys.executable, "-m", "paretune"]
    if called.name != "paretune" or _found("paretune", called):
        return ["paretune"]
    return [str(called)]


def _found(name: str, file: Path) -> bool:
    """Return whether the shell finds this file under a name."""
    program = shutil.which(name)
    return program is not None and Path(program).absolute() == file.absolute()
