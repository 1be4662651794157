"""Pascal VOC: ``Annotations/*.xml`` and ``JPEGImages/``, or a.xml beside a.jpg. Everingham et al., IJCV 2010.

Boxes: VOC counts pixels from 1, and both corners lie inside the object. In our continuous coordinates,
where pixel k spans k to k + 1, that is x1 - 1, y1 - 1, x2, y2: what detectron2 does too.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar
from xml.etree import ElementTree as ET

from paretune.core.errors import UserError
from paretune.core.types import Data
from paretune.data.conversion import WrittenImage
from paretune.data.folder_dataset import MOST_PROBLEMS
from paretune.data.formats import voc_scan as voc
from paretune.data.formats.voc_lists import SplitLists
from paretune.data.image_io import SUFFIXES
from paretune.data.raw_annotations import Survey
from paretune.data.scanned_dataset import ScannedDataset


class Voc(ScannedDataset):
    """Photographs annotated in Pascal VOC's format."""

    name: ClassVar[str] = "voc"
    layout: ClassVar[str] = "Annotations/ and JPEGImages/"
    to_fill_a_split: ClassVar[str] = "name some in a list {split}.txt, one on each line"

    train: str = "train"
    """List in ImageSets/Main (without .txt) to train on; also where calibration images come from. Of a class list
    (cat_train) the images that hold the class, by its flags."""
    val: str = "val"
    """List that versions are chosen by."""
    test: str | None = "test"
    """List that no search looks at; there may be none. null: none, as where train or val name the default one."""

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Return whether a folder holds annotations of a VOC folder, or of a VOCdevkit with one year."""
        return (root / "Annotations").is_dir() or len(list(root.glob("VOC20??/Annotations"))) == 1

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
        if messages := self.unreadable():
            return messages
        root = self.folder
        parts = {"Annotations": voc.XML, "JPEGImages": SUFFIXES}
        if empty := [part for part, ends in parts.items() if not voc.files_below(root / part, ends)]:
            return [f"{root / part}: no {' or '.join(sorted(parts[part]))} files in it" for part in empty]
        if self.policy == "skip":
            return []
        lost = voc.lost_annotations(root)
        place = f"in {root / 'JPEGImages'}"
        lines = [f"{path}: no image {path.stem}.jpg (or another kind) {place}" for path in lost[:MOST_PROBLEMS]]
        rest = len(lost) - len(lines)
        return [*lines, f"{root}: {rest} more annotations lack their images"] if rest else lines

    def survey(self) -> Survey:
        """Read every annotation and the lists."""
        return voc.survey_folder(self.folder, self.lists, self.classes)


class VocFlat(ScannedDataset):
    """Photographs with a Pascal VOC annotation beside each; folders train, val and test are the splits."""

    name: ClassVar[str] = "voc_flat"
    layout: ClassVar[str] = ".xml files beside the images"
    to_fill_a_split: ClassVar[str] = "put some into the folder {split}/, each with its .xml file"

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Return whether a folder, or one of its splits, holds .xml files."""
        return any(next(folder.glob("*.xml"), None) for folder in (root, *(root / name for name in voc.FLAT)))

    def survey(self) -> Survey:
        """Read every annotation."""
        return voc.survey_flat(self.folder)


def write_voc(draft: Path, data: Data, entries: list[WrittenImage]) -> list[str]:
    """Write Annotations/<id>.xml and ImageSets/Main/<split>.txt; corners as VOC counts them: from 1, both inside."""
    for part in ("Annotations", "ImageSets/Main"):
        (draft / part).mkdir(parents=True)
    if len({entry.id for entry in entries}) < len(entries):
        raise UserError("voc: two images of different splits have the same name; VOC keeps all images in one folder")
    thin = 0
    for entry in entries:
        root = ET.Element("annotation")
        ET.SubElement(root, "filename").text = entry.file_name
        size = ET.SubElement(root, "size")
        for side, value in zip(("width", "height", "depth"), (*entry.size, 3), strict=True):
            ET.SubElement(size, side).text = str(value)
        for box, label, ignore in entry.objects:
            if min(box[2] - box[0], box[3] - box[1]) <= 1:
                thin += 1
                continue
            node = ET.SubElement(root, "object")
            ET.SubElement(node, "name").text = data.classes[label]
            ET.SubElement(node, "difficult").text = str(int(ignore))
            corners = ET.SubElement(node, "bndbox")
            for name, corner in zip(("xmin", "ymin", "xmax", "ymax"), (box[0] + 1, box[1] + 1, *box[2:]), strict=True):
                ET.SubElement(corners, name).text = _number(corner)
        ET.indent(root)
        ET.ElementTree(root).write(draft / "Annotations" / f"{entry.id}.xml", encoding="utf-8")
    for split in data.splits:
        ids = [entry.id for entry in entries if entry.split == split]
        (draft / "ImageSets/Main" / f"{split}.txt").write_text("".join(f"{name}\n" for name in ids), encoding="utf-8")
    objects = {int(label) for entry in entries for label in entry.truth.labels}
    lost = [name for label, name in enumerate(data.classes) if label not in objects]
    order = ["voc keeps no order of the classes: it becomes the alphabet's; `classes` of the job sets another"]
    lines = [f"voc keeps no class without an object: {', '.join(lost)}"] if lost else []
    # its corners are equal then, which readers take for a slip of the mouse
    lines += [f"voc keeps no boxes of one pixel or less: {thin} were left out"] if thin else []
    return lines + (order if list(data.classes) != sorted(data.classes) else [])


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
