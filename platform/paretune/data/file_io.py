"""Reading files that come from anywhere."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

from paretune.core.errors import UserError


def read_file(path: Path, most: int) -> bytes:
    """Read a whole file of at most ``most`` bytes.

    Raises:
        UserError: no such file, no regular file (reading a pipe would wait for ever), or a larger one.
    """
    try:
        check_file(path, most)
        return path.read_bytes()
    except (OSError, ValueError) as error:  # the latter: a name that no file can have
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', error)})") from error


def text_of(content: bytes) -> str:
    """Decode a text in UTF-8, or in UTF-16 where it has that byte order mark, as Windows' tools write it.

    Raises:
        UnicodeDecodeError: it is in neither.
    """
    return content.decode("utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig")


def check_file(path: Path, most: int) -> None:
    """Refuse what is no regular file of at most ``most`` bytes.

    Raises:
        OSError: no such file.
        UserError: another kind of file, or a larger one.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path}: cannot be read (not a regular file)")
    if status.st_size > most:
        raise UserError(f"{path}: larger than {most // 10**6} MB")


def is_there(path: Path, question: Callable[[Path], bool] = Path.is_file) -> bool:
    """Return whether there is such a file; a name that no file can have (too long, a NUL in it) is none."""
    try:
        return question(path)
    except (OSError, ValueError):
        return False
