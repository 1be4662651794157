"""COCO: JSON files of annotations, and folders of images. Lin et al., ECCV 2014; https://cocodataset.org/#format-data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

from paretune.core.types import Data
from paretune.data.conversion import WrittenImage
from paretune.data.formats import coco_scan as coco
from paretune.data.raw_annotations import Survey
from paretune.data.scanned_dataset import ScannedDataset


class Coco(ScannedDataset):
    """Photographs annotated in COCO's format: annotations/instances_train2017.json, train2017/ and so on."""

    name: ClassVar[str] = "coco"
    layout: ClassVar[str] = "annotations/instances_<split>.json"
    to_fill_a_split: ClassVar[str] = "list some under `images` in its annotations/instances_{split}.json"

    images: str | None = None
    """Folder that the file names in the JSON files are relative to, itself relative to the root; without it, the
    first of <split>/, images/<split>/, images/, the JSON file's and the root in which they lie."""

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Return whether a folder holds annotation files of COCO's layout."""
        return bool(coco.annotation_files(root))

    def problems(self) -> list[str]:
        """Return what is wrong with the folders: missing, or without annotation files."""
        if missing := self.missing("one that holds annotations/instances_<split>.json"):
            return [missing]
        if not coco.annotation_files(self.folder):
            return [f"{self.folder}: no annotations/instances_<split>.json in it, nor other JSON files"]
        if self.images is not None and not (self.folder / self.images).is_dir():
            return [f"{self.folder / self.images}: no such folder of images"]
        return []

    def survey(self) -> Survey:
        """Read the JSON files."""
        if self.images is None:
            return coco.survey_folder(self.folder)
        folder: Path = self.folder / self.images
        files = coco.annotation_files(self.folder)
        return coco.survey_files(self.folder, {split: (file, [folder]) for split, file in files.items()})


def write_coco(draft: Path, data: Data, entries: list[WrittenImage]) -> list[str]:
    """Write annotations/instances_<split>.json; ids count from 1 over all splits."""
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
