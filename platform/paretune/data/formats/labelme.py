"""JSON files of labelme, one beside each image or with the image in it.

Format: ``LabelFile`` of https://github.com/wkentaro/labelme; X-AnyLabeling writes the same with more kinds of shapes.
Corners are edges counted from 0, except those of masks, which are pixels inside the mask.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from paretune.core.types import Data
from paretune.data.conversion import WrittenImage, write_json
from paretune.data.formats.outline_boxes import NO_BOX, around, sides
from paretune.data.formats.tool_files import DrawnObject, FolderScan, any_like, files_below, is_ignored, read_json
from paretune.data.formats.yolo_layouts import names_in
from paretune.data.raw_annotations import RawBox, RawImage, Survey
from paretune.data.scanned_dataset import ScannedDataset

CLASSES = "labels.txt"
"""Names that labelme was started with, in their order."""
_NO_CLASSES = ("__ignore__", "_background_")
_NO_AREA = ("point", "points", "line", "linestrip")


class Labelme(ScannedDataset):
    """Photographs annotated with labelme: a.json beside a.jpg, or with the image in it; train/, val/ are the splits."""

    name: ClassVar[str] = "labelme"
    layout: ClassVar[str] = "labelme's .json files beside the images, or with them inside"
    to_fill_a_split: ClassVar[str] = "put some into the folder {split}/, each with its .json file"

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Return whether a folder holds files of labelme."""
        return any_like(root, ".json", '"shapes"', '"imagePath"')

    def survey(self) -> Survey:
        """Read every labelme file below the folder; folders named train, val or test are the splits."""
        scan = FolderScan(self.folder)
        for file in files_below(self.folder, ".json"):
            fields = read_json(scan, file)
            if isinstance(fields, dict) and isinstance(fields.get("shapes"), list):
                _add(scan, file, fields)
            elif fields is not None:
                scan.report("other-file", file, "", "no `shapes` in it: not labelme's, and not read")
        listed = names_in(self.folder / CLASSES) if (self.folder / CLASSES).is_file() else []
        return scan.survey([name for name in listed if name not in _NO_CLASSES])


def _add(scan: FolderScan, file: Path, fields: dict[str, Any]) -> None:
    size = sides(fields, "imageWidth", "imageHeight")
    image, embedded = _image(scan, file, fields)
    boxes = tuple(_boxes(scan, file, fields["shapes"]))
    if embedded:  # in shares of the size that it was drawn in
        if size is None and boxes:
            scan.report(
                "unreadable-annotation", file, "", "no imageWidth and imageHeight, and no image but the one inside"
            )
            return
        wide, high = size or (1, 1)
        boxes = tuple(
            box._replace(box=(box.box[0] / wide, box.box[1] / high, box.box[2] / wide, box.box[3] / high))
            for box in boxes
        )
    scan.add(RawImage(image, file, boxes, size, embedded, scan.splits_of(file)))


def _image(scan: FolderScan, file: Path, fields: dict[str, Any]) -> tuple[Path, bool]:
    """Return the image's file, and whether it is the annotation itself, which holds the image."""
    written = fields.get("imagePath")
    path = written if isinstance(written, str) and written.isprintable() and written else f"{file.stem}.jpg"
    image = scan.images.find(path, [file.parent], file.stem)
    if image is not None:
        return image, False
    if isinstance(fields.get("imageData"), str) and fields["imageData"]:
        return file, True
    return file.parent / path, False


def _boxes(scan: FolderScan, file: Path, shapes: list[Any]) -> Iterator[RawBox]:
    for index, shape in enumerate(shapes):
        where = f"shapes[{index}]"
        if not isinstance(shape, dict) or not isinstance(shape.get("label"), str) or not shape["label"].strip():
            scan.report("unreadable-annotation", file, where, "expected an object with a label and points")
            continue
        name, what = shape["label"].strip(), str(shape.get("shape_type") or "polygon")
        if name in _NO_CLASSES:
            scan.report("no-box", file, where, f"{name} is no class: left out")
            continue
        box = scan.drawn(file, where, _drawn(what, shape.get("points")), what)
        if box is not None:
            ignore = is_ignored(shape) or is_ignored(shape.get("flags"))
            yield RawBox(name, box, where, ignore)


def _drawn(what: str, points: Any) -> DrawnObject:
    if what in _NO_AREA:
        return DrawnObject(None)
    box = around(points)
    if what == "circle" and isinstance(points, list) and len(points) == 2 and not math.isnan(box[0]):
        (x, y), radius = points[0], math.dist(*points)
        return DrawnObject((x - radius, y - radius, x + radius, y + radius), exact=False)
    if what == "mask":
        return DrawnObject((box[0], box[1], box[2] + 1, box[3] + 1), exact=False)
    if isinstance(points, list) and len(points) < 2:
        return DrawnObject(NO_BOX)
    return DrawnObject(box, exact=what == "rectangle")


def write_labelme(draft: Path, data: Data, entries: list[WrittenImage]) -> list[str]:
    """Write <split>/<id>.json beside each image, and labels.txt with the classes in their order."""
    (draft / CLASSES).write_text("".join(f"{name}\n" for name in data.classes), encoding="utf-8")
    for entry in entries:
        shapes = [
            {
                "label": data.classes[label],
                "points": [box[:2], box[2:]],
                "group_id": None,
                "description": "",
                "shape_type": "rectangle",
                "flags": {"difficult": True} if ignore else {},
                "mask": None,
            }
            for box, label, ignore in entry.objects
        ]
        width, height = entry.size
        image = {"imagePath": entry.file_name, "imageData": None, "imageHeight": height, "imageWidth": width}
        write_json(
            draft / entry.split / f"{entry.id}.json", {"version": "5.5.0", "flags": {}, "shapes": shapes, **image}
        )
    return []
