"""The processes and files of a private Ray after its driver has ended or was killed."""

from __future__ import annotations

import os
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path

ENDING = 5.0
"""Longest wait in seconds for killed processes."""


def session_processes(folder: Path) -> list[int]:
    """Return the numbers of the processes of a private Ray: those that print into a file of its folder.

    Its agents print to their parent, and have a log of the folder open. They outlive a killed head or driver by
    minutes, and a worker may then still run its trial.
    """
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            is_agent = (place / "cmdline").read_bytes().startswith(b"ray::")
            handles = (place / "fd").iterdir() if is_agent else [place / "fd" / output for output in ("1", "2")]
            if any(_is_below(handle, folder) for handle in handles):
                found.append(int(place.name))
    return found


def _is_below(handle: Path, folder: Path) -> bool:
    """Return whether an open file of a process lies below a folder."""
    try:
        return handle.readlink().is_relative_to(folder)
    except OSError:
        return False


def end_session(folder: Path) -> None:
    """Kill the processes of a private Ray, and remove its folder.

    Args:
        folder: of its files.
    """
    deadline = time.monotonic() + ENDING
    while (left := session_processes(folder)) and time.monotonic() < deadline:
        for pid in left:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    shutil.rmtree(folder, ignore_errors=True)
