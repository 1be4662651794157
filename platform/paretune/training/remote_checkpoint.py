"""States of a training kept at a second place, that a machine without the first one can go on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from paretune.core.errors import UserError


class RemoteCheckpoint:
    """A folder of any file system that fsspec knows: a path, or a URL such as ``s3://bucket/folder``.

    Args:
        url: the folder of all trainings,
        key: and of this one in it.

    Raises:
        UserError: no such file system, its library is not installed, or it cannot be written.
    """

    def __init__(self, url: str, key: str) -> None:
        import fsspec

        self._url = url
        try:
            self._files, root = fsspec.core.url_to_fs(url)
            self._root = f"{root.rstrip('/')}/{key}"
            self._files.makedirs(self._root, exist_ok=True)
        except Exception as error:  # every file system has errors of its own
            raise self._refused(error) from error

    def put(self, folder: Path, names: tuple[str, ...]) -> None:
        """Copy files there, each whole or not at all, in this order.

        Raises:
            UserError: it cannot be written.
        """
        try:
            for name in names:
                draft, place = f"{self._root}/{name}.part", f"{self._root}/{name}"
                self._files.put_file(str(folder / name), draft)
                self._files.mv(draft, place)
        except Exception as error:
            raise self._refused(error) from error

    def get(self, folder: Path, names: tuple[str, ...]) -> None:
        """Copy files from there, those that are there, into a folder; what lies there already is left.

        Raises:
            UserError: it cannot be read.
        """
        try:
            for name in names:
                if not (folder / name).exists() and self._files.exists(f"{self._root}/{name}"):
                    folder.mkdir(parents=True, exist_ok=True)
                    self._files.get_file(f"{self._root}/{name}", str(folder / name))
        except Exception as error:
            raise self._refused(error) from error

    def clear(self) -> None:
        """Remove what is there: the training is finished."""
        self._files.rm(self._root, recursive=True)

    def _refused(self, error: Any) -> UserError:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return UserError(f"training.storage: {self._url} cannot be used ({reason})")
