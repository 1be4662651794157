"""Where what runtimes make of a network for this machine is kept: compiled programs, engines."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def private_folder(kind: str) -> Path:
    """Return this user's folder for one kind of program, below the system's temporary one, closed to others.

    Every process of a measurement finds there what the first has made.

    Raises:
        RuntimeError: it belongs to somebody else, whose programs must not be run.
    """
    folder = Path(tempfile.gettempdir()) / f"paretune-{kind}-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise RuntimeError(f"{folder} belongs to another user; programs from it are not run")
    return folder
