"""Downloading a public dataset by its name into a folder."""

from __future__ import annotations

import filecmp
import os
import shutil
import urllib.parse
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from paretune.core.errors import UserError, did_you_mean
from paretune.data.download.archives import ARCHIVES, Archive
from paretune.data.download.extract import unpack
from paretune.data.download.http_download import Fetcher
from paretune.storage.atomic_files import write_text
from paretune.system.file_lock import locked_file

_ARCHIVES = "archives"
"""Folder below the dataset's that holds the archives, and which are unpacked."""


def download(
    dataset: str,
    folder: Path,
    parts: Collection[str] | None = None,
    base: str | None = None,
    keep: bool = False,
    *,
    fetcher: Fetcher,
    tell: Callable[[str], None],
    table: Mapping[str, Sequence[Archive]] = ARCHIVES,
) -> None:
    """Fetch a dataset's archives and unpack them into a folder; what is there already is not fetched again.

    Each archive is unpacked beside its place and moved there when it is whole, so an interrupted call
    leaves no half of one; the same call goes on where it stopped.

    Args:
        dataset: its name in the table.
        folder: made if needed.
        parts: of the dataset; all without them.
        base: address below which the archives lie, in place of their own.
        keep: keep the archives.
        fetcher: how files are fetched.
        tell: called with each line of what happens.
        table: dataset → its archives.

    Raises:
        UserError: no such dataset or part, no space, a server without the file, another content than
            expected, a member that is refused, or files in the way.
    """
    chosen = _chosen(dataset, parts, table)
    urls = {archive.name: _url(archive, base) for archive in chosen}
    try:
        (folder / _ARCHIVES).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made ({error.strerror})") from error
    with _alone(folder):
        todo = [archive for archive in chosen if not _is_unpacked(folder, archive)]
        for archive in chosen:
            if archive not in todo:
                tell(f"{archive.part}: is there already")
        _check_space(folder, todo, keep)
        for archive in todo:
            tell(_announced(archive, urls[archive.name]))
            _install(archive, urls[archive.name], folder, keep, fetcher)
            tell(f"{archive.part}: unpacked into {folder}")


def _chosen(dataset: str, parts: Collection[str] | None, table: Mapping[str, Sequence[Archive]]) -> list[Archive]:
    if dataset not in table:
        known = ", ".join(table)
        raise UserError(f"no archives of {dataset!r} are known{did_you_mean(dataset, table)}; known: {known}")
    known_parts = [archive.part for archive in table[dataset]]
    for part in parts or ():
        if part not in known_parts:
            message = f"{part!r}{did_you_mean(part, known_parts)}; parts: {', '.join(known_parts)}"
            raise UserError(f"{dataset} has no part {message}")
    return [archive for archive in table[dataset] if not parts or archive.part in parts]


def _url(archive: Archive, base: str | None) -> str:
    if base is None:
        return archive.url
    split = urllib.parse.urlsplit(base)
    if split.scheme not in ("http", "https") or not split.netloc:
        raise UserError(f"--from {base}: expected an address such as https://mirror.example.org/coco")
    return f"{base.rstrip('/')}/{archive.name}"


def _announced(archive: Archive, url: str) -> str:
    encrypted = "encrypted" if url.startswith("https:") else "not encrypted"
    return f"{archive.part}: {archive.bytes / 1e6:.0f} MB from {url} ({encrypted}; checked by its md5)"


def _check_space(folder: Path, todo: Sequence[Archive], keep: bool) -> None:
    """Raise an error before anything is fetched where the disk lacks the space that the table gives."""
    if not todo:
        return
    there = {archive.name: _there(folder / _ARCHIVES / archive.name) for archive in todo}
    missing = [max(archive.bytes - there[archive.name], 0) for archive in todo]
    needed = sum(archive.most_bytes for archive in todo) + (sum(missing) if keep else max(missing))
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(f"{folder}: {needed / 1e9:.1f} GB are needed there, {free / 1e9:.1f} GB are free")


def _there(file: Path) -> int:
    return max(path.stat().st_size if path.is_file() else 0 for path in (file, file.with_name(f"{file.name}.part")))


def _install(archive: Archive, url: str, folder: Path, keep: bool, fetcher: Fetcher) -> None:
    file = folder / _ARCHIVES / archive.name
    fetcher.fetch(archive, url, file)
    draft = folder / _ARCHIVES / f"{archive.name}.unpacking"
    shutil.rmtree(draft, ignore_errors=True)  # of a killed process
    draft.mkdir()
    try:
        tops = unpack(file, draft, archive.most_bytes, archive.most_files)
        if _ARCHIVES in tops:
            raise UserError(f"{file}: it holds a folder {_ARCHIVES!r}, which is ours")
        _check_free(draft, folder)
        _move(draft, folder)
    except OSError as error:
        raise UserError(f"{error.filename or file}: cannot be unpacked ({error.strerror})") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    os.sync()  # what is marked as unpacked must survive a power cut
    write_text(_mark(folder, archive), "".join(f"{top}\n" for top in tops))
    if not keep:
        file.unlink()


def _check_free(draft: Path, folder: Path) -> None:
    """Refuse when anything in the way differs from what is to be moved there."""
    for path in sorted(draft.rglob("*")):
        place = folder / path.relative_to(draft)
        if not place.exists() and not place.is_symlink():
            continue
        same = place.is_dir() if path.is_dir() else place.is_file() and filecmp.cmp(path, place, shallow=False)
        if place.is_symlink() or not same:
            raise UserError(f"{place}: another file stands there; nothing was unpacked")


def _move(draft: Path, folder: Path) -> None:
    """Move what is in one folder into another: in one step what is not there yet, else below it."""
    for path in sorted(draft.iterdir()):
        place = folder / path.name
        if path.is_dir() and place.is_dir():
            _move(path, place)
        else:
            path.replace(place)


def _mark(folder: Path, archive: Archive) -> Path:
    return folder / _ARCHIVES / f"{archive.name}.unpacked"


def _is_unpacked(folder: Path, archive: Archive) -> bool:
    """Return whether the archive was unpacked, and what it made at the top is still there."""
    mark = _mark(folder, archive)
    return mark.is_file() and all((folder / top).exists() for top in mark.read_text().splitlines())


def _alone(folder: Path) -> AbstractContextManager[None]:
    """Return a block during which no other process downloads into a folder.

    Raises:
        UserError: on entering it, another process does.
    """
    taken = f"{folder}: another process is downloading into it"
    return locked_file(folder / _ARCHIVES / ".lock", taken=taken, gone=f"{folder} was removed")
