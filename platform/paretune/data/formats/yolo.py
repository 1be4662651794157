"""YOLO's text files: a line ``class cx cy w h`` for each object, in shares of the image (Redmon's Darknet)."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from paretune.data.formats import yolo_layouts as yolofolder
from paretune.data.formats import yolo_scan as yolo
from paretune.data.raw_annotations import Survey
from paretune.data.scanned_dataset import ScannedDataset


class YoloFolder(ScannedDataset):
    """Photographs annotated in YOLO's text format: images/<split>/a.jpg with labels/<split>/a.txt, and data.yaml.

    Also as CVAT (YOLO 1.1 and Ultralytics), Roboflow, Label Studio, labelImg and Darknet lay it out: lists of images,
    labels beside the images, names in obj.names or classes.txt.
    """

    name: ClassVar[str] = "yolo"
    to_fill_a_split: ClassVar[str] = (
        "put some into images/{split}/, their text files into labels/{split}/, or name another folder in data.yaml"
    )

    @property
    def described(self) -> Path | None:
        """The YAML file that the root names, where it is no folder."""
        named = super().folder
        return named if named.suffix.lower() in (".yaml", ".yml") and named.is_file() else None

    @property
    def folder(self) -> Path:
        """The root, or the folder of the YAML file that it names."""
        described = self.described
        return super().folder if described is None else described.parent

    @property
    def place(self) -> Path:
        """The YAML file that the root names, else its folder."""
        return self.described or self.folder

    def problems(self) -> list[str]:
        """Look at the folder: missing, or without labels."""
        if self.described is not None and not self.missing("data.yaml"):
            return []
        return self.unlike(yolofolder.fits, yolofolder.LAYOUT)

    def survey(self) -> Survey:
        """Read every label file."""
        return yolo.survey_folder(self.folder, self.classes, self.described)
