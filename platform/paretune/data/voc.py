"""Pascal VOC: a folder with ``Annotations/*.xml`` and ``JPEGImages/``. Everingham et al., IJCV 2010.

Boxes: VOC counts pixels from 1, and both corners lie inside the object. In our continuous coordinates,
where pixel k spans k to k + 1, that is x1 - 1, y1 - 1, x2, y2: what detectron2 does too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from paretune.data.foldered import MOST_PROBLEMS, Foldered
from paretune.data.images import SUFFIXES, image_size
from paretune.data.photographs import Photographs
from paretune.data.summary import facts
from paretune.data.voclists import check_lists, read_list, share_out
from paretune.data.vocxml import VocImage, read_annotation
from paretune.errors import UserError, did_you_mean
from paretune.spec import fingerprint
from paretune.structures import Annotations, Data, Split

_XML = frozenset({".xml"})


class Voc(Foldered):
    """Photographs annotated in Pascal VOC's format."""

    name: ClassVar[str] = "voc"

    train: str = "train"
    """List in ImageSets/Main (without .txt) to train on; also where calibration images come from."""
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
    def list_files(self) -> dict[str, Path]:
        """The list of each split, whether it is there or not."""
        named = {"train": self.train, "val": self.val}
        # VOC 2007's protocol trains on trainval and chooses by test: no images are left that no search looks at
        if self.test is not None and not (self.test == "test" and "test" in named.values()):
            named["test"] = self.test
        return {split: self.folder / "ImageSets" / "Main" / f"{name}.txt" for split, name in named.items()}

    @property
    def needed_lists(self) -> set[str]:
        """Splits whose lists must be there; none where no list is there or named: all images are shared out then."""
        files = self.list_files
        named = {split for split in files if getattr(self, split) != split}
        return {"train", *named} if named or any(files[split].is_file() for split in ("train", "val")) else set()

    def problems(self) -> list[str]:
        """Look at the folders: missing, empty, annotations without their images."""
        root = self.folder
        if missing := self.missing("one that holds Annotations/ and JPEGImages/"):
            return [missing]
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
        splits: dict[str, Split] = {name: _photographs(classes, ids, read) for name, ids in lists.items()}
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
        files, needed = self.list_files, self.needed_lists
        folder = files["train"].parent
        there = {split: file for split, file in files.items() if file.is_file()}
        if missing := sorted(needed - there.keys()):
            known = ", ".join(sorted(path.stem for path in folder.glob("*.txt"))) or "none"
            raise UserError(f"{files[missing[0]]}: no such list; lists there: {known}")
        lists = {split: read_list(file, set(stems)) for split, file in there.items()} if needed else {}
        notes, shared = [], dict[str, list[str]]()
        if "val" not in lists:
            whole = lists.pop("train", list(stems))
            shared = share_out(whole, self.val_share, 0.0 if "test" in lists else self.test_share)
            counts = ", ".join(f"{split} {len(ids)}" for split, ids in shared.items())
            lacking, what = (files["val"].name, "images of train") if needed else ("lists", "images")
            notes = [f"no {lacking} in {folder}: {what} were shared out by a hash of their names ({counts})"]
            lists = {**shared, **lists}
        where = self.folder if shared else folder
        check_lists(lists, where, "name some in a list {split}.txt, one on each line", shared)
        return lists, notes


def _photographs(classes: tuple[str, ...], ids: Sequence[str], images: Mapping[str, VocImage]) -> Photographs:
    """Return the images of one list, with class numbers for class names."""
    chosen = [images[stem] for stem in ids]
    truth = [
        Annotations(
            boxes=image.boxes,
            labels=np.array([classes.index(name) for name in image.names], np.int64),
            ignore=image.difficult,
        )
        for image in chosen
    ]
    files, sizes = tuple(image.file for image in chosen), tuple(image.size for image in chosen)
    return Photographs(classes, tuple(ids), files, sizes, tuple(truth))


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
