"""Pascal VOC's annotations beside the images (a.jpg, a.xml), as many labelling tools write them."""

from __future__ import annotations

from typing import ClassVar

from paretune.data.formats import voc_scan as voc
from paretune.data.raw_annotations import Survey
from paretune.data.scanned_dataset import ScannedDataset


class VocFlat(ScannedDataset):
    """Photographs with a Pascal VOC annotation beside each; folders train, val and test are the splits."""

    name: ClassVar[str] = "voc_flat"
    to_fill_a_split: ClassVar[str] = "put some into the folder {split}/, each with its .xml file"

    def problems(self) -> list[str]:
        """Look at the folder: missing, or without annotations."""
        if missing := self.missing("one that holds images with .xml files beside them"):
            return [missing]
        if next(self.folder.glob("*.xml"), None) is None and next(self.folder.glob("*/*.xml"), None) is None:
            return [f"{self.folder}: no .xml files in it, nor in folders named {', '.join(voc.FLAT)}"]
        return []

    def survey(self) -> Survey:
        """Read every annotation."""
        return voc.survey_flat(self.folder)
