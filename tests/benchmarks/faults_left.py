"""Processes of a place, and folders of private Rays."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from faults_sweep import MARK, Place


def processes(place: Place) -> dict[int, str]:
    """Return the processes of a place, by their environment or current folder: number → command line."""
    found, mark = {}, f"{MARK}={place.folder}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            here = (folder / "cwd").readlink().is_relative_to(place.folder)
            here = here or mark in (folder / "environ").read_bytes().split(b"\0")
            if here and int(folder.name) != os.getpid():
                state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
                words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:200]
                if state != "Z" and words:  # one that is ending has given up its memory, and its words with it
                    found[int(folder.name)] = words
        except OSError:
            continue
    return found


def session_folders() -> set[str]:
    """Return the folders of private Rays."""
    return {path.name for path in Path(tempfile.gettempdir()).glob("pt-*")}
