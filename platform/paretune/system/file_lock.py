"""Exclusive locks on files; the kernel releases them when their holder dies."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from paretune.core.errors import UserError

MOMENT = 0.02
"""Seconds between tries to get a lock."""


@contextmanager
def exclusive_file_lock(folder: Path, what: str) -> Iterator[None]:
    """Keep other processes from working in a folder while the block runs.

    Args:
        folder: that holds the lock's file.
        what: is done in the folder, for messages.

    Raises:
        UserError: another process works in it, or it was removed.
    """
    taken, gone = f"{what} is being run by another process", f"{what}: {folder} was removed"
    with locked_file(folder / ".lock", taken=taken, gone=gone):
        yield


@contextmanager
def locked_file(file: Path, *, taken: str | None, gone: str) -> Iterator[None]:
    """Hold the lock of a file, which is made if it does not exist.

    Args:
        file: to lock.
        taken: message if another process holds the lock; None waits for that process.
        gone: message if the file's folder does not exist.

    Raises:
        UserError: another process holds the lock and ``taken`` is given, or the folder does not exist.
    """
    mode, tries = fcntl.LOCK_EX if taken is None else fcntl.LOCK_EX | fcntl.LOCK_NB, 0
    while True:
        try:
            handle = os.open(file, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            raise UserError(gone) from None
        try:
            fcntl.flock(handle, mode)
        except BlockingIOError:
            os.close(handle)
            tries += 1
            if tries > 2:
                raise UserError(taken) from None
            time.sleep(MOMENT)  # somebody may only look whether it is held
            continue
        except BaseException:
            os.close(handle)
            raise
        if _is(handle, file):
            break
        os.close(handle)  # the holder has removed the file: a lock on it would keep nobody out
    try:
        yield
    finally:
        os.close(handle)


def is_locked(file: Path) -> bool | None:
    """Return whether a process holds the lock of a file; None if that cannot be found out.

    It is taken for an instant, for which `locked_file` waits.
    """
    try:
        handle = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(handle)
    return False


def _is(handle: int, file: Path) -> bool:
    """Return whether an open file is the one at a path."""
    try:
        return os.path.samestat(os.fstat(handle), file.stat())
    except FileNotFoundError:
        return False
