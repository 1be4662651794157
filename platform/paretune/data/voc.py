"""Pascal VOC: a folder with ``Annotations/*.xml`` and ``JPEGImages/``. Everingham et al., IJCV 2010."""

from __future__ import annotations

import hashlib
import os
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from paretune.data.base import Dataset
from paretune.data.images import image_size, read_image
from paretune.errors import UserError
from paretune.spec import fingerprint
from paretune.structures import Annotations, Data, Image, Split

MOST_XML_BYTES = 10_000_000


class Voc(Dataset):
    """Photographs annotated in Pascal VOC's format; class names are read from the annotations."""

    name: ClassVar[str] = "voc"

    root: str
    """The folder that holds Annotations/ and JPEGImages/; variables such as $HOME are filled in."""
    train: str = "train"
    """List in ImageSets/Main that is trained on; also what calibration images come from."""
    val: str = "val"
    """List that versions are chosen by."""
    test: str = "test"
    """List that no search looks at; may be missing."""
    classes: Annotated[tuple[str, ...] | None, Field(strict=False)] = None
    """Class names in their order; all that occur, sorted, by default."""
    val_share: float = Field(default=0.2, gt=0, lt=1)
    """Share of the images for val where there are no lists; which ones follows from their names alone."""

    @property
    def folder(self) -> Path:
        """Return the root with variables filled in."""
        return Path(os.path.expandvars(self.root)).expanduser()

    def problems(self) -> list[str]:
        """Look at the folders: missing, empty, an annotation without its image."""
        root = self.folder
        if not root.is_dir():
            return [f"no such folder: {root} (expected one with Annotations/ and JPEGImages/)"]
        found = []
        for part in ("Annotations", "JPEGImages"):
            if not (root / part).is_dir():
                found.append(f"{root} holds no {part}/ (expected Annotations/ and JPEGImages/)")
            elif not any((root / part).iterdir()):
                found.append(f"{root / part} is empty")
        if found:
            return found
        images = _images(root)
        lost = sorted(path for path in (root / "Annotations").glob("*.xml") if path.stem not in images)
        return [f"{path}: no image {path.stem}.* in {root / 'JPEGImages'}" for path in lost[:20]]

    def open(self, cache: Path) -> Data:  # noqa: ARG002 - nothing is generated
        """Read every annotation; images are read when they are asked for.

        Raises:
            UserError: an annotation without its image, an unreadable one, a class that ``classes`` lacks.
        """
        if found := self.problems():
            raise UserError("\n".join(found))
        root, images = self.folder, _images(self.folder)
        objects = {path.stem: _read(path) for path in sorted((root / "Annotations").glob("*.xml"))}
        if not objects:
            raise UserError(f"{root / 'Annotations'} holds no .xml files")
        classes = self._classes(root, objects)
        lists, notes = self._lists(root, objects)
        splits = {name: _Split.make(classes, ids, objects, images) for name, ids in lists.items()}
        for name in ("train", "val"):
            if not len(splits[name]):
                raise UserError(f"{root}: the split {name!r} holds no images")
        bad = sum(o.bad for o in objects.values())
        if bad:
            notes.append(f"{bad} boxes without area were left out")
        facts = {f"images_{name}": len(split) for name, split in splits.items()}
        return Data(
            classes=classes,
            splits=dict(splits.items()),
            fingerprint=fingerprint(list(classes), {n: list(i) for n, i in lists.items()}, [o.digest for o in objects.values()]),
            notes=tuple(notes),
            facts=facts,
        )

    def _classes(self, root: Path, objects: Mapping[str, _Objects]) -> tuple[str, ...]:
        there = {name for o in objects.values() for name in o.names}
        if not there:
            raise UserError(f"{root / 'Annotations'}: no objects in any annotation")
        if self.classes is None:
            return tuple(sorted(there))
        if unknown := sorted(there - set(self.classes)):
            raise UserError(f"{root / 'Annotations'}: classes {', '.join(unknown)} are not in `classes` ({', '.join(self.classes)})")
        return self.classes

    def _lists(self, root: Path, objects: Mapping[str, _Objects]) -> tuple[dict[str, list[str]], list[str]]:
        """Return the ids of each split, and what is to be told about them."""
        sets = root / "ImageSets" / "Main"
        names = {"train": self.train, "val": self.val, "test": self.test}
        if (sets / f"{self.train}.txt").is_file() and (sets / f"{self.val}.txt").is_file():
            lists = {}
            for split, name in names.items():
                file = sets / f"{name}.txt"
                if file.is_file():
                    lists[split] = _list(file, objects)
            return lists, []
        val = [stem for stem in objects if _share(stem) < self.val_share]
        train = [stem for stem in objects if _share(stem) >= self.val_share]
        note = f"no lists {self.train}.txt and {self.val}.txt in ImageSets/Main: split by image names, {len(train)} + {len(val)}"
        return {"train": train, "val": val}, [note]


@dataclass(frozen=True)
class _Objects:
    """One annotation file."""

    names: tuple[str, ...]
    boxes: np.ndarray[tuple[int, ...], np.dtype[np.float32]]
    difficult: tuple[bool, ...]
    bad: int
    """Boxes left out: no area."""
    digest: str


@dataclass(frozen=True)
class _Split(Split):
    """The images of one list."""

    classes: tuple[str, ...]
    ids: Sequence[str]
    paths: tuple[Path, ...]
    truth: tuple[Annotations, ...]

    @classmethod
    def make(
        cls, classes: tuple[str, ...], ids: Sequence[str], objects: Mapping[str, _Objects], images: Mapping[str, Path]
    ) -> _Split:
        index = {name: i for i, name in enumerate(classes)}
        truth = tuple(
            Annotations(
                boxes=objects[i].boxes,
                labels=np.array([index[name] for name in objects[i].names], np.int64),
                ignore=np.array(objects[i].difficult, bool),
            )
            for i in ids
        )
        return cls(classes, tuple(ids), tuple(images[i] for i in ids), truth)

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, index: int) -> Image:
        return read_image(self.paths[index])

    def size(self, index: int) -> tuple[int, int]:
        return image_size(self.paths[index])

    def annotations(self, index: int) -> Annotations:
        return self.truth[index]


def _images(root: Path) -> dict[str, Path]:
    """Return image files by their stem."""
    return {path.stem: path for path in sorted((root / "JPEGImages").iterdir()) if path.is_file()}


def _list(file: Path, objects: Iterable[str]) -> list[str]:
    """Read a list of ImageSets/Main: an id in each line, perhaps with a flag behind it."""
    known = set(objects)
    ids = [line.split()[0] for line in file.read_text().splitlines() if line.strip()]
    for number, name in enumerate(ids, start=1):
        if name not in known:
            raise UserError(f"{file}:{number}: {name!r} has no annotation {name}.xml in Annotations/")
    return list(dict.fromkeys(ids))


def _share(stem: str) -> float:
    """Return a number in [0, 1) that depends on a name only."""
    return int.from_bytes(hashlib.sha256(stem.encode()).digest()[:8], "big") / 2**64


def _read(path: Path) -> _Objects:
    """Read one annotation file.

    VOC counts pixels from 1 and its boxes hold their last pixel: x1 and y1 lose 1 to become the left and
    upper edges in continuous coordinates.
    """
    content = path.read_bytes()
    if len(content) > MOST_XML_BYTES or b"<!ENTITY" in content:
        raise UserError(f"{path}: not a VOC annotation (too large, or it defines entities)")
    try:
        root = ET.fromstring(content)  # noqa: S314 - entities are refused above
        rows = [(_text(o, "name"), _box(o), _text(o, "difficult", "0").strip() == "1") for o in root.iter("object")]
    except (ET.ParseError, ValueError) as error:
        raise UserError(f"{path}: not a readable VOC annotation: {error}") from error
    good = [row for row in rows if row[1][2] > row[1][0] and row[1][3] > row[1][1]]
    return _Objects(
        names=tuple(row[0] for row in good),
        boxes=np.array([row[1] for row in good], np.float32).reshape(-1, 4),
        difficult=tuple(row[2] for row in good),
        bad=len(rows) - len(good),
        digest=hashlib.sha256(content).hexdigest()[:16],
    )


def _text(node: ET.Element, tag: str, default: str | None = None) -> str:
    found = node.findtext(tag, default)
    if found is None or not found.strip():
        raise ValueError(f"an object has no <{tag}>")
    return found.strip()


def _box(node: ET.Element) -> tuple[float, float, float, float]:
    box = node.find("bndbox")
    if box is None:
        raise ValueError("an object has no <bndbox>")
    x1, y1, x2, y2 = (float(_text(box, tag)) for tag in ("xmin", "ymin", "xmax", "ymax"))
    if not all(map(np.isfinite, (x1, y1, x2, y2))):
        raise ValueError("a <bndbox> holds a number that is not finite")
    return x1 - 1, y1 - 1, x2, y2
