"""Finding the images that labelling tools refer to: by paths and addresses of the machine that they ran on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from glob import escape
from os.path import normpath
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from paretune.data.formats.filenames import FileFinder, folded, slashed
from paretune.data.image_io import SUFFIXES

SPLITS = ("train", "val", "valid", "validation", "test")
"""Names of folders, files and fields that are splits, in small letters."""
_UPLOADED = re.compile(r"^[0-9a-f]{8}-(?=.)")
"""What Label Studio puts before the name of an uploaded file."""


class ImageIndex:
    """The image files below a folder, found by what is written of them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._finder = FileFinder()
        self._named: dict[str, list[Path]] | None = None

    def find(self, reference: str, near: Sequence[Path] = (), stem: str | None = None) -> Path | None:
        """Return the one image that a path or address can mean, or None.

        Tried in turn: the path itself from each folder, its end below each of them and below the root, the only image
        of the stem in the first folder, its name alone anywhere below the root where only one image has it, and that
        name without what an upload put before it.

        Args:
            reference: a path of any system, or an address (http, s3, …).
            near: folders that it is likely to be relative to.
            stem: that the image in the first of them may have, where it was renamed.
        """
        image = self._find(reference, near, stem)
        return None if image is None else Path(normpath(image))  # of a/../b.jpg b.jpg: one file has one path

    def _find(self, reference: str, near: Sequence[Path], stem: str | None) -> Path | None:
        for written in dict.fromkeys((reference, path_of(reference))):
            for folder in (*near, self.root):
                if image := self._finder.find(folder, written):
                    return image
            for folder in (*near, self.root):
                if image := self._finder.end_of(folder, written):
                    return image
        beside = [path for path in near[0].glob(f"{escape(stem)}.*") if is_image(path)] if stem and near else []
        if len(beside) == 1:
            return beside[0]
        name = name_of(reference)
        return self._only(name) or self._only(_UPLOADED.sub("", name))

    def _only(self, name: str) -> Path | None:
        if self._named is None:
            self._named = {}
            for path in images_below(self.root):
                self._named.setdefault(folded(path.name), []).append(path)
        paths = self._named.get(folded(name), [])
        return paths[0] if len(paths) == 1 else None


def images_below(folder: Path) -> list[Path]:
    """Return the image files in a folder and below, sorted."""
    return sorted(filter(is_image, folder.rglob("*")))


def is_image(path: Path) -> bool:
    """Return whether a file's name is an image's; hidden ones (macOS leaves ``._a.jpg``) are no data."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def path_of(reference: str) -> str:
    """Return the path in an address; of one with a field ``d``, as Label Studio's local files have, that field."""
    try:
        parts = urlsplit(reference)
    except ValueError:  # no address: brackets in it
        return reference
    inner = parse_qs(parts.query).get("d") if parts.query else None
    return unquote(inner[0] if inner else parts.path)


def name_of(reference: str) -> str:
    """Return the file's name in a path of any system, or in an address."""
    return slashed(path_of(reference)).rpartition("/")[2]


def split_of(path: Path, root: Path) -> str:
    """Return the split whose name a file, or a folder that it lies in, has; empty where none has."""
    parts = path.relative_to(root).with_suffix("").parts if path.is_relative_to(root) else ()
    return next((part.lower() for part in parts if part.lower() in SPLITS), "")
