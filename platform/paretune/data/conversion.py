"""Writing datasets: an opened one, of any format, in another."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from paretune.core.errors import UserError, did_you_mean
from paretune.core.types import Annotations, Data, Image, Split
from paretune.data import FORMATS, WRITTEN_FORMATS
from paretune.data.image_headers import KINDS
from paretune.data.image_io import EMBEDDED, content_of, image_header
from paretune.storage.atomic_files import new_folder

Images = Literal["copy", "link", "none"]
"""What to do with the image files: copy them, link to them, or write annotations only."""
NO_CROWDS = "{form} keeps no crowds and no difficult objects: {count} were left out"
DARKNET_NAMES = {"val": "valid"}
"""Name of a split here → its name in Darknet's files, where it is another."""
_MADE_SUFFIX = ".png"
"""Ending of images that are written from pixels: a format that loses nothing."""
_USUAL_SUFFIXES = {"JPEG": ".jpg", "TIFF": ".tif", "HEIF": ".heic"}


@dataclass(frozen=True)
class WrittenImage:
    """One image to be written."""

    split: str
    id: str
    file_name: str
    size: tuple[int, int]
    truth: Annotations
    way: Literal["file", "inside", "pixels"]
    """``file``: its file is copied; ``inside``: it lies inside another file; ``pixels``: it is written as a PNG."""
    turned: bool
    """EXIF asks to turn it, and its boxes are those of the turned picture."""
    source: Path | None

    @property
    def objects(self) -> Iterator[tuple[list[float], int, bool]]:
        """Yield the box (x1 y1 x2 y2), the class's number and whether it is ignored, of each object."""
        truth = self.truth
        yield from zip(truth.boxes.tolist(), truth.labels.tolist(), truth.ignore.tolist(), strict=True)


def write_dataset(data: Data, folder: Path, form: str, images: Images = "copy") -> list[str]:
    """Write a dataset, whole or not at all.

    Args:
        data: an opened dataset.
        folder: becomes its root; it must not exist, or be empty.
        form: one of ``WRITTEN_FORMATS``.
        images: what to do with their files; pictures without a file are written as PNG, and so are those that EXIF
            asks to turn and whose boxes are those of the unturned ones.

    Returns:
        What the format cannot hold, and what a reader of it must know, a line each.

    Raises:
        UserError: the folder holds something, or there is no such format.
    """
    if form not in WRITTEN_FORMATS:
        known = ", ".join(WRITTEN_FORMATS)
        raise UserError(f"no such format to write: {form!r}{did_you_mean(form, WRITTEN_FORMATS)}; known: {known}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: holds something already; name a new folder")
    try:
        with new_folder(folder) as draft:
            entries = {name: list(_entries_of(split, name)) for name, split in data.splits.items()}
            if images != "none":
                for name, split in data.splits.items():
                    place = draft / FORMATS[form].images.format(split=name, darknet=DARKNET_NAMES.get(name, name))
                    place.mkdir(parents=True, exist_ok=True)
                    for index, entry in enumerate(entries[name]):
                        _place_image(entry, split, index, place / entry.file_name, images)
            every = [entry for name in data.splits for entry in entries[name]]
            return [*_writer(form)(draft, data, every), *_image_notes(every, images)]
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error})") from error


def write_json(file: Path, content: Any) -> None:
    """Write a JSON file of a labelling tool, making its folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")


def _writer(form: str) -> Callable[[Path, Data, list[WrittenImage]], list[str]]:
    """Return the function that writes the annotations of a format into a folder, and returns what it cannot hold."""
    module, _, function = str(FORMATS[form].writer).partition(":")
    write: Callable[[Path, Data, list[WrittenImage]], list[str]] = getattr(import_module(module), function)
    return write


def _entries_of(split: Split, name: str) -> Iterator[WrittenImage]:
    for index, identity in enumerate(split.ids):
        file, size = split.file(index), split.size(index)
        way, ending, turned = _way(file, size)
        yield WrittenImage(name, identity, identity + ending, size, split.annotations(index), way, turned, file)


def _way(file: Path | None, size: tuple[int, int]) -> tuple[Literal["file", "inside", "pixels"], str, bool]:
    if file is None:
        return "pixels", _MADE_SUFFIX, False
    header = image_header(file)
    if header.orientation != 1 and not header.turned(size):
        return "pixels", _MADE_SUFFIX, False  # whoever reads a copy would turn it
    if file.suffix.lower() == EMBEDDED:
        return "inside", _USUAL_SUFFIXES.get(header.kind, min(KINDS[header.kind])), header.turned(size)
    return "file", file.suffix, header.turned(size)


def _place_image(entry: WrittenImage, split: Split, index: int, place: Path, images: Images) -> None:
    if entry.way == "pixels" or entry.source is None:
        _write_png(split.image(index), place)
    elif entry.way == "inside":
        place.write_bytes(content_of(entry.source))
    elif images == "link":
        place.symlink_to(os.path.abspath(entry.source))  # noqa: PTH100 - resolve() would follow links of the source
    else:
        shutil.copyfile(entry.source, place)


def _write_png(image: Image, place: Path) -> None:
    import cv2

    _, content = cv2.imencode(_MADE_SUFFIX, image[..., ::-1])
    place.write_bytes(content.tobytes())


def _image_notes(entries: list[WrittenImage], images: Images) -> list[str]:
    """Return what a reader of the dataset must know of the image files."""
    turned = sum(entry.turned for entry in entries)
    unturned = sum(entry.way == "pixels" and entry.source is not None for entry in entries)
    inside = sum(entry.way == "inside" for entry in entries)
    lines = []
    if turned:
        lines.append(f"a reader that ignores EXIF shows {turned} pictures unturned: their boxes are of the turned ones")
    if unturned and images == "none":
        lines.append(
            f"{unturned} pictures were annotated unturned: a reader that turns them as EXIF says shows boxes beside"
        )
    elif unturned:
        lines.append(
            f"{unturned} pictures were annotated unturned, EXIF asks to turn them: written as PNG files without EXIF"
        )
    if inside and images == "link":
        lines.append(f"{inside} pictures that lie inside their annotations cannot be linked to: they were copied")
    return lines
