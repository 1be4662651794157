"""Reservation of a folder that is about to be written, and removal of one whose writing failed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from paretune.storage.atomic_files import check_new_folder, draft_of
from paretune.system.file_lock import locked_file


@contextmanager
def removed_if_failed(folder: Path, done: Callable[[], bool]) -> Iterator[None]:
    """Remove a folder if the block fails before anything worth keeping is in it, so that its name is free again.

    The caller holds the folder's lock. Ctrl-C is no failure: the folder is kept.

    Args:
        folder: that the block works in.
        done: returns whether the folder holds something that took time to make.
    """
    try:
        yield
    except Exception:
        if not done():
            remove(folder)
        raise


def remove(folder: Path) -> None:
    """Remove a folder; its name is free at once, even if this process is killed meanwhile."""
    left = draft_of(folder)
    with suppress(FileNotFoundError):
        folder.rename(left)
    shutil.rmtree(left, ignore_errors=True)


@contextmanager
def claimed(folder: Path | None) -> Iterator[None]:
    """Reserve the name of a new folder for this process while the block makes its contents.

    Args:
        folder: that must not exist; None reserves nothing.

    Raises:
        UserError: the folder exists, cannot be made, or is reserved by another process.
    """
    if folder is None:
        yield
        return
    check_new_folder(folder)
    made = [place for place in folder.parents if not place.exists()]
    folder.parent.mkdir(parents=True, exist_ok=True)
    mark = folder.with_name(f".{folder.name}.claim")
    taken = f"{folder}: another process is about to write it; name another folder with --out"
    try:
        with locked_file(mark, taken=taken, gone=f"{folder.parent} was removed"):
            try:
                check_new_folder(folder)  # who held the claim until now has written it perhaps
                yield
            finally:
                mark.unlink(missing_ok=True)
    finally:
        for place in made:
            with suppress(OSError):  # the folder is there, or somebody else uses the place by now
                place.rmdir()
