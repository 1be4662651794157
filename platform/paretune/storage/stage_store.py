"""The stage store: results of stages under their keys, shared by trials, sweeps and machines, on any fsspec path.

An entry is a folder named after its key. The files of an attempt are written first, into a folder of their own, and
``stage.json`` last: it names that folder and lists every file with its size and hash, so an entry is there whole or not
at all, and a damaged one is found when it is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from paretune.core.errors import UserError, one_line
from paretune.core.secret_texts import without_secrets
from paretune.storage.artefact import facts_of
from paretune.storage.atomic_files import draft_of, sha256
from paretune.system.file_lock import locked_file

INDEX = "stage.json"
"""File that marks a complete entry."""
USED = "used"
"""Empty file whose time of change is that of the entry's last use."""
VERSION = 1
_KEPT_SECONDS = 3600.0
"""Age in seconds at which files that belong to no complete entry are removed: their maker is dead."""


@dataclass(frozen=True)
class StoredStage:
    """One entry of a stage store."""

    key: str
    facts: Mapping[str, Any]
    """Plain data that the maker wrote with the entry."""
    files: Mapping[str, Mapping[str, Any]]
    """Name → ``{"bytes", "sha256"}``."""
    folder: str
    """Name of the folder of the files in the entry."""
    created: float
    """Seconds since 1970."""
    used: float
    """Time of the last use, in seconds since 1970."""

    @property
    def bytes(self) -> int:
        """Return the size of the entry's files in bytes."""
        return sum(int(file["bytes"]) for file in self.files.values())


@dataclass
class StageStore:
    """Results of stages under their keys."""

    url: str
    """Folder of any file system that fsspec knows, such as ``runs/store`` or ``s3://bucket/store``."""
    max_bytes: int | None = None
    """Size above which the entries that were not used for longest are removed; None for no limit."""
    warn: Callable[[str], None] = field(default=lambda _: None)
    """Called with a line when a damaged entry was removed, or an entry could not be written."""
    clock: Callable[[], float] = time.time
    """Seconds since 1970."""

    @cached_property
    def _place(self) -> tuple[Any, str]:
        """File system and root path.

        Raises:
            UserError: fsspec does not know the protocol of the URL, or its package is missing.
        """
        import fsspec

        try:
            files, root = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise UserError(f"store {self.shown}: {one_line(error)}") from error
        return files, root

    @property
    def shown(self) -> str:
        """Return the URL without secrets, for lines of text."""
        return without_secrets(self.url)

    @property
    def is_local(self) -> bool:
        """Return whether the store is a folder of this machine or of one that is mounted."""
        return "file" in _protocols(self._place[0])

    def entry(self, key: str) -> StoredStage | None:
        """Return an entry without reading its files; None if there is none, or its index is damaged."""
        files, _ = self._place
        place = self._entry_path(key)
        try:
            body = json.loads(files.cat_file(f"{place}/{INDEX}"))
            if body["paretune_stage"] != VERSION or body["key"] != key:
                return None
            used = self._used(key) or float(body["created"])
            return StoredStage(key, body["facts"], body["files"], body["folder"], float(body["created"]), used)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            self.warn(f"store {self.shown}: the entry {key} is damaged; it is made again")
            self.remove(key)
            return None

    def read(self, key: str, folder: Path) -> Mapping[str, Any] | None:
        """Copy the files of an entry into a folder and return its facts.

        Args:
            key: of the stage.
            folder: made if it does not exist.

        Returns:
            The facts that the maker wrote; None if there is no entry, or it is damaged, which removes it.
        """
        if (stage := self.entry(key)) is None:
            return None
        files, _ = self._place
        folder.mkdir(parents=True, exist_ok=True)
        for name, facts in stage.files.items():
            goal = folder / name
            try:
                files.get_file(f"{self._entry_path(key)}/{stage.folder}/{name}", str(goal))
            except (FileNotFoundError, OSError):
                goal.unlink(missing_ok=True)
            if Path(name).name != name or not goal.is_file() or sha256(goal) != facts["sha256"]:
                self.warn(f"store {self.shown}: {name} of the entry {key} is damaged; the entry is made again")
                self.remove(key)
                shutil.rmtree(folder, ignore_errors=True)
                return None
        with suppress(OSError):
            self._touch(key)
        return stage.facts

    def write(self, key: str, folder: Path, facts: Mapping[str, Any]) -> bool:
        """Store the files of a folder under a key, whole or not at all.

        A file system that cannot be written loses the entry and no more: the caller has the result.

        Args:
            key: of the stage.
            folder: whose files, without those in folders below it, are stored.
            facts: plain data to store with them.

        Returns:
            Whether the entry was written.
        """
        files, _ = self._place
        attempt = uuid.uuid4().hex[:12]
        place = self._entry_path(key)
        listed = facts_of(folder)
        body = {
            "paretune_stage": VERSION,
            "key": key,
            "folder": attempt,
            "created": self.clock(),
            "files": listed,
            "facts": dict(facts),
        }
        try:
            files.makedirs(f"{place}/{attempt}", exist_ok=True)
            for name in listed:
                files.put_file(str(folder / name), f"{place}/{attempt}/{name}")
            self._write_index(f"{place}/{INDEX}", json.dumps(body, indent=1))
            self._touch(key)
        except OSError as error:
            with suppress(OSError):
                files.rm(f"{place}/{attempt}", recursive=True)
            self.warn(f"store {self.shown}: a result could not be stored ({one_line(error)}); it is used here only")
            return False
        if self.max_bytes is not None:
            self.prune(self.max_bytes, keep=key)
        return True

    @contextmanager
    def making(self, key: str) -> Iterator[None]:
        """Let one process of this machine, or of all that share the store's folder, make an entry at a time.

        The lock ends with the process that holds it. Makers on other machines of an object store are not kept out;
        each of them writes a whole entry, and the last one stays.
        """
        _, root = self._place
        if self.is_local:
            folder = Path(root) / "locks"
        else:
            name = hashlib.sha256(self.url.encode()).hexdigest()[:16]
            folder = Path(tempfile.gettempdir()) / f"paretune-{os.getuid()}" / f"store-{name}"
        folder.mkdir(parents=True, exist_ok=True)
        with locked_file(folder / key, taken=None, gone=f"store {self.shown}: the folder {folder} was removed"):
            yield

    def entries(self) -> list[StoredStage]:
        """Return all complete entries, the one that was not used for longest first."""
        files, root = self._place
        keys = [path.rsplit("/", 2)[-2] for path in files.glob(f"{root}/??/*/{INDEX}")]
        stages = (self.entry(key) for key in keys)
        return sorted((stage for stage in stages if stage is not None), key=lambda stage: stage.used)

    def prune(self, max_bytes: int, *, keep: str | None = None) -> list[StoredStage]:
        """Remove the entries that were not used for longest until the rest takes at most a size, and return them.

        Args:
            max_bytes: of all entries together.
            keep: key of an entry that stays.
        """
        stages = self.entries()
        total, removed = sum(stage.bytes for stage in stages), []
        for stage in stages:
            if total <= max_bytes:
                break
            if stage.key != keep:
                self.remove(stage.key)
                total -= stage.bytes
                removed.append(stage)
        self._remove_leftovers()
        return removed

    def remove(self, key: str) -> None:
        """Remove an entry if it is there, its index first, so that no reader takes half of it for whole."""
        files, _ = self._place
        place = self._entry_path(key)
        with suppress(FileNotFoundError):
            files.rm_file(f"{place}/{INDEX}")
        with suppress(FileNotFoundError):
            files.rm(place, recursive=True)

    def _remove_leftovers(self) -> None:
        """Remove folders of attempts that no index names, and drafts of indices, an hour after they were begun."""
        files, root = self._place
        for place in files.glob(f"{root}/??/*"):
            key = place.rsplit("/", 1)[-1]
            stage = self.entry(key)
            for attempt in files.ls(place, detail=True):
                name = attempt["name"].rstrip("/").rsplit("/", 1)[-1]
                if name in (INDEX, USED) or (stage is not None and name == stage.folder):
                    continue
                changed = [_changed(files, file) for file in files.find(attempt["name"])]
                if self.clock() - max(changed, default=0.0) > _KEPT_SECONDS:
                    with suppress(FileNotFoundError):
                        files.rm(attempt["name"], recursive=True)

    def _entry_path(self, key: str) -> str:
        """Return the path of an entry's folder.

        Raises:
            ValueError: the key is not a hash.
        """
        if not key.isalnum():
            raise ValueError(f"{key!r} is no key of a stage")
        return f"{self._place[1]}/{key[:2]}/{key}"

    def _write_index(self, path: str, text: str) -> None:
        """Write a small file whole or not at all; object stores do so by themselves."""
        files, _ = self._place
        if not self.is_local:
            files.pipe_file(path, text.encode())
            return
        draft = draft_of(Path(path))
        draft.write_text(text)
        draft.replace(path)

    def _touch(self, key: str) -> None:
        """Note that an entry is used now."""
        files, _ = self._place
        files.touch(f"{self._entry_path(key)}/{USED}", truncate=True)

    def _used(self, key: str) -> float | None:
        """Return the time of an entry's last use, in seconds since 1970; None if it is unknown."""
        files, _ = self._place
        try:
            return _changed(files, f"{self._entry_path(key)}/{USED}")
        except (OSError, NotImplementedError):
            return None


def _protocols(files: Any) -> tuple[str, ...]:
    """Return the protocols of an fsspec file system."""
    return (files.protocol,) if isinstance(files.protocol, str) else tuple(files.protocol)


def _changed(files: Any, path: str) -> float:
    """Return the time of a path's last change, in seconds since 1970."""
    return float(files.modified(path).timestamp())
