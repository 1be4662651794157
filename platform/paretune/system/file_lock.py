"""Exclusive locks on files; the kernel releases them when their holder dies."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from paretune.core.errors import UserError


@contextmanager
def exclusive_file_lock(folder: Path, what: str) -> Iterator[None]:
    """Hold the lock of a folder, so that no other process works in it.

    Raises:
        UserError: another process holds the lock, or the folder was removed.
    """
    with _locked(folder / ".lock", f"{what} is being run by another process", f"{what}: {folder} was removed"):
        yield


@contextmanager
def _locked(file: Path, taken: str, gone: str) -> Iterator[None]:
    """Hold the lock of a file, which is made if it does not exist.

    Raises:
        UserError: another process holds the lock, or the folder does not exist.
    """
    while True:
        try:
            handle = os.open(file, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            raise UserError(gone) from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise UserError(taken) from None
        except BaseException:
            os.close(handle)
            raise
        if _is(handle, file):
            break
        os.close(handle)  # its holder has removed the file meanwhile: a lock on it has no effect
    try:
        yield
    finally:
        os.close(handle)


def _is(handle: int, file: Path) -> bool:
    """Return whether a path leads to this open file."""
    try:
        return os.path.samestat(os.fstat(handle), file.stat())
    except FileNotFoundError:
        return False
