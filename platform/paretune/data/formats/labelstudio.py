"""Label Studio's JSON exports."""

from __future__ import annotations

from typing import ClassVar

from paretune.data.formats import labelstudio_scan as labelstudio
from paretune.data.raw_annotations import Survey
from paretune.data.scanned_dataset import ScannedDataset


class LabelStudio(ScannedDataset):
    """Photographs annotated with Label Studio: its .json exports with the images below; train.json is a split."""

    name: ClassVar[str] = "labelstudio"
    to_fill_a_split: ClassVar[str] = "list some in {split}.json, or put their images into a folder {split}/"

    def problems(self) -> list[str]:
        """Look at the folder: missing, or without exports."""
        return self.unlike(labelstudio.fits, labelstudio.LAYOUT)

    def survey(self) -> Survey:
        """Read every export."""
        return labelstudio.survey_folder(self.folder)
