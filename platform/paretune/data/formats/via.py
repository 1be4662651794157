"""VGG Image Annotator's JSON and CSV files."""

from __future__ import annotations

from typing import ClassVar

from paretune.data.formats import via_scan as via
from paretune.data.raw_annotations import Survey
from paretune.data.scanned_dataset import ScannedDataset


class Via(ScannedDataset):
    """Photographs annotated with VGG Image Annotator: its .json or .csv files; train/, val/ are the splits."""

    name: ClassVar[str] = "via"
    to_fill_a_split: ClassVar[str] = "put some into the folder {split}/, with the file that annotates them"

    attribute: str | None = None
    """Attribute of the regions that is their class; without it, the only one, or the first of class, label, name,
    category, type and object that is there."""

    def problems(self) -> list[str]:
        """Look at the folder: missing, or without annotations."""
        return self.unlike(via.fits, via.LAYOUT)

    def survey(self) -> Survey:
        """Read every annotation."""
        return via.survey_folder(self.folder, self.attribute)
