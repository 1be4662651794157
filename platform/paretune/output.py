"""What lies under an output folder by which name, and who may work in a folder."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path

from paretune.errors import UserError
from paretune.store import check_new_folder, draft_of

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
DEFAULT = "runs"
"""The output folder of who names none."""
DATASETS, TRAININGS, WEIGHTS = "datasets", "trainings", "weights"
RESERVED = {
    DATASETS: "generated datasets are kept there",
    TRAININGS: "`paretune train` writes there",
    WEIGHTS: "fetched weights are kept there",
    "mlartifacts": "MLflow keeps its files there",
    "mlflow.db*": "MLflow's database",
    "mlflow-server.log": "what MLflow's server says",
}
"""Pattern of names that other things in an output folder have → what they are: no sweep can be called so."""


def dataset_cache(runs: Path) -> Path:
    """Return the folder of generated datasets, shared by all sweeps and trainings of an output folder."""
    return runs / DATASETS


def expanded(output: str) -> Path:
    """Return the output folder that a job names, with ~ and variables such as $HOME filled in."""
    return Path(os.path.expandvars(output)).expanduser()


def runs_option(runs: Path) -> list[str]:
    """Return the words that name an output folder on the command line: none for the usual one."""
    return [] if runs == Path(DEFAULT) else ["--runs", str(runs)]


def checked_name(name: str, what: str = "sweep") -> str:
    """Return the name of a sweep, or of something else that gets a folder.

    Raises:
        UserError: it could lead out of its folder.
    """
    if not NAME.fullmatch(name):
        raise UserError(
            f"{what} name {name!r}: letters, digits, '.', '_' and '-' are allowed, beginning with a letter or digit; "
            "--name gives another name"
        )
    return name


def new_sweep_name(name: str) -> str:
    """Return the name of a new sweep.

    Raises:
        UserError: it could lead out of the output folder, or something else in there is called so.
    """
    for pattern, what in RESERVED.items():
        if fnmatchcase(name, pattern):
            raise UserError(
                f"sweep name {name!r}: taken in every output folder ({what}); --name gives the sweep another name"
            )
    return checked_name(name)


@contextmanager
def only_one(folder: Path, what: str) -> Iterator[None]:
    """Be the only process that works in a folder; the kernel lets go when the holder dies.

    Raises:
        UserError: another one does, or the folder was removed.
    """
    with _locked(folder / ".lock", f"{what} is being run by another process", f"{what}: {folder} was removed"):
        yield


@contextmanager
def _locked(file: Path, taken: str, gone: str) -> Iterator[None]:
    """Hold the lock of a file, which is made if need be.

    Raises:
        UserError: somebody else holds it, or its folder is not there.
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
        os.close(handle)  # who held it has removed the file meanwhile: a lock on it keeps nobody out
    try:
        yield
    finally:
        os.close(handle)


def _is(handle: int, file: Path) -> bool:
    """Tell whether an open file is the one that a path leads to."""
    try:
        return os.path.samestat(os.fstat(handle), file.stat())
    except FileNotFoundError:
        return False


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
        with _locked(mark, taken, f"{folder.parent} was removed"):
            try:
                check_new_folder(folder)  # who held the claim until now has written it perhaps
                yield
            finally:
                mark.unlink(missing_ok=True)
    finally:
        for place in made:
            with suppress(OSError):  # the folder is there, or somebody else uses the place by now
                place.rmdir()
