"""labelme's JSON files, one for each image."""

from __future__ import annotations

from typing import ClassVar

from paretune.data.formats import labelme_scan as labelme
from paretune.data.raw_annotations import Survey
from paretune.data.scanned_dataset import ScannedDataset


class Labelme(ScannedDataset):
    """Photographs annotated with labelme: a.json beside a.jpg, or with the image in it; train/, val/ are the splits."""

    name: ClassVar[str] = "labelme"
    to_fill_a_split: ClassVar[str] = "put some into the folder {split}/, each with its .json file"

    def problems(self) -> list[str]:
        """Look at the folder: missing, or without annotations."""
        return self.unlike(labelme.fits, labelme.LAYOUT)

    def survey(self) -> Survey:
        """Read every annotation."""
        return labelme.survey_folder(self.folder)
