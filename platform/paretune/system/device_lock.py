"""One reader-writer lock per device of a machine, held by the kernel.

Training and other computing hold it shared, measuring holds it exclusively, so that no latency is measured while
another process of Paretune runs on the device. The CPU is one device, and each physical GPU is another. Work on a GPU
or another accelerator keeps a core or more busy as well, so it also holds the CPU shared. A second lock, the gate, is
taken first: a measurement that waits at the gate keeps new trainings out, so that a stream of short trainings cannot
starve it. The kernel frees both locks when their holder dies.

Where work was shown not to disturb a measurement on other cores (`SharedCores`), a process that finds the CPU taken by
a measurement works on under a third lock, on these other cores. Measurements of all other processes take the third lock
too, so that nothing runs beside them.
"""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from paretune.system.cpu_cores import process_on
from paretune.system.device_holders import LOCKS, holders
from paretune.system.device_waiter import DeviceWaiter, close_in_children, unlock

HOST = "cpu"
"""Lock of the CPU, which work on any other device keeps busy too."""
APART = "cpu-apart-"
"""Beginning of the names of locks under which processes work on cores that a measurement leaves free."""
_thread = threading.local()
"""``devices``: lock that this thread holds → shared or exclusive."""
_sharing: list[SharedCores] = []
"""List of at most one division of the cores, by which this process works and measures."""


@dataclass(frozen=True)
class SharedCores:
    """Cores that a measurement uses, and those on which work was shown not to disturb it."""

    measuring: tuple[int, ...]
    working: tuple[int, ...]

    @property
    def lock(self) -> str:
        """Return the name of the lock of those who work while another process measures."""
        return APART + "-".join(map(str, self.measuring))


@contextmanager
def sharing_cores(cores: SharedCores) -> Iterator[None]:
    """Let this process, while the block runs, work beside measurements of others with the same division of the cores.

    Its own measurements run on ``cores.measuring`` then, and what it does while another one measures on
    ``cores.working``.
    """
    _sharing.append(cores)
    try:
        yield
    finally:
        _sharing.clear()


def lock_folder() -> Path:
    """Return the folder of the locks and of their holders' notes: ``PARETUNE_LOCKS``, else one per user and machine.

    The latter is in ``/tmp`` and does not depend on TMPDIR, which batch systems set for each job: two jobs on one
    machine must use the same files.

    Raises:
        RuntimeError: the path is not a folder, belongs to another user, or cannot be written.
    """
    if named := os.environ.get(LOCKS):
        return _shared_folder(Path(named))
    shared = Path("/tmp")  # noqa: S108 - the place must be fixed; its owner is checked below
    root = shared if os.access(shared, os.W_OK | os.X_OK) else Path(tempfile.gettempdir())
    folder = root / f"paretune-locks-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise RuntimeError(f"{folder} is not a folder of this user: remove it, devices are locked there")
    return folder


def _shared_folder(folder: Path) -> Path:
    """Return a folder that several users and containers of one host share.

    Raises:
        RuntimeError: it is none, this user cannot write it, or it is sticky: nobody then opens the files of others.
    """
    usable = folder.is_dir() and os.access(folder, os.R_OK | os.W_OK | os.X_OK)
    if not usable or folder.stat().st_mode & stat.S_ISVTX:
        raise RuntimeError(
            f"{LOCKS}={folder}: expected a folder that all users of the devices may write, without the sticky bit: "
            f"install -d -m 0777 {folder}"
        )
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
def exclusive_device(device: str, *, alone: bool = False) -> Iterator[float]:
    """Hold a device exclusively, for measuring; yields the seconds of waiting.

    Args:
        device: argument of ``locks_of``.
        alone: whether nobody may work on other cores meanwhile, as where the energy of the whole CPU is measured.
    """
    with _held((device,), fcntl.LOCK_EX, alone=alone) as waited:
        yield waited


def is_measured() -> bool:
    """Return whether a process has a device of this machine alone, as measurements do."""
    return any(holder.alone and holder.has for holder in holders(lock_folder(), "*"))


@contextmanager
def _held(
    devices: tuple[str, ...], mode: int, patience: float | None = None, *, alone: bool = False
) -> Iterator[float]:
    """Hold devices in one order, so that no circle of waiting arises; any device also holds the CPU shared."""
    names = {name for device in devices for name in locks_of(device)}
    ordered = [HOST, *sorted(names - {HOST})] if names else []
    start = time.monotonic()
    end = None if patience is None else start + patience
    sharing = _sharing[0] if _sharing else None
    waited = 0.0
    with ExitStack() as stack:
        for name in ordered:
            own = mode if name in names else fcntl.LOCK_SH
            if name == HOST and own == fcntl.LOCK_SH and sharing is not None:
                waited += stack.enter_context(_worked_beside(sharing, end))
                continue
            waited += stack.enter_context(_held_itself(name, own, end))
            if name == HOST and own == fcntl.LOCK_EX:
                kept = None if alone or sharing is None else sharing.lock
                for other in _apart_locks() - {kept}:
                    waited += stack.enter_context(_held_itself(other, own, end))
                if kept is not None and sharing is not None:
                    stack.enter_context(process_on(sharing.measuring))
        yield waited


def _apart_locks() -> set[str]:
    """Return the locks of all divisions of the cores that were used on this machine."""
    return {file.name.removesuffix(".lock") for file in lock_folder().glob(f"{APART}*.lock")}


@contextmanager
def _worked_beside(cores: SharedCores, end: float | None) -> Iterator[float]:
    """Hold the CPU shared, or, while somebody measures on it, the lock of those who work on the other cores."""
    held: dict[str, int] = _thread.__dict__.setdefault("devices", {})
    if HOST in held or cores.lock not in held:
        start = time.monotonic()
        with ExitStack() as stack:
            stack.enter_context(_held_itself(HOST, fcntl.LOCK_SH, start, quiet=True))
            if HOST in held:
                yield time.monotonic() - start
                return
    with _held_itself(cores.lock, fcntl.LOCK_SH, end) as waited, process_on(cores.working):
        yield waited


@contextmanager
def _held_itself(device: str, mode: int, end: float | None, *, quiet: bool = False) -> Iterator[float]:
    """Take the gate, then the lock, then release the gate.

    Args:
        device: name of the lock.
        mode: shared or exclusive.
        end: time limit on the monotonic clock; None waits for ever.
        quiet: whether no line is printed about waiting.

    Raises:
        RuntimeError: this thread holds the device already and would wait for itself.
    """
    held: dict[str, int] = _thread.__dict__.setdefault("devices", {})
    if device == HOST and mode == fcntl.LOCK_EX and any(name.startswith(APART) for name in held):
        raise RuntimeError(f"this thread works on {device!r} already and would wait for itself for ever")
    if device in held:
        if mode == held[device] == fcntl.LOCK_SH:
            yield 0.0
            return
        raise RuntimeError(f"this thread holds {device!r} already and would wait for itself for ever")
    close_in_children()
    _forget_in_children()
    start = time.monotonic()
    with DeviceWaiter(lock_folder(), device, mode, end, words=partial(_words, device), quiet=quiet) as waiter:
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
            unlock(lock)


def _words(device: str) -> str:
    """Return the name of a lock's device in lines."""
    from paretune.core.devices import DEVICES

    name = HOST if device.startswith(APART) else device
    return DEVICES.load(name)().words if name in DEVICES.rows else name


@cache
def _forget_in_children() -> None:
    """Let forked processes hold no device: their copies of the locks are closed."""

    def forget() -> None:
        _thread.__dict__.clear()  # of the thread that forked

    os.register_at_fork(after_in_child=forget)
