"""One reader-writer lock per device of a machine, held by the kernel.

Training and other computing hold it shared, measuring holds it exclusively, so that no latency is measured while
another process of Paretune runs on the device. The CPU is one device, and each physical GPU is another. Work on a GPU
or another accelerator keeps a core or more busy as well, so it also holds the CPU shared. A second lock, the gate, is
taken first: a measurement that waits at the gate keeps new trainings out, so that a stream of short trainings cannot
starve it. The kernel frees both locks when their holder dies.
"""

from __future__ import annotations

import fcntl
import math
import os
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

MOMENT = 0.05
"""Seconds of waiting before a line about it is printed."""
AGAIN = 600.0
"""Seconds after which a line about the same holder is printed again."""
HOST = "cpu"
"""Lock of the CPU, which work on any other device keeps busy too."""
_thread = threading.local()
"""``devices``: lock that this thread holds → shared or exclusive."""
_told: list[Callable[[str], None]] = []
"""List of at most one function, called with a line when a device is not free within a `MOMENT`."""
_printed: dict[tuple[str, str, int | None], float] = {}
"""Text, lock and process of a printed line → time of the line."""
_open: set[int] = set()
"""Handles of open lock files and notes of this process."""


def lock_folder() -> Path:
    """Return the folder of the locks and of their holders' notes, one per user and machine.

    It is in ``/tmp`` and does not depend on TMPDIR, which batch systems set for each job: two jobs on one machine must
    use the same files.

    Raises:
        RuntimeError: the path is not a folder, or belongs to another user.
    """
    shared = Path("/tmp")  # noqa: S108 - the place must be fixed; its owner is checked below
    root = shared if os.access(shared, os.W_OK | os.X_OK) else Path(tempfile.gettempdir())
    folder = root / f"paretune-locks-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise RuntimeError(f"{folder} is not a folder of this user: remove it, devices are locked there")
    return folder


def machine() -> tuple[str, int, int]:
    """Return a key that is equal for two processes if and only if they use the same locks."""
    try:
        host = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        host = socket.gethostname()
    folder = lock_folder().stat()
    return host, folder.st_dev, folder.st_ino


def locks_of(device: str) -> tuple[str, ...]:
    """Return the names of a device's locks, which mean the same in every process of the machine.

    Args:
        device: ``cpu``, ``cuda`` (the first GPU that this process sees), ``cuda:1``, or a name that it has returned.

    Returns:
        ``DeviceKind.locks`` of the device's kind; the name itself for a device without a row.
    """
    from paretune.core.devices import DEVICES  # by pydantic, which `--help` does not need

    name, _, number = device.partition(":")
    if name not in DEVICES.rows or not (number or "0").isdecimal():  # a lock's own name
        return (device,)
    return DEVICES.load(name)().locks(int(number or 0))


@contextmanager
def shared_device(*devices: str, patience: float | None = None) -> Iterator[float]:
    """Hold devices shared, for training, evaluating or calibrating; yields the seconds of waiting.

    A ``shared_device`` inside of another one of the same thread has no effect.

    Args:
        devices: arguments of ``locks_of``, or names that it has returned.
        patience: seconds after which the block runs without the lock, with a line about it; None waits for ever.
    """
    with _held(devices, fcntl.LOCK_SH, patience) as waited:
        yield waited


@contextmanager
def exclusive_device(device: str) -> Iterator[float]:
    """Hold a device exclusively, for measuring; yields the seconds of waiting."""
    with _held((device,), fcntl.LOCK_EX) as waited:
        yield waited


def tell_waits(say: Callable[[str], None]) -> None:
    """Set the function of this process that gets a line on who holds a device that is not free within a `MOMENT`.

    The line comes once for each holder, and again after `AGAIN` seconds.
    """
    _told[:] = [say]
    _printed.clear()


@contextmanager
def _held(devices: tuple[str, ...], mode: int, patience: float | None = None) -> Iterator[float]:
    """Hold devices in one order, so that no circle of waiting arises; any device also holds the CPU shared."""
    names = {name for device in devices for name in locks_of(device)}
    ordered = [HOST, *sorted(names - {HOST})] if names else []
    start = time.monotonic()
    end = None if patience is None else start + patience
    waited = 0.0
    with ExitStack() as stack:
        for name in ordered:
            waited += stack.enter_context(_held_itself(name, mode if name in names else fcntl.LOCK_SH, end))
        yield waited


@contextmanager
def _held_itself(device: str, mode: int, end: float | None) -> Iterator[float]:
    """Take the gate, then the lock, then release the gate.

    Args:
        device: name of the lock.
        mode: shared or exclusive.
        end: time limit on the monotonic clock; None waits for ever.

    Raises:
        RuntimeError: this thread holds the device already and would wait for itself.
    """
    held: dict[str, int] = _thread.__dict__.setdefault("devices", {})
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
    """A thread that waits for a lock, with its note."""

    def __init__(self, device: str, mode: int, end: float | None) -> None:
        self._device, self._mode, self._end = device, mode, end
        self._name = device.replace(":", "-").replace("/", "-")
        self._folder = lock_folder()
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
            _unlock(self._note[1])

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
            _unlock(gate)
        if lock is not None and self._note is not None:
            with suppress(OSError):
                note_held(self._note[1], alone=self._alone)
        return lock

    def _locked(self, part: str, mode: int) -> int | None:
        """Return the handle of a locked file; repeated if a cleaner of temporary files removed the file meanwhile."""
        path = self._folder / f"{self._name}.{part}"
        while True:
            handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            _open.add(handle)
            try:
                if not _soon(handle, mode, time.monotonic() + MOMENT) and not self._patiently(handle, mode):
                    _unlock(handle)
                    return None
                os.utime(handle)  # cleaners remove old files
                with suppress(FileNotFoundError):
                    if path.stat().st_ino == os.fstat(handle).st_ino:
                        return handle
            except BaseException:
                _unlock(handle)
                raise
            _unlock(handle)

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
        from paretune.core.devices import DEVICES

        if not _told:
            return
        reasons = causes(holders(self._folder, self._name, self._note and self._note[0]), alone=self._alone)
        key = (words, self._device, reasons[0].pid if reasons and not whoever else None)
        if time.monotonic() - _printed.get(key, -math.inf) < AGAIN:
            return
        _printed[key] = time.monotonic()
        holder = str(reasons[0]) if reasons else "another Paretune process has it"
        more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
        device = DEVICES.load(self._device)().words if self._device in DEVICES.rows else self._device
        for say in _told:
            say(words.format(device, holder + more))


def _soon(handle: int, mode: int, end: float) -> bool:
    """Return whether a file could be locked before a time: sharers of a device pass its gate one by one."""
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(handle, mode | fcntl.LOCK_NB)
            return True
        if time.monotonic() >= end:
            return False
        time.sleep(MOMENT / 50)


def _unlock(handle: int) -> None:
    """Close a file, which releases its lock; in a forked child it is closed already."""
    if handle in _open:
        _open.discard(handle)
        os.close(handle)


@cache
def _close_in_children() -> None:
    """Close the locks in forked processes (data loaders), which would hold them after this process has died."""
    os.register_at_fork(after_in_child=_forget)


def _forget() -> None:
    for handle in _open:
        with suppress(OSError):
            os.close(handle)
    _open.clear()
    _thread.__dict__.clear()
