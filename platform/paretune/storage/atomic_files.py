"""Files and folders that are written whole or not at all."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from paretune.core.errors import UserError

_CHUNK = 2**20


@contextmanager
def new_folder(folder: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``folder`` when the block ends, and is removed if the block fails.

    Temporary folders of killed processes are removed.

    Args:
        folder: that does not exist or is empty.
        replace: whether a folder with contents is removed; else one of two processes that make it wins.

    Raises:
        FileExistsError: the folder has contents at the end of the block, and is not replaced.
        OSError: the folder cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = draft_of(folder)
    for left in folder.parent.glob(f".{glob.escape(folder.name)}.*.part"):
        pid = left.name.removesuffix(".part").rpartition(".")[2]
        if left == draft or (pid.isdecimal() and not Path(f"/proc/{pid}").exists()):
            shutil.rmtree(left, ignore_errors=True)
    draft.mkdir()
    try:
        yield draft
        for path in draft.rglob("*"):
            if path.is_file():
                sync(path)
        if replace:
            shutil.rmtree(folder, ignore_errors=True)
        _rename_new(draft, folder)
        sync(folder.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _rename_new(draft: Path, folder: Path) -> None:
    """Rename a folder; rename(2) refuses to replace a folder with contents.

    Raises:
        FileExistsError: there is such a folder, or a file.
        OSError: the folder cannot be written.
    """
    try:
        draft.rename(folder)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR) and os.path.lexists(folder):
            raise FileExistsError(errno.EEXIST, "it exists already", str(folder)) from None
        raise


def check_new_folder(folder: Path) -> None:
    """Raise an error if ``new_folder`` could not make a folder; nothing is left behind.

    Raises:
        UserError: the folder exists or cannot be made.
    """
    missing: list[Path] = []
    try:
        if folder.exists():
            raise UserError(f"{folder} exists already; name a new folder with --out")
        missing += [draft_of(folder), *(place for place in folder.parents if not place.exists())]
        missing[0].mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror})") from error
    finally:
        for place in missing:
            with suppress(OSError):  # it was not made, or somebody else uses it by now
                place.rmdir()


def draft_of(path: Path) -> Path:
    """Return the temporary path at which this process writes a file or folder."""
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all (temporary file, fsync, rename, fsync of the folder)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = draft_of(path)
    draft.write_text(text)
    sync(draft)
    draft.replace(path)
    sync(path.parent)


def read_json(file: Path, remedy: str) -> dict[str, Any]:
    """Return the object in a file of JSON.

    Raises:
        UserError: the file is damaged; ends with the remedy.
    """
    try:
        return dict(json.loads(file.read_text()))
    except (ValueError, TypeError) as error:
        raise UserError(f"{file}: damaged ({error}); {remedy}") from error


def remove_left_drafts(folder: Path) -> None:
    """Remove the temporary files and folders in a folder whose processes are dead; those in folders below it stay."""
    for left in folder.glob(".*.part"):
        pid = left.name.removesuffix(".part").rpartition(".")[2]
        if not pid.isdecimal() or Path(f"/proc/{pid}").exists():
            continue
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: Path) -> str:
    """Return the hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
