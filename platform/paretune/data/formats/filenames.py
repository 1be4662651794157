"""Finding files by names as another system writes them: other separators, another Unicode form, other capitals."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path

from paretune.data.file_io import is_there

_SEPARATORS = str.maketrans(dict.fromkeys("\\\uff3c\u2216\u00a5\u20a9", "/"))
"""Backslashes, and what fonts and code pages of East Asia make of them."""


def plain(name: str) -> str:
    """Return a name in Unicode's composed form (NFC), in which most systems and tools write it."""
    return unicodedata.normalize("NFC", name)


def folded(name: str) -> str:
    """Return a name in composed form without its capitals: equal for names that differ in these alone."""
    return plain(plain(name).casefold())


def slashed(name: str) -> str:
    """Return a path with ``/`` between its parts, whatever system wrote it."""
    return name.translate(_SEPARATORS)


class NameIndex:
    """Known names, looked up as another system may write them."""

    def __init__(self, names: Iterable[str]) -> None:
        self._exact = set(names)
        self._forms: list[tuple[Callable[[str], str], dict[str, list[str]]]] = []
        for form in (plain, folded):
            found: dict[str, list[str]] = {}
            for name in sorted(self._exact):
                found.setdefault(form(name), []).append(name)
            self._forms.append((form, found))

    def find(self, name: str) -> str | None:
        """Return the known name that a name can mean: itself, else the only one that differs in form or capitals."""
        if name in self._exact:
            return name
        for form, names in self._forms:
            if alike := names.get(form(name)):
                return alike[0] if len(alike) == 1 else None
        return None


class FileFinder:
    """Looks files up in folders, each of which it lists once."""

    def __init__(self) -> None:
        self._listed: dict[Path, NameIndex] = {}

    def find(self, folder: Path, name: str) -> Path | None:
        """Return the one file that a name below a folder can mean; None where there is none, or several."""
        try:
            if (exact := folder / name).is_file():
                return exact
        except (OSError, ValueError):  # longer than any name, or a NUL in it
            return None
        parts = [part for part in slashed(name).split("/") if part not in ("", ".")]
        return self._below(folder, parts)

    def end_of(self, folder: Path, name: str) -> Path | None:
        """Return the file below a folder that the end of a path means: of ``C:/x/val/a.jpg`` val/a.jpg, or a.jpg."""
        parts = [part for part in slashed(name).split("/") if part not in ("", ".")]
        return next((path for start in range(len(parts)) if (path := self._below(folder, parts[start:]))), None)

    def _below(self, folder: Path, parts: list[str]) -> Path | None:
        for number, part in enumerate(parts, start=1):
            question: Callable[[Path], bool] = Path.is_file if number == len(parts) else Path.is_dir
            path = folder / part
            if part != ".." and not is_there(path, question):
                alike = self._alike(folder, part)
                if alike is None or not is_there(alike, question):
                    return None
                path = alike
            folder = path
        return folder if parts else None

    def _alike(self, folder: Path, part: str) -> Path | None:
        """Return the only entry of a folder whose name is another form of this one."""
        if folder not in self._listed:
            self._listed[folder] = NameIndex(path.name for path in _entries(folder))
        name = self._listed[folder].find(part)
        return None if name is None else folder / name


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []
