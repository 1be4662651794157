"""Unpacking archives from a network: only files and folders, only below the given folder, and bounded."""

from __future__ import annotations

import os
import re
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from paretune.core.errors import UserError

_BLOCK = 1 << 20
_LONGEST_NAME = 200
_DEEPEST = 16


class _Member(NamedTuple):
    name: str
    size: int
    """Bytes as announced."""
    folder: bool
    open: Callable[[], IO[bytes]]


def unpack(archive: Path, folder: Path, most_bytes: int, most_files: int) -> list[str]:
    """Unpack a zip or tar archive into an empty folder.

    Everything is looked at before anything is written. Refused are links, devices, encrypted members,
    absolute names, names with ``..`` or a drive, names twice or as file and folder, and more than the caps
    allow; owners, modes and times are not taken over.

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
    with _members(archive, most_files) as members:
        _check(archive, members, most_bytes)
        free = shutil.disk_usage(folder).free
        if (wanted := sum(member.size for member in members)) > free:
            raise UserError(f"{folder}: {wanted} bytes are needed to unpack {archive.name}, {free} are free")
        for member in members:
            place = folder / member.name
            if member.folder:
                place.mkdir(parents=True, exist_ok=True)
            else:
                place.parent.mkdir(parents=True, exist_ok=True)
                _write(archive, member, place)
    return sorted({Path(member.name).parts[0] for member in members})


@contextmanager
def _members(archive: Path, most: int) -> Iterator[list[_Member]]:
    """Yield the members of an archive, which is open within the block."""
    damaged = (
        zipfile.BadZipFile,
        tarfile.TarError,
        zlib.error,
        EOFError,
        NotImplementedError,  # features of zip that zipfile lacks
        RuntimeError,  # encrypted after all
        struct.error,
        ValueError,
        OverflowError,
    )
    try:
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive) as opened:
                yield _limited(archive, most, (_of_zip(archive, opened, info) for info in opened.infolist()))
        else:
            with tarfile.open(archive, "r:") as opened_tar:
                yield _limited(archive, most, _of_tar(archive, opened_tar))
    except damaged as error:
        raise UserError(f"{archive}: not a zip or tar archive, or damaged: {error}") from error


def _limited(archive: Path, most: int, members: Iterator[_Member]) -> list[_Member]:
    found: list[_Member] = []
    for member in members:
        if len(found) >= most:
            raise UserError(f"{archive}: more than {most} files and folders")
        found.append(member)
    return found


def _of_zip(archive: Path, opened: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Member:
    mode = info.external_attr >> 16
    kind = stat.S_IFMT(mode)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR) or (kind == stat.S_IFDIR) > info.is_dir():
        raise _refused(archive, info.orig_filename, "neither a file nor a folder")
    if info.flag_bits & 1:
        raise _refused(archive, info.orig_filename, "encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _refused(archive, info.orig_filename, "an unusual compression")
    return _Member(_name(archive, info.orig_filename), info.file_size, info.is_dir(), lambda: opened.open(info))


def _of_tar(archive: Path, opened: tarfile.TarFile) -> Iterator[_Member]:
    last = -1
    for info in opened:
        if info.offset <= last or info.size < 0:
            raise _refused(archive, info.name, "its header points backwards")
        last = info.offset
        if not (info.isdir() or (info.isreg() and not info.issparse())):
            raise _refused(archive, info.name, "neither a file nor a folder")
        if info.isdir() and info.name.strip("/") in ("", "."):  # `tar -c .`
            continue
        yield _Member(_name(archive, info.name), 0 if info.isdir() else info.size, info.isdir(), _opener(opened, info))


def _opener(opened: tarfile.TarFile, info: tarfile.TarInfo) -> Callable[[], IO[bytes]]:
    def open_member() -> IO[bytes]:
        file = opened.extractfile(info)
        if file is None:
            raise tarfile.TarError(f"{info.name!r} cannot be read")
        return file

    return open_member


def _name(archive: Path, name: str) -> str:
    """Return a member's name as a relative path without detours."""
    parts = [part for part in name.rstrip("/").split("/") if part != "."]
    absolute = name.startswith("/") or re.match(r"[A-Za-z]:", name)
    if absolute or not parts or any(part in ("", "..") for part in parts):
        raise _refused(archive, name, "its name leads out of the folder")
    if re.search(r"[\\\x00-\x1f\x7f]", name):
        raise _refused(archive, name, "its name has characters that no file name needs")
    if len(parts) > _DEEPEST or max(len(os.fsencode(part)) for part in parts) > _LONGEST_NAME:
        raise _refused(archive, name[:80], "its name is too long")
    return "/".join(parts)


def _check(archive: Path, members: list[_Member], most_bytes: int) -> None:
    """Look at all members together."""
    if (total := sum(member.size for member in members)) > most_bytes:
        raise UserError(f"{archive}: {total} bytes unpacked, at most {most_bytes} are expected")
    files: set[str] = set()
    folders: set[str] = set()
    for member in members:
        name = member.name.lower()  # on some file systems `A` and `a` are one file
        if not member.folder:
            if name in files:
                raise _refused(archive, member.name, "it is there twice")
            files.add(name)
        folders |= {name[: match.start()] for match in re.finditer("/", name)} | ({name} if member.folder else set())
    if both := sorted(files & folders):
        raise _refused(archive, both[0], "it is a file and a folder")


def _write(archive: Path, member: _Member, place: Path) -> None:
    written = 0
    with place.open("xb") as file:
        for block in _blocks(archive, member):
            written += len(block)
            if written > member.size:
                break
            file.write(block)
    if written != member.size:
        raise _refused(archive, member.name, f"it holds another number of bytes than the {member.size} announced")


def _blocks(archive: Path, member: _Member) -> Iterator[bytes]:
    try:
        with member.open() as source:
            while block := source.read(_BLOCK):
                yield block
    except OSError as error:  # a header that points out of the file
        raise _refused(archive, member.name, f"it cannot be read ({error.strerror or error})") from error


def _refused(archive: Path, name: str, why: str) -> UserError:
    return UserError(f"{archive}: refused because of its member {name!r}: {why}")
