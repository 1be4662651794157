"""Cache of programs that runtimes compile for this machine, such as engines.

A process locks the programs that it uses while it lives, so that no other process drops them. A process that adds a
program drops those that were not used for the longest time; they only have to be compiled again.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

LIMIT = 4 * 2**30
"""Most bytes of each kind: five of the largest detectors, with a second program that counts, 0.4 GiB each; or hundreds
of small ones, more than a sweep uses again."""
SHARE = 0.1
"""Largest share of the file system, if that is less: the file system may be memory."""
_DRAFT = re.compile(r"\.(\d+)\.part$")
"""Ending of the names of files and folders that a process is making or dropping."""
_elsewhere: ContextVar[Path | None] = ContextVar("elsewhere", default=None)
_held: list[int] = []
"""Handles of files and folders whose locks this process keeps until it ends."""


def private_folder(kind: str) -> Path:
    """Return this user's private folder for one kind of program, below the folder for temporary files.

    All processes of a measurement share it.

    Raises:
        RuntimeError: the folder belongs to another user, whose programs must not be run.
    """
    folder = (_elsewhere.get() or Path(tempfile.gettempdir())) / f"paretune-{kind}-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise RuntimeError(f"{folder} belongs to another user; programs from it are not run")
    return folder


@contextmanager
def kept_in(folder: Path) -> Iterator[None]:
    """Keep programs that are made within the block below another folder, as they are not needed after it."""
    token = _elsewhere.set(folder)
    try:
        yield
    finally:
        _elsewhere.reset(token)


def hold(path: Path) -> bool:
    """Lock a file or folder against being dropped while this process lives, and mark it as used.

    Returns:
        Whether the file or folder exists.
    """
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        there = os.path.samestat(os.fstat(handle), path.stat())
    except (BlockingIOError, FileNotFoundError):  # another process is dropping it, or has just dropped it
        there = False
    if not there:
        os.close(handle)
        return False
    os.utime(handle)
    _held.append(handle)
    return True


def make_room(folder: Path) -> None:
    """Drop drafts of dead processes, then programs that no process holds, the least recently used first."""
    kept: list[tuple[float, int, Path]] = []
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # another process has made room
            if draft := _DRAFT.search(path.name):
                if not Path(f"/proc/{draft[1]}").exists():
                    _drop(path)
            else:
                kept.append((path.stat().st_mtime, _size(path), path))
    room = min(LIMIT, int(SHARE * shutil.disk_usage(folder).total)) - sum(size for _, size, _ in kept)
    for _, size, path in sorted(kept):
        if room >= 0:
            break
        room += size if _drop(path) else 0


def scratch() -> tempfile.TemporaryDirectory[str]:
    """Return a temporary folder with this process's number in its name, and remove those of dead processes."""
    for left in Path(tempfile.gettempdir()).glob("paretune-[0-9]*-*"):
        pid = left.name.split("-")[1]
        with suppress(FileNotFoundError):
            status = left.lstat()
            if pid.isdecimal() and not Path(f"/proc/{pid}").exists() and status.st_uid == os.getuid():
                _drop(left)
    made = tempfile.TemporaryDirectory(prefix=f"paretune-{os.getpid()}-")
    hold(Path(made.name))
    return made


def _drop(path: Path) -> bool:
    """Remove a file or folder unless a process holds it; returns whether it is gone."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True
    except OSError:  # a link, or not readable: not made by this module
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        draft = path.with_name(f"{path.name}.{os.getpid()}.part")  # other processes no longer find it
        path.rename(draft)
        if draft.is_dir():
            shutil.rmtree(draft, ignore_errors=True)
        else:
            draft.unlink()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


def _size(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder that are not removed meanwhile."""
    size = 0
    for file in path.rglob("*") if path.is_dir() else [path]:
        with suppress(FileNotFoundError):
            size += file.stat().st_size
    return size
