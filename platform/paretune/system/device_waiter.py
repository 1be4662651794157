"""A process that waits for a lock file of a device, with a note for others and a line for its user."""

from __future__ import annotations

import fcntl
import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Self

from paretune.system.device_holders import causes, holders, note_held, open_lock, write_note

MOMENT = 0.05
"""Seconds of waiting before a line about it is printed."""
AGAIN = 600.0
"""Seconds after which a line about the same holder is printed again."""
_told: list[Callable[[str], None]] = []
"""List of at most one function, called with a line when a device is not free within a `MOMENT`."""
_printed: dict[tuple[str, str, int | None], float] = {}
"""Text, lock and process of a printed line → time of the line."""
_open: set[int] = set()
"""Handles of open lock files and notes of this process."""


def tell_waits(say: Callable[[str], None]) -> None:
    """Set the function of this process that gets a line on who holds a device that is not free within a `MOMENT`.

    The line comes once for each holder, and again after `AGAIN` seconds.
    """
    _told[:] = [say]
    _printed.clear()


class DeviceWaiter:
    """A thread that waits for a lock, with its note.

    Args:
        folder: of the locks.
        device: name of the lock.
        mode: shared or exclusive.
        end: time limit on the monotonic clock; None waits for ever.
        words: returns the name of the device in lines.
        quiet: whether no line is printed.
    """

    def __init__(
        self, folder: Path, device: str, mode: int, end: float | None, *, words: Callable[[], str], quiet: bool = False
    ) -> None:
        self._device, self._mode, self._end, self._words, self._quiet = device, mode, end, words, quiet
        self._name = device.replace(":", "-").replace("/", "-")
        self._folder = folder
        self._note: tuple[Path, int] | None = None

    def __enter__(self) -> Self:
        with suppress(OSError):  # a full disk: other processes do not learn who waits then
            self._note = write_note(self._folder, self._name, alone=self._alone)
            _open.add(self._note[1])
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the note."""
        if self._note is not None:
            if self._note[1] in _open:
                self._note[0].unlink(missing_ok=True)
            unlock(self._note[1])

    @property
    def _alone(self) -> bool:
        return self._mode == fcntl.LOCK_EX

    def lock(self) -> int | None:
        """Return the handle of the locked file, or None if it was not free in time."""
        gate = self._locked("gate", fcntl.LOCK_EX)
        if gate is None:
            return None
        try:
            lock = self._locked("lock", self._mode)
        finally:
            unlock(gate)
        if lock is not None and self._note is not None:
            with suppress(OSError):
                note_held(self._note[1], alone=self._alone)
        return lock

    def _locked(self, part: str, mode: int) -> int | None:
        """Return the handle of a locked file; repeated if a cleaner of temporary files removed the file meanwhile."""
        path = self._folder / f"{self._name}.{part}"
        while True:
            handle = open_lock(path)
            _open.add(handle)
            try:
                if not _soon(handle, mode, time.monotonic() + MOMENT) and not self._patiently(handle, mode):
                    unlock(handle)
                    return None
                os.utime(handle)  # cleaners remove old files
                with suppress(FileNotFoundError):
                    if path.stat().st_ino == os.fstat(handle).st_ino:
                        return handle
            except BaseException:
                unlock(handle)
                raise
            unlock(handle)

    def _patiently(self, handle: int, mode: int) -> bool:
        """Wait for the device with a line on its holder; returns whether it was free in time."""
        if self._end is None:
            self._tell("waiting for {}: {}")
            fcntl.flock(handle, mode)
            return True
        if time.monotonic() < self._end:
            self._tell("waiting for {}: {}")
        if _soon(handle, mode, self._end):
            return True
        self._tell("going on without waiting any longer for {}, though {}", whoever=True)
        return False

    def _tell(self, words: str, *, whoever: bool = False) -> None:
        """Print a line on the holder, unless one was printed in the last `AGAIN` seconds."""
        if not _told or self._quiet:
            return
        reasons = causes(holders(self._folder, self._name, self._note and self._note[0]), alone=self._alone)
        key = (words, self._device, reasons[0].pid if reasons and not whoever else None)
        if time.monotonic() - _printed.get(key, -math.inf) < AGAIN:
            return
        _printed[key] = time.monotonic()
        holder = str(reasons[0]) if reasons else "another Paretune process has it"
        more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
        for say in _told:
            say(words.format(self._words(), holder + more))


def _soon(handle: int, mode: int, end: float) -> bool:
    """Return whether a file could be locked before a time: sharers of a device pass its gate one by one."""
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(handle, mode | fcntl.LOCK_NB)
            return True
        if time.monotonic() >= end:
            return False
        time.sleep(MOMENT / 50)


def unlock(handle: int) -> None:
    """Close a file, which releases its lock; in a forked child it is closed already."""
    if handle in _open:
        _open.discard(handle)
        os.close(handle)


@cache
def close_in_children() -> None:
    """Close the locks in forked processes (data loaders), which would hold them after this process has died."""
    os.register_at_fork(after_in_child=_forget)


def _forget() -> None:
    for handle in _open:
        with suppress(OSError):
            os.close(handle)
    _open.clear()
