"""Pascal VOC: a folder with ``Annotations/*.xml`` and ``JPEGImages/``. Everingham et al., IJCV 2010.

Boxes: VOC counts pixels from 1, and both corners lie inside the object. In our continuous coordinates,
where pixel k spans k to k + 1, that is x1 - 1, y1 - 1, x2, y2: what detectron2 does too.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from paretune.data.folder_dataset import MOST_PROBLEMS
from paretune.data.formats import voc_scan as voc
from paretune.data.formats.voc_lists import SplitLists
from paretune.data.image_io import SUFFIXES
from paretune.data.raw_annotations import Survey
from paretune.data.scanned_dataset import ScannedDataset


class Voc(ScannedDataset):
    """Photographs annotated in Pascal VOC's format."""

    name: ClassVar[str] = "voc"
    to_fill_a_split: ClassVar[str] = "name some in a list {split}.txt, one on each line"

    train: str = "train"
    """List in ImageSets/Main (without .txt) to train on; also where calibration images come from. Of a class list
    (cat_train) the images that hold the class, by its flags."""
    val: str = "val"
    """List that versions are chosen by."""
    test: str | None = "test"
    """List that no search looks at; there may be none. null: none, as where train or val name the default one."""

    @property
    def folder(self) -> Path:
        """The root; of a VOCdevkit that holds one year, that year's folder."""
        root = super().folder
        years = sorted(path.parent for path in root.glob("VOC20??/Annotations"))
        return years[0] if len(years) == 1 and not (root / "Annotations").is_dir() else root

    @property
    def lists(self) -> SplitLists:
        """Which lists are the splits; none must be there where none is there or named: all images are shared out."""
        named = {"train": self.train, "val": self.val}
        # VOC 2007's protocol trains on trainval and chooses by test: no images are left that no search looks at
        if self.test is not None and not (self.test == "test" and "test" in named.values()):
            named["test"] = self.test
        files = {split: self.folder / "ImageSets" / "Main" / f"{name}.txt" for split, name in named.items()}
        others = {split for split in files if getattr(self, split) != split}
        some = others or any(files[split].is_file() for split in ("train", "val"))
        needed = frozenset({"train", *others} if some else ())
        return SplitLists(files, needed, self.val_share, self.test_share, self.to_fill_a_split)

    def chosen(self, role: str) -> str | None:  # noqa: ARG002 - the survey's splits are called train, val and test
        """Return None: the lists that the fields name are the survey's splits train, val and test."""
        return None

    def unreadable(self) -> list[str]:
        """Look at the folders: missing, or empty."""
        root = self.folder
        if missing := self.missing("one that holds Annotations/ and JPEGImages/"):
            return [missing]
        parts = {"Annotations": voc.XML, "JPEGImages": SUFFIXES}
        if lacking := [part for part in parts if not (root / part).is_dir()]:
            return [f"{root}: no {part}/ in it (expected Annotations/ and JPEGImages/)" for part in lacking]
        return []

    def problems(self) -> list[str]:
        """Look at the folders: missing, empty, annotations without their images."""
        if found := self.unreadable():
            return found
        root = self.folder
        parts = {"Annotations": voc.XML, "JPEGImages": SUFFIXES}
        if empty := [part for part, ends in parts.items() if not voc.files_below(root / part, ends)]:
            return [f"{root / part}: no {' or '.join(sorted(parts[part]))} files in it" for part in empty]
        if self.policy == "skip":
            return []
        lost = voc.lost_annotations(root)
        wanted = f"in {root / 'JPEGImages'}"
        told = [f"{path}: no image {path.stem}.jpg (or another kind) {wanted}" for path in lost[:MOST_PROBLEMS]]
        rest = len(lost) - len(told)
        return [*told, f"{root}: {rest} more annotations lack their images"] if rest else told

    def survey(self) -> Survey:
        """Read every annotation and the lists."""
        return voc.survey_folder(self.folder, self.lists, self.classes)
