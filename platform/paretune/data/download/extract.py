"""Unpacking an archive that was downloaded: only files and folders, only below the given folder, and bounded."""

from __future__ import annotations

import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from paretune.core.errors import UserError

_DAMAGED = (
    OSError,
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    EOFError,
    NotImplementedError,  # features of zip that zipfile lacks
    RuntimeError,  # encrypted
    struct.error,
    ValueError,
    OverflowError,
)
"""Errors of the standard library for archives that are not whole, or not archives."""


def unpack(archive: Path, folder: Path, most_bytes: int, most_files: int) -> list[str]:
    """Unpack a zip or tar archive into an empty folder.

    Links, devices, names that lead out of the folder, and more than the caps allow are refused before anything is
    written; owners and special modes are not taken over.

    Args:
        archive: a zip archive if its name ends in .zip, otherwise an uncompressed tar archive.
        folder: exists and is empty; after an error it may hold a part, and is to be thrown away.
        most_bytes: of all files together.
        most_files: most files and folders.

    Returns:
        The names at the top, sorted.

    Raises:
        UserError: damaged, or a member that is refused.
    """
    try:
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive) as zipped:
                kinds = ((info, stat.S_IFMT(info.external_attr >> 16)) for info in zipped.infolist())
                plain = (0, stat.S_IFREG, stat.S_IFDIR)
                members = [(info.filename, info.file_size, kind in plain) for info, kind in kinds]
                _check(archive, members, most_bytes, most_files)
                zipped.extractall(folder)  # noqa: S202 - the members are checked
        else:
            with tarfile.open(archive, "r:") as tarred:
                infos = tarred.getmembers()
                _check(archive, [(i.name, i.size, i.isfile() or i.isdir()) for i in infos], most_bytes, most_files)
                for info in infos:
                    info.mode, info.uid, info.gid = 0o755 if info.isdir() else 0o644, os.getuid(), os.getgid()
                    info.uname = info.gname = ""
                filtered: Any = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # Python 3.11.4 has it
                tarred.extractall(folder, **filtered)  # noqa: S202 - the members are checked
    except _DAMAGED as error:
        raise UserError(f"{archive}: not a zip or tar archive, or damaged: {error}") from error
    return sorted(path.name for path in folder.iterdir())


def _check(archive: Path, members: Iterable[tuple[str, int, bool]], most_bytes: int, most_files: int) -> None:
    """Raise an error for members (name, bytes, whether it is a file or a folder) that are refused."""
    total = 0
    for count, (name, size, plain) in enumerate(members, start=1):
        path = PurePosixPath(name)
        total += max(size, 0)
        if path.is_absolute() or ".." in path.parts:
            raise UserError(f"{archive}: refused because of its member {name!r}: its name leads out of the folder")
        if not plain or size < 0:
            raise UserError(f"{archive}: refused because of its member {name!r}: neither a file nor a folder")
        if count > most_files or total > most_bytes:
            raise UserError(f"{archive}: more than the {most_files} files or {most_bytes} bytes that are expected")
