"""Supervisely's projects."""

from __future__ import annotations

from typing import ClassVar

from paretune.data.formats import supervisely_scan as supervisely
from paretune.data.raw_annotations import Survey
from paretune.data.scanned_dataset import ScannedDataset


class Supervisely(ScannedDataset):
    """Photographs annotated with Supervisely: meta.json, train/img/a.jpg with train/ann/a.jpg.json and so on."""

    name: ClassVar[str] = "supervisely"
    to_fill_a_split: ClassVar[str] = "put some into {split}/img/, their annotations into {split}/ann/"

    def problems(self) -> list[str]:
        """Look at the folder: missing, or not a project."""
        return self.unlike(supervisely.fits, supervisely.LAYOUT)

    def survey(self) -> Survey:
        """Read every annotation."""
        return supervisely.survey_folder(self.folder)
