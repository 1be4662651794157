"""Claims on a folder that is about to be written, and removal of one whose writing failed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from paretune.storage.atomic_files import check_new_folder, draft_of
from paretune.system.file_lock import locked_file


@contextmanager
def removed_if_failed(folder: Path, done: Callable[[], bool]) -> Iterator[None]:
    """Remove a folder when the block fails before anything was done in it: the next start finds its name free.

    Entered by who holds the folder's lock. What stops the block, such as Ctrl-C, is no failure: the folder stays.

    Args:
        folder: that was made for what the block does.
        done: tells whether something lies in the folder that took time to make.
    """
    try:
        yield
    except Exception:
        if not done():
            remove(folder)
        raise


def remove(folder: Path) -> None:
    """Remove a folder: its name is free at once, also where this process is killed meanwhile."""
    left = draft_of(folder)
    with suppress(FileNotFoundError):
        folder.rename(left)
    shutil.rmtree(left, ignore_errors=True)


@contextmanager
def claimed(folder: Path | None) -> Iterator[None]:
    """Be the only process that will write a new folder, from before its contents are made until it is there.

    Args:
        folder: that must not be there; None: nothing is written, and nothing claimed.

    Raises:
        UserError: it is there already, cannot be made, or another process is about to write it.
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
