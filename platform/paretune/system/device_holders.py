"""Who holds a device, or is about to: a note beside its lock, which is true only while its writer lives.

The writer keeps its own note locked, so the kernel says whether it is true: a note that somebody else can lock was
left by a process that died, however it died, and is removed by whoever finds it.
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
"""Environment variable: what this process and those that it starts do, such as ``sweep quickstart``."""
_LENGTH = 2048
"""Bytes of a note, written at once."""


@dataclass(frozen=True)
class DeviceHolder:
    """One process, or a thread of it, that holds a device or waits for it."""

    what: str
    """What it does, such as ``sweep quickstart``."""
    pid: int
    since: float
    """Seconds since 1970 from which it has held the device, or waited."""
    alone: bool
    """Whether it wants the device alone: it measures."""
    has: bool
    """Whether it has the device; else it waits."""

    def __str__(self) -> str:
        """Say it as the rest of a sentence about the device."""
        same_day = time.localtime(self.since)[:3] == time.localtime()[:3]
        clock = time.strftime("%H:%M:%S" if same_day else "%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        if not self.has:
            doing = "is next to measure on it, and has waited"
        else:
            doing = "has been measuring on it" if self.alone else "has been using it"
        return f"{self.what}, process {self.pid}, {doing} since {clock}"


def say_what(words: str) -> None:
    """Say what this process and those that it starts do, for those who wait for it."""
    os.environ[DOING] = words


def doing() -> dict[str, str]:
    """Return the environment variables by which processes of another's say the same."""
    return {DOING: os.environ[DOING]} if DOING in os.environ else {}


def _what() -> str:
    told = os.environ.get(DOING, "") or Path(sys.argv[0] if sys.argv else "").name
    return " ".join(told.split())[:200] if told not in {"", "-c", "-m"} else "a Python program"


def write_note(folder: Path, device: str, *, alone: bool) -> tuple[Path, int]:
    """Write that this process waits for a device; returns the note's file and its open, locked handle."""
    draft = folder / f"{device}.{uuid.uuid4().hex}.draft"
    handle = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    fcntl.flock(handle, fcntl.LOCK_EX)
    _put(handle, alone, has=False)
    note = draft.with_suffix(".note")
    draft.rename(note)  # nobody sees it before it is locked
    return note, handle


def note_held(handle: int, *, alone: bool) -> None:
    """Write into a note that the device is held now."""
    _put(handle, alone, has=True)


def _put(handle: int, alone: bool, has: bool) -> None:
    told = {"what": _what(), "pid": os.getpid(), "since": time.time(), "alone": alone, "has": has}
    os.pwrite(handle, json.dumps(told).encode().ljust(_LENGTH), 0)


def holders(folder: Path, device: str, own: Path | None = None) -> list[DeviceHolder]:
    """Return who holds a device or waits for it, the longest first; notes of the dead are removed.

    Args:
        folder: of the locks.
        device: the lock's name.
        own: the note of who asks, which does not count.
    """
    found = [_read(note) for note in folder.glob(f"{device}.*.note") if note != own]
    return sorted((holder for holder in found if holder is not None), key=lambda holder: holder.since)


def _read(note: Path) -> DeviceHolder | None:
    """Return what a note says; None where its writer is dead, or it is being written."""
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
    """Return those of the holders that one has to wait for: who wants the device alone, for all who hold it."""
    having = [holder for holder in found if holder.has]
    if alone or any(holder.alone for holder in having):
        return having
    return [holder for holder in found if holder.alone]
