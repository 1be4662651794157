"""Environment variables that a submitted sweep takes along, such as credentials: in a file, never in Ray's metadata."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from paretune.core.errors import UserError

FILE = ".paretune-env.json"
"""File beside the submitted code, readable by its owner only."""
HOOK = f"{__name__}.load"
"""Name by which Ray calls `load` in each worker of a job."""


def values_of(names: Sequence[str], environment: Mapping[str, str]) -> dict[str, str]:
    """Return the values of variables.

    Args:
        names: of the variables.
        environment: to read.

    Raises:
        UserError: one is not set.
    """
    if missing := [name for name in names if name not in environment]:
        raise UserError(f"--env {missing[0]}: not set here; set it (export {missing[0]}=…), or leave it out")
    return {name: environment[name] for name in names}


def write(values: Mapping[str, str], folder: Path) -> None:
    """Write variables into a folder that is submitted; none write no file."""
    if values:
        handle = os.open(folder / FILE, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            json.dump(dict(values), file)


def file_here() -> Path | None:
    """Return the file of the variables that came with this package's code; None if there is none."""
    import paretune

    file = Path(next(iter(paretune.__path__))).resolve().parent.parent / FILE
    return file if file.is_file() else None


def load() -> None:
    """Set the variables that came with this package's code in this process."""
    if (file := file_here()) is not None:
        os.environ.update(json.loads(file.read_text()))
