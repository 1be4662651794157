"""Where what runtimes make of a network for this machine is kept: compiled programs, engines.

What a process uses is held by a lock of the kernel's for as long as it lives, so that others do not drop it; whoever
makes something new drops what was not used longest. A dropped program only has to be made again.
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
"""Bytes that are kept of each kind: five of the largest detectors, with a second program that counts, 0.4 GiB each; or
hundreds of small ones, more than a sweep asks for again."""
SHARE = 0.1
"""Most of the file system that they take, where that is less: it may be memory."""
_DRAFT = re.compile(r"\.(\d+)\.part$")
"""How names end of what a process is making, or dropping, and has not finished."""
_elsewhere: ContextVar[Path | None] = ContextVar("elsewhere", default=None)
_held: list[int] = []
"""Open files and folders whose locks this process keeps until it ends."""


def private_folder(kind: str) -> Path:
    """Return this user's folder for one kind of program, below the system's temporary one, closed to others.

    Every process of a measurement finds there what the first has made.

    Raises:
        RuntimeError: it belongs to somebody else, whose programs must not be run.
    """
    folder = (_elsewhere.get() or Path(tempfile.gettempdir())) / f"paretune-{kind}-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise RuntimeError(f"{folder} belongs to another user; programs from it are not run")
    return folder


@contextmanager
def kept_in(folder: Path) -> Iterator[None]:
    """Let what is made within the block be kept below a folder: it will not be wanted again, and goes with that."""
    token = _elsewhere.set(folder)
    try:
        yield
    finally:
        _elsewhere.reset(token)


def hold(path: Path) -> bool:
    """Keep a file or folder from being dropped for as long as this process lives, and note that it was used.

    Returns:
        Whether it is there.
    """
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        there = os.path.samestat(os.fstat(handle), path.stat())
    except (BlockingIOError, FileNotFoundError):  # somebody drops it, or has just done so
        there = False
    if not there:
        os.close(handle)
        return False
    os.utime(handle)
    _held.append(handle)
    return True


def make_room(folder: Path) -> None:
    """Drop what was not used longest and nobody holds, until the rest is small enough, and drafts of dead processes."""
    kept: list[tuple[float, int, Path]] = []
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # somebody else has made room
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
    """Return a temporary folder that is known by this process's number; those that dead processes left are removed."""
    for left in Path(tempfile.gettempdir()).glob("paretune-[0-9]*-*"):
        pid = left.name.split("-")[1]
        with suppress(FileNotFoundError):
            found = left.lstat()
            if pid.isdecimal() and not Path(f"/proc/{pid}").exists() and found.st_uid == os.getuid():
                _drop(left)
    made = tempfile.TemporaryDirectory(prefix=f"paretune-{os.getpid()}-")
    hold(Path(made.name))
    return made


def _drop(path: Path) -> bool:
    """Remove a file or folder unless a process holds it; return whether it is gone."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True
    except OSError:  # a link, or not ours to read: nothing that we have made
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        draft = path.with_name(f"{path.name}.{os.getpid()}.part")  # gone at once, for whoever looks for it
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
    """Return the bytes of a file, or of all files in a folder; files that go meanwhile count for nothing."""
    found = 0
    for file in path.rglob("*") if path.is_dir() else [path]:
        with suppress(FileNotFoundError):
            found += file.stat().st_size
    return found
