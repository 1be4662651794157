"""COCO: JSON files of annotations, and folders of images. Lin et al., ECCV 2014; https://cocodataset.org/#format-data."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from paretune.data.formats import coco_scan as coco
from paretune.data.raw_annotations import Survey
from paretune.data.scanned_dataset import ScannedDataset


class Coco(ScannedDataset):
    """Photographs annotated in COCO's format: annotations/instances_train2017.json, train2017/ and so on."""

    name: ClassVar[str] = "coco"
    to_fill_a_split: ClassVar[str] = "list some under `images` in its annotations/instances_{split}.json"

    images: str | None = None
    """Folder that the file names in the JSON files are relative to, itself relative to the root; without it, the
    first of <split>/, images/<split>/, images/, the JSON file's and the root in which they lie."""

    def problems(self) -> list[str]:
        """Look at the folders: missing, or without annotation files."""
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
