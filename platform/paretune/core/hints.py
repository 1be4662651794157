"""Commands that are printed for the reader to type: as this one was called, and quoted for the shell."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path


def command(*words: object) -> str:
    """Return a command line of ours that runs where this one was started."""
    return shlex.join([*_program(), *map(str, words)])


def _program() -> list[str]:
    """Return what starts this program: its name where the shell finds it by that, else as it was called."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py" and called.parent.name == "paretune":
        return ["python" if _found("python", Path(sys.executable)) else sys.executable, "-m", "paretune"]
    if called.name != "paretune" or _found("paretune", called):
        return ["paretune"]
    return [str(called)]


def _found(name: str, file: Path) -> bool:
    """Tell whether the shell finds this very file by its name."""
    found = shutil.which(name)
    return found is not None and Path(found).absolute() == file.absolute()
