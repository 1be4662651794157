"""Notes beside the lock of a device on the processes that hold it or wait for it.

A writer keeps its note locked while it lives. A note that another process can lock was left by a dead process, and is
removed by the process that finds it.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

DOING = "PARETUNE_DOING"
"""Environment variable with the work of this process and its children, such as ``sweep quickstart``."""
_LENGTH = 2048
"""Bytes of a note, which is written at once."""


@dataclass(frozen=True)
class DeviceHolder:
    """A process, or one of its threads, that holds a device or waits for it."""

    what: str
    """Work of the process, such as ``sweep quickstart``."""
    pid: int
    since: float
    """Begin of holding, or of waiting, in seconds since 1970."""
    alone: bool
    """True if the process needs the device alone, for a measurement."""
    has: bool
    """True if the process holds the device; else it waits."""

    def __str__(self) -> str:
        """Return the holder as the rest of a sentence about the device."""
        same_day = time.localtime(self.since)[:3] == time.localtime()[:3]
        clock = time.strftime("%H:%M:%S" if same_day else "%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        if not self.has:
            doing = "is next to measure on it, and has waited"
        else:
            doing = "has been measuring on it" if self.alone else "has been using it"
        return f"{self.what}, process {self.pid}, {doing} since {clock}"


def say_what(words: str) -> None:
    """Set the work of this process and its children, which processes that wait for them print."""
    os.environ[DOING] = words


LOCKS = "PARETUNE_LOCKS"
"""Environment variable with the folder of the locks, which users and containers of one host may share."""


def doing() -> dict[str, str]:
    """Return the environment variables with which another process's children have the same work."""
    return {DOING: os.environ[DOING]} if DOING in os.environ else {}


def _what() -> str:
    work = os.environ.get(DOING, "") or Path(sys.argv[0] if sys.argv else "").name
    return " ".join(work.split())[:200] if work not in {"", "-c", "-m"} else "a Python program"


def open_lock(path: Path, flags: int = 0) -> int:
    """Open or make a file of the locks, which other users may open where ``PARETUNE_LOCKS`` names the folder."""
    handle = os.open(path, flags | os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    if os.environ.get(LOCKS):
        with suppress(PermissionError):  # another user made it, and let all open it
            os.fchmod(handle, 0o666)
    return handle


def write_note(folder: Path, device: str, *, alone: bool) -> tuple[Path, int]:
    """Write a note that this process waits for a device; returns its file and the open, locked handle."""
    draft = folder / f"{device}.{uuid.uuid4().hex}.draft"
    handle = open_lock(draft, os.O_EXCL)
    fcntl.flock(handle, fcntl.LOCK_EX)
    _put(handle, alone, has=False)
    note = draft.with_suffix(".note")
    draft.rename(note)  # nobody sees the note before it is locked
    return note, handle


def note_held(handle: int, *, alone: bool) -> None:
    """Write into a note that its process holds the device now."""
    _put(handle, alone, has=True)


def _put(handle: int, alone: bool, has: bool) -> None:
    holder = {"what": _what(), "pid": os.getpid(), "since": time.time(), "alone": alone, "has": has}
    os.pwrite(handle, json.dumps(holder).encode().ljust(_LENGTH), 0)


def holders(folder: Path, device: str, own: Path | None = None) -> list[DeviceHolder]:
    """Return the processes that hold a device or wait for it, the longest first, and remove notes of dead ones.

    Args:
        folder: folder of the locks.
        device: name of the lock.
        own: note of the caller, which is left out.
    """
    notes = [_read(note) for note in folder.glob(f"{device}.*.note") if note != own]
    return sorted((holder for holder in notes if holder is not None), key=lambda holder: holder.since)


def _read(note: Path) -> DeviceHolder | None:
    """Return the holder in a note; None if its writer is dead, or is writing it."""
    try:
        handle = os.open(note, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        note.unlink(missing_ok=True)
    except BlockingIOError:
        with suppress(ValueError, TypeError):
            return DeviceHolder(**json.loads(os.pread(handle, _LENGTH, 0)))
    finally:
        os.close(handle)
    return None


def causes(found: list[DeviceHolder], *, alone: bool) -> list[DeviceHolder]:
    """Return the holders for which a process has to wait; all that hold the device if the process needs it alone."""
    having = [holder for holder in found if holder.has]
    if alone or any(holder.alone for holder in having):
        return having
    return [holder for holder in found if holder.alone]
