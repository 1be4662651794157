"""Annotations as labelling tools write them: labelme, VGG Image Annotator and Label Studio."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree as ET

from paretune.core.types import Data
from paretune.data.conversion.image_entries import WrittenImage
from paretune.data.conversion.text_formats import NO_CROWDS
from paretune.data.formats.labelme_scan import CLASSES
from paretune.data.formats.labelstudio_scan import CONFIG

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
"""How VGG Image Annotator shows a project when it is begun; it opens none without."""


def write_labelme(draft: Path, data: Data, entries: list[WrittenImage]) -> list[str]:
    """<split>/<id>.json beside each image, and labels.txt with the classes in their order."""
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
        told = {"imagePath": entry.file_name, "imageData": None, "imageHeight": height, "imageWidth": width}
        _write_json(
            draft / entry.split / f"{entry.id}.json", {"version": "5.5.0", "flags": {}, "shapes": shapes, **told}
        )
    return []


def write_via(draft: Path, data: Data, entries: list[WrittenImage]) -> list[str]:
    """<split>/via_project.json beside the images: a project of version 2."""
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
            told = {"filename": entry.file_name, "size": size, "regions": regions, "file_attributes": {}}
            images[f"{entry.file_name}{size}"] = told
        core = {"buffer_size": 18, "filepath": {}, "default_filepath": ""}
        project = {
            "_via_settings": {"ui": _VIA_SHOWN, "core": core, "project": {"name": split}},
            "_via_img_metadata": images,
            "_via_attributes": {"region": {"class": classes}, "file": {}},
            "_via_data_format_version": "2.0.10",
            "_via_image_id_list": list(images),
        }
        _write_json(draft / split / "via_project.json", project)
    return []


def write_labelstudio(draft: Path, data: Data, entries: list[WrittenImage]) -> list[str]:
    """<split>.json with a task for each image of images/<split>/, as local files, and label_config.xml."""
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
        _write_json(draft / f"{split}.json", tasks)
    return [NO_CROWDS.format(form="labelstudio", count=ignored)] if ignored else []


def _results(entry: WrittenImage, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    width, height = entry.size
    told = {"original_width": width, "original_height": height, "image_rotation": 0}
    names = {"from_name": "label", "to_name": "image", "type": "rectanglelabels"}
    results: list[dict[str, Any]] = []
    for (x1, y1, x2, y2), label, ignore in entry.objects:
        if ignore:
            continue
        place = {"x": 100 * x1 / width, "y": 100 * y1 / height}
        sides = {"width": 100 * (x2 - x1) / width, "height": 100 * (y2 - y1) / height, "rotation": 0}
        value = {**place, **sides, "rectanglelabels": [classes[label]]}
        results.append({"id": f"{entry.id}-{len(results) + 1}", **names, **told, "value": value})
    return results


def _rect(x1: float, y1: float, x2: float, y2: float) -> dict[str, Any]:
    return {"name": "rect", "x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1}


def _bytes(*files: Path | None) -> int:
    """Return the size of the first of some files that is there; -1, as the tool itself writes, where none is."""
    return next((file.stat().st_size for file in files if file is not None and file.is_file()), -1)


def _write_json(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
