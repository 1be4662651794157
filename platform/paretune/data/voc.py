"""Pascal VOC: a folder with ``Annotations/*.xml`` and ``JPEGImages/``. Everingham et al., IJCV 2010.

Boxes: VOC counts pixels from 1, and both corners lie inside the object. In our continuous coordinates,
where pixel k spans k to k + 1, that is x1 - 1, y1 - 1, x2, y2: what detectron2 does too.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field, ValidationInfo, field_validator

from paretune.data.base import Dataset
from paretune.data.images import SUFFIXES, image_size, read_image
from paretune.data.summary import facts
from paretune.data.voclists import check_lists, read_list, share_out
from paretune.data.vocxml import VocImage, read_annotation
from paretune.errors import UserError, did_you_mean
from paretune.spec import fingerprint
from paretune.structures import Annotations, Data, Image, Split

_XML = frozenset({".xml"})
MOST_PROBLEMS = 20
"""Problems of one kind that are told one by one."""


class Voc(Dataset):
    """Photographs annotated in Pascal VOC's format."""

    name: ClassVar[str] = "voc"

    root: str
    """The folder that holds Annotations/ and JPEGImages/; ~ and variables such as $HOME are filled in."""
    train: str = "train"
    """List in ImageSets/Main (without .txt) to train on; also where calibration images come from."""
    val: str = "val"
    """List that versions are chosen by."""
    test: str = "test"
    """List that no search looks at; there may be none."""
    classes: list[str] | None = Field(default=None, min_length=1)
    """Class names in their order; without them, all that occur, sorted."""
    val_share: float = Field(default=0.2, gt=0, lt=1)
    """Share of the images for val where there are no lists; a hash of its name decides for each image."""
    test_share: float = Field(default=0.0, ge=0, lt=1)
    """The same for test."""

    @field_validator("classes")
    @classmethod
    def _check_classes(cls, classes: list[str] | None) -> list[str] | None:
        if classes is not None and len(set(classes)) < len(classes):
            raise ValueError("a class is named twice")
        return classes

    @field_validator("test_share")
    @classmethod
    def _check_shares(cls, share: float, info: ValidationInfo) -> float:
        val = info.data.get("val_share", 0)  # not there when it is wrong itself
        if share + val >= 1:
            raise ValueError(f"val_share + test_share is {val + share:g}: nothing is left for train")
        return share

    @property
    def folder(self) -> Path:
        """The root with ~ and variables filled in."""
        folder = Path(os.path.expandvars(self.root))
        try:
            return folder.expanduser()
        except RuntimeError:  # ~name without such a user: told as missing
            return folder

    def problems(self) -> list[str]:
        """Look at the folders: missing, empty, annotations without their images."""
        root = self.folder
        if not root.is_dir():
            unset = "; a variable in it is not set" if "$" in str(root) else ""
            return [f"no such folder: {root} (expected one that holds Annotations/ and JPEGImages/{unset})"]
        parts = {"Annotations": _XML, "JPEGImages": SUFFIXES}
        if lacking := [part for part in parts if not (root / part).is_dir()]:
            return [f"{root}: no {part}/ in it (expected Annotations/ and JPEGImages/)" for part in lacking]
        files = {part: _files(root / part, ends) for part, ends in parts.items()}
        if empty := [part for part in parts if not files[part]]:
            return [f"{root / part}: no {' or '.join(sorted(parts[part]))} files in it" for part in empty]
        lost = [path for stem, path in files["Annotations"].items() if stem not in files["JPEGImages"]]
        wanted = f"in {root / 'JPEGImages'}"
        told = [f"{path}: no image {path.stem}.jpg (or another kind) {wanted}" for path in lost[:MOST_PROBLEMS]]
        rest = len(lost) - len(told)
        return [*told, f"{root}: {rest} more annotations lack their images"] if rest else told

    def open(self, cache: Path) -> Data:  # noqa: ARG002 - nothing is generated
        """Read every annotation and every image's size; pixels are read when they are asked for.

        Raises:
            UserError: an annotation without its image, an unreadable one, a class that ``classes`` lacks,
                a list with an unknown or repeated image, a file that is no image.
        """
        if found := self.problems():
            raise UserError("\n".join(found))
        images = _files(self.folder / "JPEGImages", SUFFIXES)
        paths = _files(self.folder / "Annotations", _XML)
        read = {stem: read_annotation(path, images[stem], image_size(images[stem])) for stem, path in paths.items()}
        classes = self._classes(read)
        lists, notes = self._lists(list(read))
        splits: dict[str, Split] = {name: _Photographs.make(classes, ids, read) for name, ids in lists.items()}
        used = {stem: read[stem] for ids in lists.values() for stem in ids}
        return Data(
            classes=classes,
            splits=splits,
            fingerprint=fingerprint(classes, lists, {stem: image.digest for stem, image in used.items()}),
            notes=(*notes, *_notes(used, without=len(images.keys() - paths.keys()))),
            facts=facts(splits),
        )

    def _classes(self, images: Mapping[str, VocImage]) -> tuple[str, ...]:
        """Return the class names in their order."""
        there = sorted({name for image in images.values() for name in image.names})
        if not there:
            raise UserError(f"{self.folder / 'Annotations'}: no objects in any annotation")
        if self.classes is None:
            return tuple(there)
        for image in images.values():
            for name in image.names:
                if name not in self.classes:
                    known = f"{', '.join(self.classes)}{did_you_mean(name, self.classes)}"
                    raise UserError(f"{image.annotation}: class {name!r} is not in `classes`: {known}")
        return tuple(self.classes)

    def _lists(self, stems: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
        """Return the ids of each split, and what is to be told about how they were made."""
        folder = self.folder / "ImageSets" / "Main"
        files = {
            split: folder / f"{name}.txt"
            for split, name in (("train", self.train), ("val", self.val), ("test", self.test))
        }
        there = {split: file for split, file in files.items() if file.is_file()}
        chosen = {split for split in files if getattr(self, split) != split}
        wanted = {"train", "val", *chosen} if chosen or there.keys() & {"train", "val"} else set()
        if missing := sorted(wanted - there.keys()):
            known = ", ".join(sorted(path.stem for path in folder.glob("*.txt"))) or "none"
            raise UserError(f"{files[missing[0]]}: no such list; lists there: {known}")
        if wanted:
            lists = {split: read_list(file, set(stems)) for split, file in there.items()}
            notes = []
        else:
            lists = share_out(stems, self.val_share, self.test_share)
            counts = ", ".join(f"{split} {len(ids)}" for split, ids in lists.items())
            notes = [f"no lists in {folder}: images were shared out by a hash of their names ({counts})"]
        check_lists(lists, folder)
        return lists, notes


@dataclass(frozen=True)
class _Photographs(Split):
    """The images of one list."""

    classes: tuple[str, ...]
    ids: Sequence[str]
    images: tuple[VocImage, ...]
    truth: tuple[Annotations, ...]

    @classmethod
    def make(cls, classes: tuple[str, ...], ids: Sequence[str], images: Mapping[str, VocImage]) -> _Photographs:
        """Put class numbers for class names."""
        chosen = tuple(images[stem] for stem in ids)
        truth = tuple(
            Annotations(
                boxes=image.boxes,
                labels=np.array([classes.index(name) for name in image.names], np.int64),
                ignore=image.difficult,
            )
            for image in chosen
        )
        return cls(classes, tuple(ids), chosen, truth)

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, index: int) -> Image:
        """Read one photograph."""
        return read_image(self.images[index].file)

    def size(self, index: int) -> tuple[int, int]:
        """Return (width, height) as the file says."""
        return self.images[index].size

    def annotations(self, index: int) -> Annotations:
        """Return the ground truth of one photograph."""
        return self.truth[index]


def _files(folder: Path, ends: frozenset[str]) -> dict[str, Path]:
    """Return the files of these kinds by stem, sorted; hidden ones (macOS leaves ``._name.xml``) are no data."""
    paths = (path for path in folder.iterdir() if path.suffix.lower() in ends and not path.name.startswith("."))
    return {path.stem: path for path in sorted(paths)}


def _notes(images: Mapping[str, VocImage], without: int) -> list[str]:
    """Say what a reader of the results must know."""
    empty = sum(image.empty_boxes for image in images.values())
    other_size = sum(image.other_size for image in images.values())
    said = [
        (empty, f"{empty} boxes without area were left out"),
        (other_size, f"{other_size} images do not have the size that their annotations give"),
        (without, f"{without} images without annotation were left out"),
    ]
    return [text for count, text in said if count]
