"""One reader-writer lock per device of a machine, held by the kernel.

Training holds it shared, measuring exclusive, so that no latency is taken while something else of
ours runs on the device, whichever sweep, job or hand-started command it belongs to. A second lock,
the gate, is taken first: a measurer that waits at the gate keeps new trainers out, so a stream of
short trainings cannot starve it. The kernel frees both when their holder dies.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def lock_folder() -> Path:
    """Return the folder of the lock files: one per user and machine, empty files only."""
    folder = Path(tempfile.gettempdir()) / f"paretune-locks-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


@contextmanager
def sharing(device: str) -> Iterator[float]:
    """Use the device together with others (training, evaluating); yields the seconds waited."""
    with _held(device, fcntl.LOCK_SH) as waited:
        yield waited


@contextmanager
def alone_on(device: str) -> Iterator[float]:
    """Use the device alone (measuring); yields the seconds waited."""
    with _held(device, fcntl.LOCK_EX) as waited:
        yield waited


@contextmanager
def _held(device: str, mode: int) -> Iterator[float]:
    name = device.replace(":", "-")
    flags = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC
    start = time.monotonic()
    gate = os.open(lock_folder() / f"{name}.gate", flags, 0o600)
    try:
        lock = os.open(lock_folder() / f"{name}.lock", flags, 0o600)
        try:
            fcntl.flock(gate, fcntl.LOCK_EX)
            fcntl.flock(lock, mode)
            fcntl.flock(gate, fcntl.LOCK_UN)
            yield time.monotonic() - start
        finally:
            os.close(lock)
    finally:
        os.close(gate)
