"""Writing datasets: an opened one, of any format, as COCO, Pascal VOC or YOLO text."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree as ET

import yaml

from paretune.errors import UserError, did_you_mean
from paretune.store import new_folder
from paretune.structures import Annotations, Data, Image, Split

Images = Literal["copy", "link", "none"]
"""What to do with the image files: copy them, link to them, or write annotations only."""
PLAIN_SUFFIX = ".png"
"""Of pictures that are made, not read: nothing of them is lost."""


@dataclass(frozen=True)
class _Entry:
    """One image to be written."""

    split: str
    id: str
    file_name: str
    size: tuple[int, int]
    truth: Annotations


def write_dataset(data: Data, folder: Path, form: str, images: Images = "copy") -> list[str]:
    """Write a dataset, whole or not at all.

    Args:
        data: an opened one.
        folder: that becomes its root; it must not exist, or be empty.
        form: ``coco``, ``voc`` or ``yolo``.
        images: what to do with their files; pictures without a file are written as PNG.

    Returns:
        What the format cannot hold, a line each.

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
            entries = [entry for name in data.splits for entry in _entries(data, name)]
            if images != "none":
                for name, split in data.splits.items():
                    _place_images(split, draft / layout.format(split=name), images)
            return write(draft, data, entries)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error})") from error


def _entries(data: Data, name: str) -> Iterator[_Entry]:
    split = data.splits[name]
    for index, identity in enumerate(split.ids):
        yield _Entry(name, identity, _file_name(split, index), split.size(index), split.annotations(index))


def _file_name(split: Split, index: int) -> str:
    file = split.file(index)
    return split.ids[index] + (PLAIN_SUFFIX if file is None else file.suffix)


def _place_images(split: Split, folder: Path, images: Images) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(len(split)):
        file, place = split.file(index), folder / _file_name(split, index)
        if file is None:
            _write_png(split.image(index), place)
        elif images == "link":
            place.symlink_to(os.path.abspath(file))  # noqa: PTH100 - resolve() would follow links of the source
        else:
            shutil.copyfile(file, place)


def _write_png(image: Image, place: Path) -> None:
    import cv2

    _, content = cv2.imencode(PLAIN_SUFFIX, image[..., ::-1])
    place.write_bytes(content.tobytes())


def _write_coco(draft: Path, data: Data, entries: list[_Entry]) -> list[str]:
    """annotations/instances_<split>.json; ids count from 1 over all splits."""
    categories = [{"id": number, "name": name} for number, name in enumerate(data.classes, start=1)]
    number = 0
    (draft / "annotations").mkdir(parents=True)
    for split in data.splits:
        pictures: list[dict[str, Any]] = []
        boxes: list[dict[str, Any]] = []
        for index, entry in enumerate((e for e in entries if e.split == split), start=1):
            width, height = entry.size
            pictures.append({"id": index, "file_name": entry.file_name, "width": width, "height": height})
            areas = entry.truth.areas
            for place, (box, label, ignore) in enumerate(_objects(entry.truth)):
                number += 1
                x, y, w, h = box[0], box[1], box[2] - box[0], box[3] - box[1]
                row = {"id": number, "image_id": index, "category_id": label + 1, "bbox": [x, y, w, h]}
                boxes.append({**row, "area": w * h if areas is None else float(areas[place]), "iscrowd": int(ignore)})
        content = {"images": pictures, "annotations": boxes, "categories": categories}
        (draft / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return []


def _write_voc(draft: Path, data: Data, entries: list[_Entry]) -> list[str]:
    """Annotations/<id>.xml and ImageSets/Main/<split>.txt; corners as VOC counts them: from 1, both inside."""
    for part in ("Annotations", "ImageSets/Main"):
        (draft / part).mkdir(parents=True)
    if len({entry.id for entry in entries}) < len(entries):
        raise UserError("voc: two images of different splits have the same name; VOC keeps all images in one folder")
    thin = 0
    for entry in entries:
        root = ET.Element("annotation")
        ET.SubElement(root, "filename").text = entry.file_name
        size = ET.SubElement(root, "size")
        for side, value in zip(("width", "height", "depth"), (*entry.size, 3), strict=True):
            ET.SubElement(size, side).text = str(value)
        for box, label, ignore in _objects(entry.truth):
            if min(box[2] - box[0], box[3] - box[1]) <= 1:
                thin += 1
                continue
            node = ET.SubElement(root, "object")
            ET.SubElement(node, "name").text = data.classes[label]
            ET.SubElement(node, "difficult").text = str(int(ignore))
            corners = ET.SubElement(node, "bndbox")
            for name, corner in zip(("xmin", "ymin", "xmax", "ymax"), (box[0] + 1, box[1] + 1, *box[2:]), strict=True):
                ET.SubElement(corners, name).text = _number(corner)
        ET.indent(root)
        ET.ElementTree(root).write(draft / "Annotations" / f"{entry.id}.xml", encoding="utf-8")
    for split in data.splits:
        ids = [entry.id for entry in entries if entry.split == split]
        (draft / "ImageSets/Main" / f"{split}.txt").write_text("".join(f"{name}\n" for name in ids))
    objects = {int(label) for entry in entries for label in entry.truth.labels}
    lost = [name for label, name in enumerate(data.classes) if label not in objects]
    order = ["voc keeps no order of the classes: it becomes the alphabet's; `classes` of the job sets another"]
    told = [f"voc keeps no class without an object: {', '.join(lost)}"] if lost else []
    # its corners are equal then, which readers take for a slip of the mouse
    told += [f"voc keeps no boxes of one pixel or less: {thin} were left out"] if thin else []
    return told + (order if list(data.classes) != sorted(data.classes) else [])


def _write_yolo(draft: Path, data: Data, entries: list[_Entry]) -> list[str]:
    """labels/<split>/<id>.txt beside images/<split>/, and data.yaml."""
    if len({(entry.split, entry.id) for entry in entries}) < len(entries):
        raise UserError(
            "yolo: two images of one split have the same name; YOLO tells whose a label is by the name alone"
        )
    ignored = 0
    for split in data.splits:
        (draft / "labels" / split).mkdir(parents=True)
    for entry in entries:
        lines = []
        for (x1, y1, x2, y2), label, ignore in _objects(entry.truth):
            ignored += ignore
            if not ignore:
                width, height = entry.size
                shares = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
                lines.append(f"{label} {' '.join(f'{share:.9g}' for share in shares)}\n")
        (draft / "labels" / entry.split / f"{entry.id}.txt").write_text("".join(lines))
    fields = {**{split: f"images/{split}" for split in data.splits}, "names": dict(enumerate(data.classes))}
    (draft / "data.yaml").write_text(yaml.safe_dump(fields, sort_keys=False, allow_unicode=True))
    return [f"yolo keeps no crowds and no difficult objects: {ignored} were left out"] if ignored else []


def _objects(truth: Annotations) -> Iterator[tuple[list[float], int, bool]]:
    yield from zip(truth.boxes.tolist(), truth.labels.tolist(), truth.ignore.tolist(), strict=True)


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


WRITERS: Mapping[str, tuple[str, Callable[[Path, Data, list[_Entry]], list[str]]]] = {
    "coco": ("{split}", _write_coco),
    "voc": ("JPEGImages", _write_voc),
    "yolo": ("images/{split}", _write_yolo),
}
"""Format → where the images of a split lie, and what writes the annotations."""
