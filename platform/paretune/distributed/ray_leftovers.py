"""The processes and files of a private Ray after its driver has ended or was killed."""

from __future__ import annotations

import os
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path

SESSION_VARIABLE = "PARETUNE_RAY_SESSION"
"""Environment variable of a private Ray's processes: the folder of its files."""
ENDING = 5.0
"""Longest wait in seconds for killed processes."""


def session_processes(folder: Path) -> list[int]:
    """Return the numbers of the processes of a private Ray, without this process.

    Its agents outlive a killed head or driver by minutes, and a worker may then still run its trial.
    """
    mark, found = f"{SESSION_VARIABLE}={folder}".encode(), []
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if int(place.name) != os.getpid() and mark in (place / "environ").read_bytes().split(b"\0"):
                found.append(int(place.name))
    return found


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
