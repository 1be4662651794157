"""One reader-writer lock per device of a machine, held by the kernel.

Training and whatever else computes hold it shared, measuring exclusive, so that no latency is taken
while something else of ours runs on the device, whichever sweep, job or hand-started command it
belongs to. What runs on a GPU keeps a core or more busy as well, so it also shares the CPU. A second
lock, the gate, is taken first: a measurer that waits at the gate keeps new trainers out, so a stream
of short trainings cannot starve it. The kernel frees both when their holder dies, however it dies.
"""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

MOMENT = 0.05
"""Seconds of waiting that nobody is told of."""
_mine = threading.local()
"""``devices``: those that this thread holds now, and how."""
_told: list[Callable[[str], None]] = []
"""One at most: called with a line when a device is not free within a `MOMENT`."""
_open: set[int] = set()
"""Lock files that this process has open."""


def lock_folder() -> Path:
    """Return the folder of the lock files: one per user and machine, empty files only.

    It lies in ``/tmp`` whatever TMPDIR says: batch systems give each job a TMPDIR of its own, and two
    jobs on one machine must meet at the same file.

    Raises:
        RuntimeError: somebody else's folder, or something else, stands in its place.
    """
    shared = Path("/tmp")  # noqa: S108 - a fixed place is the point; whose it is, is checked below
    root = shared if os.access(shared, os.W_OK | os.X_OK) else Path(tempfile.gettempdir())
    folder = root / f"paretune-locks-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise RuntimeError(f"{folder} is not a folder of this user: remove it, devices are locked there")
    return folder


@contextmanager
def sharing(device: str) -> Iterator[float]:
    """Use the device together with others (training, evaluating, calibrating); yields the seconds waited.

    Within another ``sharing`` of the same thread it changes nothing.
    """
    with _held(device, fcntl.LOCK_SH) as waited:
        yield waited


@contextmanager
def alone_on(device: str) -> Iterator[float]:
    """Use the device alone (measuring); yields the seconds waited."""
    with _held(device, fcntl.LOCK_EX) as waited:
        yield waited


def tell_waits(say: Callable[[str], None]) -> None:
    """Have a line said, in this process, whenever a device is not free within a `MOMENT`."""
    _told[:] = [say]


@contextmanager
def _held(device: str, mode: int) -> Iterator[float]:
    """Hold a device; first the CPU, shared, where it is a GPU: always in this order, so that none waits in a ring."""
    if device.partition(":")[0] != "cuda":
        with _held_itself(device, mode) as waited:
            yield waited
        return
    with _held_itself("cpu", fcntl.LOCK_SH) as before, _held_itself(device, mode) as waited:
        yield before + waited


@contextmanager
def _held_itself(device: str, mode: int) -> Iterator[float]:
    """Pass the gate, take the lock, leave the gate to the next.

    Raises:
        RuntimeError: this thread holds the device already and would wait for itself for ever.
    """
    held: dict[str, int] = _mine.__dict__.setdefault("devices", {})
    if device in held:
        if mode == held[device] == fcntl.LOCK_SH:
            yield 0.0
            return
        raise RuntimeError(f"this thread holds {device!r} already and would wait for itself for ever")
    _close_in_children()
    name = device.replace(":", "-").replace("/", "-")
    start = time.monotonic()
    gate = _lock(lock_folder() / f"{name}.gate", fcntl.LOCK_EX, device)
    try:
        lock = _lock(lock_folder() / f"{name}.lock", mode, device)
    finally:
        _unlock(gate)
    held[device] = mode
    try:
        yield time.monotonic() - start
    finally:
        del held[device]
        _unlock(lock)


def _lock(path: Path, mode: int, device: str) -> int:
    """Open and lock a file; again when a cleaner of temporary files took it away meanwhile."""
    while True:
        handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        _open.add(handle)
        try:
            try:
                fcntl.flock(handle, mode | fcntl.LOCK_NB)
            except BlockingIOError:
                if not _soon(handle, mode):
                    for say in _told:
                        say(f"waiting: something else of paretune's uses {device}")
                    fcntl.flock(handle, mode)
            os.utime(handle)  # cleaners go by age
            with suppress(FileNotFoundError):
                if path.stat().st_ino == os.fstat(handle).st_ino:
                    return handle
        except BaseException:
            _unlock(handle)
            raise
        _unlock(handle)


def _soon(handle: int, mode: int) -> bool:
    """Lock a file that is free in a moment: those who share a device pass its gate one by one."""
    end = time.monotonic() + MOMENT
    while time.monotonic() < end:
        time.sleep(MOMENT / 50)
        with suppress(BlockingIOError):
            fcntl.flock(handle, mode | fcntl.LOCK_NB)
            return True
    return False


def _unlock(handle: int) -> None:
    """Close the file: the lock goes with the last handle on it. In a forked child it is closed already."""
    if handle in _open:
        _open.discard(handle)
        os.close(handle)


@cache
def _close_in_children() -> None:
    """Keep forked processes (data loaders) from holding the lock on after this one has died."""
    os.register_at_fork(after_in_child=_forget)


def _forget() -> None:
    for handle in _open:
        with suppress(OSError):
            os.close(handle)
    _open.clear()
    _mine.__dict__.clear()
