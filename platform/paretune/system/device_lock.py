"""One reader-writer lock per device of a machine, held by the kernel.

Training and whatever else computes hold it shared, measuring exclusive, so that no latency is taken
while something else of ours runs on the device, whichever sweep, job or hand-started command it
belongs to. The CPU is one device, and each physical GPU another. What runs on a GPU keeps a core or
more busy as well, so it also shares the CPU. A second lock, the gate, is taken first: a measurer that
waits at the gate keeps new trainers out, so a stream of short trainings cannot starve it. The kernel
frees both when their holder dies, however it dies.
"""

from __future__ import annotations

import fcntl
import math
import os
import re
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Self

from paretune.system.device_holders import causes, holders, note_held, write_note
from paretune.system.physical_gpu import number_of, uuids_of

MOMENT = 0.05
"""Seconds of waiting that nobody is told of."""
AGAIN = 600.0
"""Seconds after which it is told again that the same holder is waited for."""
GPU = ("cuda", "GPU-")
"""How the names of a GPU's locks begin."""
_mine = threading.local()
"""``devices``: the locks that this thread holds now, and how."""
_told: list[Callable[[str], None]] = []
"""One at most: called with a line when a device is not free within a `MOMENT`."""
_told_of: dict[tuple[str, str, int | None], float] = {}
"""What was told of which lock and process → when."""
_open: set[int] = set()
"""Lock files and notes that this process has open."""


def lock_folder() -> Path:
    """Return the folder of the locks: one per user and machine, with empty files and the notes of who holds them.

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


def machine() -> tuple[str, int, int]:
    """Return what is equal for processes that meet at the same locks, and for no others."""
    try:
        host = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        host = socket.gethostname()
    folder = lock_folder().stat()
    return host, folder.st_dev, folder.st_ino


def locks_of(device: str) -> tuple[str, ...]:
    """Return the locks of a device, by names that mean the same in every process of the machine.

    Args:
        device: ``cpu``, ``cuda`` (the first GPU that this process sees) or ``cuda:1``.

    Returns:
        ``cpu``; for a GPU its UUID, those of all where it is not clear which one is meant, or ``cuda``, one lock for
        all, where NVML tells nothing.
    """
    if re.fullmatch(r"cuda(:\d+)?", device) is None:
        return (device,)
    return uuids_of(number_of(device)) or ("cuda",)


@contextmanager
def shared_device(*devices: str, patience: float | None = None) -> Iterator[float]:
    """Use devices together with others (training, evaluating, calibrating); yields the seconds waited.

    Within another ``shared_device`` of the same thread it changes nothing.

    Args:
        devices: as for ``locks_of``, or names that it has returned.
        patience: seconds after which it goes on all the same, without the device's lock, and says so; None waits.
    """
    with _held(devices, fcntl.LOCK_SH, patience) as waited:
        yield waited


@contextmanager
def exclusive_device(device: str) -> Iterator[float]:
    """Use the device alone (measuring); yields the seconds waited."""
    with _held((device,), fcntl.LOCK_EX) as waited:
        yield waited


def tell_waits(say: Callable[[str], None]) -> None:
    """Have a line said, in this process, when a device is not free within a `MOMENT`: who has it, and since when.

    It is said once for each process that is waited for, and again after `AGAIN` seconds.
    """
    _told[:] = [say]
    _told_of.clear()


@contextmanager
def _held(devices: tuple[str, ...], mode: int, patience: float | None = None) -> Iterator[float]:
    """Hold devices; first the CPU, shared, where there is a GPU: always in one order, so that none waits in a ring."""
    names = {name for device in devices for name in locks_of(device)}
    gpus = sorted(name for name in names if name.startswith(GPU))
    others = sorted(names.difference(gpus) | ({"cpu"} if gpus else set()), key=lambda name: (name != "cpu", name))
    start = time.monotonic()
    end = None if patience is None else start + patience
    waited = 0.0
    with ExitStack() as stack:
        for name in others:
            alone = mode == fcntl.LOCK_EX and name in names
            waited += stack.enter_context(_held_itself(name, fcntl.LOCK_EX if alone else fcntl.LOCK_SH, end))
        for name in gpus:
            waited += stack.enter_context(_held_itself(name, mode, end))
        yield waited


@contextmanager
def _held_itself(device: str, mode: int, end: float | None) -> Iterator[float]:
    """Pass the gate, take the lock, leave the gate to the next.

    Args:
        device: name of the lock.
        mode: shared or exclusive.
        end: when to give up, of the monotonic clock; None never does.

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
    start = time.monotonic()
    with _Waiter(device, mode, end) as waiter:
        lock = waiter.lock()
        waited = time.monotonic() - start
        if lock is None:
            yield waited
            return
        held[device] = mode
        try:
            yield waited
        finally:
            del held[device]
            _unlock(lock)


class _Waiter:
    """One who wants a lock, with the note that says so."""

    def __init__(self, device: str, mode: int, end: float | None) -> None:
        self._device, self._mode, self._end = device, mode, end
        self._name = device.replace(":", "-").replace("/", "-")
        self._folder = lock_folder()
        self._note: tuple[Path, int] | None = None

    def __enter__(self) -> Self:
        with suppress(OSError):  # a full disk: nobody is told then who it is
            self._note = write_note(self._folder, self._name, alone=self._alone)
            _open.add(self._note[1])
        return self

    def __exit__(self, *_: object) -> None:
        """Take the note away."""
        if self._note is not None:
            if self._note[1] in _open:
                self._note[0].unlink(missing_ok=True)
            _unlock(self._note[1])

    @property
    def _alone(self) -> bool:
        return self._mode == fcntl.LOCK_EX

    def lock(self) -> int | None:
        """Return the locked file, or None where it was not free in time."""
        gate = self._locked("gate", fcntl.LOCK_EX)
        if gate is None:
            return None
        try:
            lock = self._locked("lock", self._mode)
        finally:
            _unlock(gate)
        if lock is not None and self._note is not None:
            with suppress(OSError):
                note_held(self._note[1], alone=self._alone)
        return lock

    def _locked(self, part: str, mode: int) -> int | None:
        """Open and lock a file; again when a cleaner of temporary files took it away meanwhile."""
        path = self._folder / f"{self._name}.{part}"
        while True:
            handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            _open.add(handle)
            try:
                if not _soon(handle, mode, time.monotonic() + MOMENT) and not self._patiently(handle, mode):
                    _unlock(handle)
                    return None
                os.utime(handle)  # cleaners go by age
                with suppress(FileNotFoundError):
                    if path.stat().st_ino == os.fstat(handle).st_ino:
                        return handle
            except BaseException:
                _unlock(handle)
                raise
            _unlock(handle)

    def _patiently(self, handle: int, mode: int) -> bool:
        """Tell who has the device, and wait for it; returns whether it was free in time."""
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
        """Say who is waited for, unless that was said in the last `AGAIN` seconds; ``whoever`` it was."""
        if not _told:
            return
        found = causes(holders(self._folder, self._name, self._note and self._note[0]), alone=self._alone)
        key = (words, self._device, found[0].pid if found and not whoever else None)
        if time.monotonic() - _told_of.get(key, -math.inf) < AGAIN:
            return
        _told_of[key] = time.monotonic()
        said = str(found[0]) if found else "another Paretune process has it"
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        device = {"cpu": "the CPU", "cuda": "the GPU"}.get(self._device, self._device)
        for say in _told:
            say(words.format(device, said + more))


def _soon(handle: int, mode: int, end: float) -> bool:
    """Lock a file that is free before a moment: those who share a device pass its gate one by one."""
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(handle, mode | fcntl.LOCK_NB)
            return True
        if time.monotonic() >= end:
            return False
        time.sleep(MOMENT / 50)


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
