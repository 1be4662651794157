"""Annotations as COCO, Pascal VOC, YOLO text and Darknet's (CVAT's YOLO 1.1) are written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import yaml

from paretune.core.errors import UserError
from paretune.core.types import Data
from paretune.data.conversion.image_entries import WrittenImage

NO_CROWDS = "{form} keeps no crowds and no difficult objects: {count} were left out"
VALID = {"val": "valid"}
"""Our name of a split → Darknet's."""


def write_coco(draft: Path, data: Data, entries: list[WrittenImage]) -> list[str]:
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
            for place, (box, label, ignore) in enumerate(entry.objects):
                number += 1
                x, y, w, h = box[0], box[1], box[2] - box[0], box[3] - box[1]
                row = {"id": number, "image_id": index, "category_id": label + 1, "bbox": [x, y, w, h]}
                boxes.append({**row, "area": w * h if areas is None else float(areas[place]), "iscrowd": int(ignore)})
        content = {"images": pictures, "annotations": boxes, "categories": categories}
        (draft / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return []


def write_voc(draft: Path, data: Data, entries: list[WrittenImage]) -> list[str]:
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
        for box, label, ignore in entry.objects:
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
        (draft / "ImageSets/Main" / f"{split}.txt").write_text("".join(f"{name}\n" for name in ids), encoding="utf-8")
    objects = {int(label) for entry in entries for label in entry.truth.labels}
    lost = [name for label, name in enumerate(data.classes) if label not in objects]
    order = ["voc keeps no order of the classes: it becomes the alphabet's; `classes` of the job sets another"]
    told = [f"voc keeps no class without an object: {', '.join(lost)}"] if lost else []
    # its corners are equal then, which readers take for a slip of the mouse
    told += [f"voc keeps no boxes of one pixel or less: {thin} were left out"] if thin else []
    return told + (order if list(data.classes) != sorted(data.classes) else [])


def write_yolo(draft: Path, data: Data, entries: list[WrittenImage]) -> list[str]:
    """labels/<split>/<id>.txt beside images/<split>/, and data.yaml."""
    lost = _write_labels("yolo", {split: draft / "labels" / split for split in data.splits}, entries)
    fields = {**{split: f"images/{split}" for split in data.splits}, "names": dict(enumerate(data.classes))}
    (draft / "data.yaml").write_text(yaml.safe_dump(fields, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return lost


def write_darknet(draft: Path, data: Data, entries: list[WrittenImage]) -> list[str]:
    """obj.data, obj.names, <split>.txt, and obj_<split>_data/<id>.txt beside each image; val is called valid."""
    folders = {split: draft / f"obj_{VALID.get(split, split)}_data" for split in data.splits}
    lost = _write_labels("darknet", folders, entries)
    given = [f"classes = {len(data.classes)}"]
    for split, folder in folders.items():
        name = f"{VALID.get(split, split)}.txt"
        listed = [f"data/{folder.name}/{entry.file_name}\n" for entry in entries if entry.split == split]
        (draft / name).write_text("".join(listed), encoding="utf-8")
        given.append(f"{VALID.get(split, split)} = data/{name}")
    given += ["names = data/obj.names", "backup = backup/"]
    (draft / "obj.data").write_text("".join(f"{line}\n" for line in given), encoding="utf-8")
    (draft / "obj.names").write_text("".join(f"{name}\n" for name in data.classes), encoding="utf-8")
    return lost


def _write_labels(form: str, folders: dict[str, Path], entries: Sequence[WrittenImage]) -> list[str]:
    """Write a label file for each image; returns what YOLO's lines cannot hold."""
    if len({(entry.split, entry.id) for entry in entries}) < len(entries):
        raise UserError(
            f"{form}: two images of one split have the same name; YOLO tells whose a label is by the name alone"
        )
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    ignored = 0
    for entry in entries:
        lines = []
        for (x1, y1, x2, y2), label, ignore in entry.objects:
            ignored += ignore
            if not ignore:
                width, height = entry.size
                shares = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
                lines.append(f"{label} {' '.join(f'{share:.9g}' for share in shares)}\n")
        (folders[entry.split] / f"{entry.id}.txt").write_text("".join(lines), encoding="utf-8")
    return [NO_CROWDS.format(form=form, count=ignored)] if ignored else []


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
