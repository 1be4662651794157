"""Label Studio's exports: JSON, JSON-MIN, and the single annotations of a target storage.

Format: https://labelstud.io/guide/export and https://labelstud.io/guide/task_format; places are in percent of the
image, a box is turned about its upper left corner. Its COCO, YOLO and Pascal VOC exports are read as such.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote
from xml.etree import ElementTree as ET

from paretune.core.errors import UserError
from paretune.core.types import Data
from paretune.data.conversion import NO_CROWDS, WrittenImage, write_json
from paretune.data.formats.image_references import is_image, name_of
from paretune.data.formats.outline_boxes import Box, around, around_ellipse, around_turned, number, sides
from paretune.data.formats.tool_files import ONLY_CLASS, DrawnObject, FolderScan, any_like, files_below, read_json
from paretune.data.image_io import image_size
from paretune.data.raw_annotations import RawBox, RawImage, Survey
from paretune.data.scanned_dataset import ScannedDataset

CONFIG = "label_config.xml"
"""What its labelling interface was made from; it names the classes in their order."""
_KEYS = re.compile(r"labels$", re.IGNORECASE)
"""End of the fields that hold an object's classes: rectanglelabels, polygonlabels, labels, …"""


class LabelStudio(ScannedDataset):
    """Photographs annotated with Label Studio: its .json exports with the images below; train.json is a split."""

    name: ClassVar[str] = "labelstudio"
    layout: ClassVar[str] = "Label Studio's .json exports"
    to_fill_a_split: ClassVar[str] = "list some in {split}.json, or put their images into a folder {split}/"

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Return whether a folder holds exports of Label Studio."""
        return any(
            any_like(root, ".json", *texts)
            for texts in (
                ('"data"', '"annotations"', '"result"'),
                ('"data"', '"completions"'),
                ('"original_width"',),
                ('"task"', '"result"'),
            )
        )

    def survey(self) -> Survey:
        """Read every export below the folder; folders and files named train, val or test are the splits."""
        scan = FolderScan(self.folder)
        for file in files_below(self.folder, ".json"):
            tasks = _tasks(read_json(scan, file))
            if not tasks:
                scan.report("other-file", file, "", "no tasks of Label Studio in it, and not read")
            for where, task in tasks:
                _add(scan, file, where, task)
        return scan.survey(_configured(self.folder))


def _tasks(content: Any) -> list[tuple[str, dict[str, Any]]]:
    """Return each task with its place, whichever export it comes from."""
    rows = content if isinstance(content, list) else [content]
    tasks = []
    for index, row in enumerate(rows):
        where = f"task {row.get('id', index)}" if isinstance(row, dict) else ""
        if not isinstance(row, dict):
            continue
        if isinstance(row.get("result"), list) and isinstance(row.get("task"), dict):  # of a target storage
            tasks.append((where, {**row["task"], "annotations": [row]}))
        elif isinstance(row.get("data"), dict):
            tasks.append((where, row))
        elif isinstance(content, list) and any(
            isinstance(value, str) and _names_image(value) for value in row.values()
        ):
            tasks.append((where, {"data": row, "annotations": [{"result": list(_of_min(row))}]}))
    return tasks


def _of_min(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the results of a row of JSON-MIN as the other exports write them."""
    for values in row.values():
        for value in values if isinstance(values, list) else ():
            if isinstance(value, dict) and ("x" in value or "points" in value):
                yield {"value": value, **{key: value.get(key) for key in ("original_width", "original_height")}}


def _names_image(text: str) -> bool:
    return is_image(Path(name_of(text) or "."))


def _add(scan: FolderScan, file: Path, where: str, task: dict[str, Any]) -> None:
    texts = [value for value in (*task["data"].values(), task.get("file_upload")) if isinstance(value, str) and value]
    written = [text for text in texts if _names_image(text)] or texts
    if not written:
        scan.report("unreadable-annotation", file, where, "its `data` names no image")
        return
    image = next((path for text in written if (path := scan.images.find(text, [file.parent]))), None)
    path = image or file.parent / (name_of(written[0]) or "image")
    answers = task.get("annotations", task.get("completions"))
    given = [entry for entry in answers if isinstance(entry, dict)] if isinstance(answers, list) else []
    done = [entry for entry in given if not entry.get("was_cancelled") and isinstance(entry.get("result"), list)]
    if not done:
        why = (
            "skipped by who annotated"
            if given
            else "not annotated yet" + (", predicted only" if task.get("predictions") else "")
        )
        scan.unlabelled(path, file, where, why)
        return
    chosen = next((entry for entry in done if entry.get("ground_truth")), done[-1])
    if len(done) > 1:
        what = "the ground truth" if chosen.get("ground_truth") else "the last one"
        scan.report("several", file, where, f"{len(done)} annotations of {path.name}: {what} is taken")
    sizes = (sides(row, "original_width", "original_height") for row in chosen["result"])
    size = next(filter(None, sizes), None)
    before = len(scan.findings)
    boxes = tuple(_boxes(scan, file, where, chosen["result"], size or _size_of(image)))
    splits, broken = scan.splits_of(file, path), scan.hindering(before)
    scan.add(RawImage(path, file, boxes, size, relative=True, splits=splits, broken=broken), where)


def _size_of(image: Path | None) -> tuple[int, int] | None:
    try:
        return image_size(image) if image else None
    except UserError:  # told when the images are looked at
        return None


def _boxes(
    scan: FolderScan, file: Path, where: str, results: Sequence[Any], size: tuple[int, int] | None
) -> Iterator[RawBox]:
    """Yield the objects of an annotation; an object's shape and its class may be two results of one id."""
    regions: dict[Any, dict[str, Any]] = {}
    for index, result in enumerate(results):
        value = result.get("value") if isinstance(result, dict) else None
        if not isinstance(value, dict) or not any(key in value for key in ("x", "points", "rle", "format")):
            continue  # a choice, a text or a relation: of the image, not of a place in it
        region = regions.setdefault(result.get("id") or index, {"where": f"{where}: result[{index}]"})
        region |= {key: given for key, given in value.items() if key not in region or given}
    named = any(_classes(region) for region in regions.values())
    for region in regions.values():
        here, names = region["where"], _classes(region)
        if named and not names:
            scan.report("unreadable-annotation", file, here, "a region without a label")
            continue
        if len(names) > 1:
            scan.report("several", file, here, f"labels {', '.join(names)}: the first is taken")
        drawn, what = _drawn(region, size)
        box = scan.drawn(file, here, drawn, what)
        if box is not None:
            yield RawBox(names[0] if names else ONLY_CLASS, box, here)


def _classes(region: Mapping[str, Any]) -> list[str]:
    lists = [values for key, values in region.items() if _KEYS.search(key) and isinstance(values, list)]
    return [str(name) for values in lists for name in values if isinstance(name, str) and name]


def _drawn(region: Mapping[str, Any], size: tuple[int, int] | None) -> tuple[DrawnObject, str]:
    """Return what was drawn, in shares of the image, and what it is."""
    wide, high = size or (1, 1)
    degrees = number(region.get("rotation", 0.0))
    x, y = (number(region.get(key)) / 100 * side for key, side in (("x", wide), ("y", high)))
    if "width" in region and "height" in region:
        box = (x, y, x + number(region["width"]) / 100 * wide, y + number(region["height"]) / 100 * high)
        if degrees == 0:
            return DrawnObject(_shares(box, wide, high)), "box"
        return DrawnObject(_shares(around_turned(box, degrees, (x, y)), wide, high), exact=False), "turned box"
    if "radiusX" in region:
        radii = number(region["radiusX"]) / 100 * wide, number(region.get("radiusY")) / 100 * high
        return DrawnObject(_shares(around_ellipse(x, y, radii, degrees), wide, high), exact=False), "ellipse"
    if "points" in region:
        left, top, right, bottom = around(region["points"])
        return DrawnObject((left / 100, top / 100, right / 100, bottom / 100), exact=False), "polygon"
    return DrawnObject(None), "brush stroke or point"


def _shares(box: Box, wide: int, high: int) -> Box:
    return box[0] / wide, box[1] / high, box[2] / wide, box[3] / high


def _configured(root: Path) -> list[str]:
    """Return the classes of the labelling interface, in their order; none where its file is not there."""
    try:
        text = (root / CONFIG).read_text(encoding="utf-8-sig")
        tree = ET.fromstring(text) if "<!DOCTYPE" not in text else None  # noqa: S314 - no entities without it
    except (OSError, UnicodeDecodeError, ET.ParseError):
        return []
    nodes = tree.iter("Label") if tree is not None else ()
    return [value for node in nodes if (value := (node.get("value") or "").strip())]


def write_labelstudio(draft: Path, data: Data, entries: list[WrittenImage]) -> list[str]:
    """Write <split>.json with a task for each image of images/<split>/, as local files, and label_config.xml."""
    view = ET.Element("View")
    ET.SubElement(view, "Image", name="image", value="$image")
    labels = ET.SubElement(view, "RectangleLabels", name="label", toName="image")
    for name in data.classes:
        ET.SubElement(labels, "Label", value=name)
    ET.ElementTree(view).write(draft / CONFIG, encoding="utf-8")
    ignored = sum(ignore for entry in entries for _, _, ignore in entry.objects)
    for split in data.splits:
        tasks = [
            {
                "id": number,
                "data": {"image": f"/data/local-files/?d={quote(f'images/{split}/{entry.file_name}')}"},
                "annotations": [{"result": _results(entry, data.classes)}],
            }
            for number, entry in enumerate((entry for entry in entries if entry.split == split), start=1)
        ]
        write_json(draft / f"{split}.json", tasks)
    return [NO_CROWDS.format(form="labelstudio", count=ignored)] if ignored else []


def _results(entry: WrittenImage, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    width, height = entry.size
    sizes = {"original_width": width, "original_height": height, "image_rotation": 0}
    names = {"from_name": "label", "to_name": "image", "type": "rectanglelabels"}
    results: list[dict[str, Any]] = []
    for (x1, y1, x2, y2), label, ignore in entry.objects:
        if ignore:
            continue
        place = {"x": 100 * x1 / width, "y": 100 * y1 / height}
        sides = {"width": 100 * (x2 - x1) / width, "height": 100 * (y2 - y1) / height, "rotation": 0}
        value = {**place, **sides, "rectanglelabels": [classes[label]]}
        results.append({"id": f"{entry.id}-{len(results) + 1}", **names, **sizes, "value": value})
    return results
