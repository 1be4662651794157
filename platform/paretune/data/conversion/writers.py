"""Writing datasets: an opened one, of any format, in another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from paretune.core.errors import UserError, did_you_mean
from paretune.core.types import Data
from paretune.data.conversion.image_entries import Images, WrittenImage, entries_of, place_image
from paretune.data.conversion.text_formats import VALID, write_coco, write_darknet, write_voc, write_yolo
from paretune.data.conversion.tool_formats import write_labelme, write_labelstudio, write_via
from paretune.storage.atomic_files import new_folder

WRITERS: Mapping[str, tuple[str, Callable[[Path, Data, list[WrittenImage]], list[str]]]] = {
    "coco": ("{split}", write_coco),
    "darknet": ("obj_{valid}_data", write_darknet),
    "labelme": ("{split}", write_labelme),
    "labelstudio": ("images/{split}", write_labelstudio),
    "via": ("{split}", write_via),
    "voc": ("JPEGImages", write_voc),
    "yolo": ("images/{split}", write_yolo),
}
"""Format → where the images of a split lie, and what writes the annotations."""


def write_dataset(data: Data, folder: Path, form: str, images: Images = "copy") -> list[str]:
    """Write a dataset, whole or not at all.

    Args:
        data: an opened one.
        folder: that becomes its root; it must not exist, or be empty.
        form: a key of ``WRITERS``.
        images: what to do with their files; pictures without a file are written as PNG, and so are those that EXIF
            asks to turn and whose boxes are those of the unturned ones.

    Returns:
        What the format cannot hold, and what a reader of it must know, a line each.

    Raises:
        UserError: the folder holds something, or there is no such format.
    """
    if form not in WRITERS:
        raise UserError(f"no such format to write: {form!r}{did_you_mean(form, WRITERS)}; known: {', '.join(WRITERS)}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: holds something already; name a new folder")
    layout, write = WRITERS[form]
    try:
        with new_folder(folder) as draft:
            entries = {name: list(entries_of(split, name)) for name, split in data.splits.items()}
            if images != "none":
                for name, split in data.splits.items():
                    place = draft / layout.format(split=name, valid=VALID.get(name, name))
                    place.mkdir(parents=True, exist_ok=True)
                    for index, entry in enumerate(entries[name]):
                        place_image(entry, split, index, place / entry.file_name, images)
            every = [entry for name in data.splits for entry in entries[name]]
            return [*write(draft, data, every), *_told(every, images)]
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error})") from error


def _told(entries: list[WrittenImage], images: Images) -> list[str]:
    """Say what of the image files a reader of the dataset must know."""
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
