"""The processes and files of a private Ray after its driver has ended or was killed."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ENDING = 5.0
"""Longest wait in seconds for killed processes."""
AGE = 60.0
"""Seconds after which a folder without processes is no Ray that is being started."""


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


@dataclass(frozen=True)
class LeftSession:
    """What a private Ray whose driver is gone has left."""

    folder: Path
    processes: tuple[int, ...]


def left_sessions(place: Path) -> list[LeftSession]:
    """Return what private Rays of this user have left in the folder for temporary files.

    A Ray belongs to a living driver if a Python process has started one of its processes. A folder without processes
    counts when it is older than a minute.

    Args:
        place: folder for temporary files.
    """
    found = []
    for folder in sorted(place.glob("pt-*")):
        with suppress(OSError):
            status, processes = folder.lstat(), session_processes(folder)
            if status.st_uid != os.getuid() or not stat.S_ISDIR(status.st_mode):
                continue
            parents = {_parent(pid) for pid in processes} - set(processes)
            age = time.time() - status.st_mtime
            old = age > AGE and any(folder.glob("session_*"))
            if not any(map(_is_driver, parents)) and (processes or old):
                found.append(LeftSession(folder, tuple(sorted(processes))))
    return found


def _parent(pid: int) -> int:
    """Return the number of a process's parent; 0 if the process is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _is_driver(pid: int) -> bool:
    """Return whether a process may have started a Ray: it runs Python."""
    try:
        return "python" in Path(f"/proc/{pid}/exe").readlink().name
    except OSError:
        return False
