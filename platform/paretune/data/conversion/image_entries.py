"""The images of a dataset that is to be written, and how the file of each comes to its place."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from paretune.core.types import Annotations, Image, Split
from paretune.data.image_headers import KINDS
from paretune.data.image_io import EMBEDDED, content_of, image_header

Images = Literal["copy", "link", "none"]
"""What to do with the image files: copy them, link to them, or write annotations only."""
PLAIN_SUFFIX = ".png"
"""Of pictures that are made, not read: nothing of them is lost."""
_USUAL = {"JPEG": ".jpg", "TIFF": ".tif", "HEIF": ".heic"}


@dataclass(frozen=True)
class WrittenImage:
    """One image to be written."""

    split: str
    id: str
    file_name: str
    size: tuple[int, int]
    truth: Annotations
    way: Literal["file", "inside", "pixels"]
    """Its file can stand as it is; the image is inside of another file; or it must be written anew as a PNG file."""
    turned: bool
    """EXIF asks to turn it, and its boxes are those of the turned picture."""
    source: Path | None

    @property
    def objects(self) -> Iterator[tuple[list[float], int, bool]]:
        """Give the box (x1 y1 x2 y2), the class's number and whether it is ignored, of each object."""
        truth = self.truth
        yield from zip(truth.boxes.tolist(), truth.labels.tolist(), truth.ignore.tolist(), strict=True)


def entries_of(split: Split, name: str) -> Iterator[WrittenImage]:
    """Give the images of a split."""
    for index, identity in enumerate(split.ids):
        file, size = split.file(index), split.size(index)
        way, ending, turned = _way(file, size)
        yield WrittenImage(name, identity, identity + ending, size, split.annotations(index), way, turned, file)


def _way(file: Path | None, size: tuple[int, int]) -> tuple[Literal["file", "inside", "pixels"], str, bool]:
    if file is None:
        return "pixels", PLAIN_SUFFIX, False
    header = image_header(file)
    if header.orientation != 1 and not header.turned(size):
        return "pixels", PLAIN_SUFFIX, False  # whoever reads a copy would turn it
    if file.suffix.lower() == EMBEDDED:
        return "inside", _USUAL.get(header.kind, min(KINDS[header.kind])), header.turned(size)
    return "file", file.suffix, header.turned(size)


def place_image(entry: WrittenImage, split: Split, index: int, place: Path, images: Images) -> None:
    """Bring an image to its place."""
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

    _, content = cv2.imencode(PLAIN_SUFFIX, image[..., ::-1])
    place.write_bytes(content.tobytes())
