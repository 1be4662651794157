"""VGG Image Annotator's files: JSON (annotations or a whole project, versions 1 to 3) and CSV.

Format: https://www.robots.ox.ac.uk/~vgg/software/via/; corners are edges counted from 0.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from paretune.core.errors import UserError
from paretune.core.types import Data
from paretune.data.conversion import WrittenImage, write_json
from paretune.data.file_io import read_file
from paretune.data.formats.outline_boxes import around, around_ellipse, number
from paretune.data.formats.tool_files import (
    IGNORED,
    ONLY_CLASS,
    DrawnObject,
    FolderScan,
    any_like,
    files_below,
    is_ignored,
    looks_like,
    read_json,
)
from paretune.data.raw_annotations import RawBox, RawImage, Survey
from paretune.data.scanned_dataset import ScannedDataset

USUAL = ("class", "label", "name", "category", "type", "object", "object_name", "class_name")
"""Attributes that are taken for the class, the first that is there, where objects have several."""
_MOST_BYTES = 1_000_000_000
_COLUMNS = ("filename", "region_shape_attributes", "region_attributes")
_SHAPES_3 = {1: "point", 2: "rect", 3: "circle", 4: "ellipse", 5: "line", 6: "polyline", 7: "polygon"}
"""Number of a shape in version 3 → its name in version 2."""


class Via(ScannedDataset):
    """Photographs annotated with VGG Image Annotator: its .json or .csv files; train/, val/ are the splits."""

    name: ClassVar[str] = "via"
    layout: ClassVar[str] = "VGG Image Annotator's .json or .csv files"
    to_fill_a_split: ClassVar[str] = "put some into the folder {split}/, with the file that annotates them"

    attribute: str | None = None
    """Attribute of the regions that is their class; without it, the only one, or the first of class, label, name,
    category, type and object that is there."""

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Return whether a folder holds files of VGG Image Annotator."""
        return (
            any_like(root, ".json", '"filename"', '"regions"')
            or any_like(root, ".csv", "region_shape_attributes", "region_attributes")
            or any_like(root, ".json", '"pname"', '"fid_list"')
        )

    def survey(self) -> Survey:
        """Read every file below the folder; folders and files named train, val or test are the splits.

        Raises:
            UserError: regions have several attributes, and which is the class is not known.
        """
        scan = FolderScan(self.folder)
        entries: list[_Entry] = []
        options: dict[str, list[str]] = {}
        for file in files_below(self.folder, ".json"):
            if not looks_like(file, '"filename"', '"regions"') and not looks_like(file, '"pname"', '"fid_list"'):
                scan.report("other-file", file, "", "not VGG Image Annotator's, and not read")
            elif isinstance(fields := read_json(scan, file), dict):
                entries += _of_json(file, fields)
                options |= _options(fields)
        for file in files_below(self.folder, ".csv"):
            entries += _of_csv(scan, file)
        key = _class_key(scan, entries, self.attribute)
        for entry in entries:
            near = [entry.file.parent, entry.file.parent / entry.folder] if entry.folder else [entry.file.parent]
            image = scan.images.find(entry.name, near)
            before = len(scan.findings)
            boxes = tuple(_boxes(scan, entry, key))
            splits = scan.splits_of(entry.file, *([image] if image else []))
            path, broken = image or entry.file.parent / entry.name, scan.hindering(before)
            scan.add(RawImage(path, entry.file, boxes, splits=splits, broken=broken), entry.where)
        return scan.survey(options.get(key or "", []))


@dataclass(frozen=True)
class _Entry:
    """One image as it is written."""

    file: Path
    where: str
    name: str
    folder: str
    """Where its project looks for images."""
    regions: Sequence[Any]


def _of_json(file: Path, fields: Mapping[str, Any]) -> Iterator[_Entry]:
    if "fid_list" in json.dumps(fields.get("view", ""))[:1_000_000]:
        yield from _of_version_3(file, fields)
        return
    core = _mapping(_mapping(fields.get("_via_settings")).get("core"))
    folder = str(core.get("default_filepath") or "")
    images = fields.get("_via_img_metadata", fields)
    for key, image in images.items() if isinstance(images, dict) else ():
        if isinstance(image, dict) and isinstance(image.get("filename"), str):
            regions = image.get("regions")  # version 1 numbers them
            listed = (
                list(regions.values()) if isinstance(regions, dict) else regions if isinstance(regions, list) else []
            )
            yield _Entry(file, repr(key), image["filename"], folder, listed)


def _of_version_3(file: Path, fields: Mapping[str, Any]) -> Iterator[_Entry]:
    """Yield the images of a project of version 3, with its regions as version 2 writes them."""
    attributes, files = _mapping(fields.get("attribute")), _mapping(fields.get("file"))
    regions: dict[str, list[Any]] = {}
    for entry in map(_mapping, _mapping(fields.get("metadata")).values()):
        values = {}
        for number_of, value in _mapping(entry.get("av")).items():
            attribute = _mapping(attributes.get(number_of))
            values[str(attribute.get("aname", number_of))] = _mapping(attribute.get("options")).get(str(value), value)
        if isinstance(shape := entry.get("xy"), list) and shape:
            written = {"shape_attributes": _shape_3(shape), "region_attributes": values}
            regions.setdefault(str(entry.get("vid")), []).append(written)
    for view, entry in _mapping(fields.get("view")).items():
        listed = _mapping(entry).get("fid_list")
        image = _mapping(files.get(str(listed[0]))) if isinstance(listed, list) and listed else {}
        if isinstance(name := image.get("src") or image.get("fname"), str):
            yield _Entry(file, f"view {view}", name, "", regions.get(view, []))


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _shape_3(numbers: Sequence[Any]) -> dict[str, Any]:
    name, rest = _SHAPES_3.get(numbers[0] if isinstance(numbers[0], int) else 0, "unknown"), list(numbers[1:])
    if name in ("polyline", "polygon", "line"):
        return {"name": name, "all_points_x": rest[::2], "all_points_y": rest[1::2]}
    keys = {"rect": ("x", "y", "width", "height"), "circle": ("cx", "cy", "r"), "ellipse": ("cx", "cy", "rx", "ry")}
    return {"name": name, **dict(zip(keys.get(name, ()), rest, strict=False))}


def _options(fields: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the values that each attribute may have, in the order of the project."""
    of_regions = _mapping(_mapping(fields.get("_via_attributes")).get("region"))
    given = {key: value.get("options") for key, value in of_regions.items() if isinstance(value, dict)}
    return {key: list(options) for key, options in given.items() if isinstance(options, dict)}


def _of_csv(scan: FolderScan, file: Path) -> Iterator[_Entry]:
    grouped: dict[str, tuple[int, list[Any]]] = {}
    try:
        text = read_file(file, _MOST_BYTES).decode("utf-8-sig").removeprefix("#")
        csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # an outline may be longer than Python expects
        rows = csv.DictReader(io.StringIO(text, newline=""))
        if any(column not in (rows.fieldnames or ()) for column in _COLUMNS):
            scan.report("other-file", file, "", "not VGG Image Annotator's, and not read")
            return
        for row in rows:
            _, regions = grouped.setdefault(row["filename"] or "", (rows.line_num, []))
            regions += _region(scan, file, f"line {rows.line_num}", row)
    except (UserError, UnicodeDecodeError, csv.Error) as error:
        scan.report("unreadable-annotation", file, "", str(error).removeprefix(f"{file}: "))
    for name, (line, regions) in grouped.items():
        yield _Entry(file, f"line {line}", name, "", regions)


def _region(scan: FolderScan, file: Path, where: str, row: Mapping[str, str | None]) -> list[Any]:
    """Return the region of a row; none where the row marks an image without regions."""
    try:
        shape, values = (json.loads(row[column] or "{}") for column in _COLUMNS[1:])
    except ValueError as error:
        scan.report("unreadable-annotation", file, where, f"not JSON in a column: {error}")
        return []
    return [{"shape_attributes": shape, "region_attributes": values}] if shape else []


def _class_key(scan: FolderScan, entries: Sequence[_Entry], attribute: str | None) -> str | None:
    """Return the attribute that is the class; None where no region has any: all are of one class."""
    counted: Counter[str] = Counter()
    for entry in entries:
        for region in entry.regions:
            values = region.get("region_attributes") if isinstance(region, dict) else None
            counted.update(key for key, value in values.items() if value) if isinstance(values, dict) else None
    known = [key for key in counted if key.lower() not in IGNORED]
    if attribute is not None and attribute not in counted:
        raise UserError(
            f"{scan.root}: no region has the attribute {attribute!r}; there are {', '.join(counted) or 'none'}"
        )
    if attribute is not None or not known:
        return attribute
    usual = (key for name in USUAL for key in known if key.lower() == name)
    chosen = known[0] if len(known) == 1 else next(usual, None)
    if chosen is None:
        attributes = ", ".join(f"{key} ({counted[key]} regions)" for key in known)
        raise UserError(
            f"{scan.root}: which attribute of the regions is their class? `attribute` names it; there are {attributes}"
        )
    return chosen


def _boxes(scan: FolderScan, entry: _Entry, key: str | None) -> Iterator[RawBox]:
    for index, region in enumerate(entry.regions):
        where = f"{entry.where}: regions[{index}]"
        parts = region if isinstance(region, dict) else {}
        shape, values = parts.get("shape_attributes"), parts.get("region_attributes")
        if not isinstance(shape, dict) or not isinstance(shape.get("name"), str):
            scan.report("unreadable-annotation", entry.file, where, "expected shape_attributes with a name")
            continue
        name = ONLY_CLASS if key is None else _class(values.get(key) if isinstance(values, dict) else None)
        if not name:
            scan.report("unreadable-annotation", entry.file, where, f"its attribute {key!r} names no class, or several")
            continue
        box = scan.drawn(entry.file, where, _drawn(shape), shape["name"])
        if box is not None:
            yield RawBox(name, box, where, is_ignored(values))


def _class(value: Any) -> str:
    """Return the class that an attribute's value names: a text, or the one that is ticked."""
    if isinstance(value, dict):
        ticked = [name for name, on in value.items() if on]
        return ticked[0].strip() if len(ticked) == 1 else ""
    return str(value).strip() if isinstance(value, str | int | float) else ""


def _drawn(shape: Mapping[str, Any]) -> DrawnObject:
    of = {key: number(value) for key, value in shape.items() if not isinstance(value, list)}
    nan = math.nan
    match shape["name"]:
        case "rect" | "rectangle":
            x, y, width, height = (of.get(key, nan) for key in ("x", "y", "width", "height"))
            return DrawnObject((x, y, x + width, y + height))
        case "circle":
            x, y, radius = (of.get(key, nan) for key in ("cx", "cy", "r"))
            return DrawnObject((x - radius, y - radius, x + radius, y + radius), exact=False)
        case "ellipse":
            x, y, across, down = (of.get(key, nan) for key in ("cx", "cy", "rx", "ry"))
            turned = math.degrees(of.get("theta", 0.0))
            return DrawnObject(around_ellipse(x, y, (across, down), turned), exact=False)
        case "polygon":
            xs, ys = shape.get("all_points_x"), shape.get("all_points_y")
            pairs = list(zip(xs, ys, strict=False)) if isinstance(xs, list) and isinstance(ys, list) else []
            return DrawnObject(around(pairs), exact=False)
        case _:
            return DrawnObject(None)


_VIA_SHOWN = {
    "annotation_editor_height": 25,
    "annotation_editor_fontsize": 0.8,
    "leftsidebar_width": 18,
    "image_grid": {
        "img_height": 80,
        "rshape_fill": "none",
        "rshape_fill_opacity": 0.3,
        "rshape_stroke": "yellow",
        "rshape_stroke_width": 2,
        "show_region_shape": True,
        "show_image_policy": "all",
    },
    "image": {
        "region_label": "__via_region_id__",
        "region_color": "__via_default_region_color__",
        "region_label_font": "10px Sans",
        "on_image_annotation_editor_placement": "NEAR_REGION",
    },
}


def write_via(draft: Path, data: Data, entries: list[WrittenImage]) -> list[str]:
    """Write <split>/via_project.json beside the images: a project of version 2."""
    classes = {"type": "dropdown", "description": "", "options": dict.fromkeys(data.classes, ""), "default_options": {}}
    for split in data.splits:
        images: dict[str, Any] = {}
        for entry in (entry for entry in entries if entry.split == split):
            regions = [
                {
                    "shape_attributes": _rect(*box),
                    "region_attributes": {"class": data.classes[label], **({"difficult": "1"} if ignore else {})},
                }
                for box, label, ignore in entry.objects
            ]
            size = _bytes(draft / split / entry.file_name, entry.source)
            image = {"filename": entry.file_name, "size": size, "regions": regions, "file_attributes": {}}
            images[f"{entry.file_name}{size}"] = image
        core = {"buffer_size": 18, "filepath": {}, "default_filepath": ""}
        project = {
            "_via_settings": {"ui": _VIA_SHOWN, "core": core, "project": {"name": split}},
            "_via_img_metadata": images,
            "_via_attributes": {"region": {"class": classes}, "file": {}},
            "_via_data_format_version": "2.0.10",
            "_via_image_id_list": list(images),
        }
        write_json(draft / split / "via_project.json", project)
    return []


def _rect(x1: float, y1: float, x2: float, y2: float) -> dict[str, Any]:
    return {"name": "rect", "x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1}


def _bytes(*files: Path | None) -> int:
    """Return the size of the first of some files that is there; -1, as the tool itself writes, where none is."""
    return next((file.stat().st_size for file in files if file is not None and file.is_file()), -1)
