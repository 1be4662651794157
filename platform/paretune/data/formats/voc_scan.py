"""Pascal VOC's annotations: in a folder of their own with lists of the splits, or beside the images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

from paretune.core.errors import UserError
from paretune.data.file_io import read_file
from paretune.data.formats.filenames import NameIndex, slashed
from paretune.data.formats.voc_lists import SplitLists, read_lists
from paretune.data.formats.voc_xml import CORNERS, MOST_BYTES, declared_encoding, number_at, parse_root, text_at
from paretune.data.image_io import SUFFIXES
from paretune.data.raw_annotations import Finding, RawBox, RawImage, Survey

FLAT = ("train", "val", "valid", "test")
"""Folders that are splits."""
XML = frozenset({".xml"})
_YES = frozenset({"1", "1.0", "true", "yes"})


def survey_folder(root: Path, lists: SplitLists, classes: Sequence[str] | None = None) -> Survey:
    """Read ``Annotations/``, ``JPEGImages/`` and the lists of ``ImageSets/Main/``.

    Args:
        root: of the dataset.
        lists: which lists are the splits.
        classes: the allowed ones; None where all are.
    """
    findings: list[Finding] = []
    pairs = _paired(root / "JPEGImages", root / "Annotations", findings)
    holds = {pair.key: {box.name for box in pair.annotation.boxes if not box.ignore} for pair in pairs.annotated}
    read = read_lists(lists, holds, findings)
    of = {pair.key: pair for pair in pairs.annotated}
    images = [of[key].image(tuple(read.places.get(key, ()))) for key in dict.fromkeys([*read.places, *of])]
    for pair in pairs.annotated:
        if pair.key not in read.places and pair.key not in read.flagged:
            message = f"its image is in none of {', '.join(read.splits)}"
            findings.append(Finding("no-split", str(pair.annotation.path), "", message))
    findings += [Finding("no-annotation", str(file), "", f"no {file.stem}.xml in Annotations/") for file in pairs.alone]
    images += [RawImage(file, file) for file in pairs.alone]
    return Survey(str(root), images, findings, read.splits, classes, shared=read.shared, notes=read.notes)


def survey_flat(root: Path) -> Survey:
    """Read images with their annotations beside them (a.jpg, a.xml), as many tools write them.

    Folders named train, val, valid or test are the splits; without them there are none.
    """
    parts = {name: root / name for name in FLAT if (root / name).is_dir()} or {"": root}
    images: list[RawImage] = []
    findings: list[Finding] = []
    for split, folder in parts.items():
        pairs = _paired(folder, folder, findings)
        images += [pair.image((split,) if split else ()) for pair in pairs.annotated]
        findings += [Finding("no-annotation", str(file), "", f"no {file.stem}.xml beside it") for file in pairs.alone]
        images += [RawImage(file, file) for file in pairs.alone]
    return Survey(str(root), images, findings, [split for split in parts if split])


def lost_annotations(root: Path) -> list[Path]:
    """Return the annotations whose images are not there; only those whose name fits no image are opened."""
    pairs = _paired(root / "JPEGImages", root / "Annotations", [], only_lost=True)
    return [pair.annotation.path for pair in pairs.annotated if not pair.found]


@dataclass(frozen=True)
class _Annotation:
    """What one annotation file holds."""

    path: Path
    file_name: str = ""
    """Size of its image, as it is written."""
    size: tuple[int, int] | None = None
    boxes: tuple[RawBox, ...] = ()
    encoding: str | None = ""
    """Encoding that it declares; None where it declares none and holds more than ASCII."""


@dataclass(frozen=True)
class _Pair:
    key: str
    """The annotation's path below its folder, without its ending."""
    file: Path
    found: bool
    annotation: _Annotation

    def image(self, splits: tuple[str, ...]) -> RawImage:
        return RawImage(self.file, self.annotation.path, self.annotation.boxes, self.annotation.size, splits=splits)


@dataclass(frozen=True)
class _Pairs:
    annotated: Sequence[_Pair]
    alone: Sequence[Path]
    """Images without annotation."""


def files_below(folder: Path, ends: Iterable[str]) -> dict[str, list[Path]]:
    """Return the files of these kinds by their path without ending; hidden ones (macOS: ``._a.xml``) are no data."""
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in ends and not path.name.startswith(".") and not path.is_dir():
            files.setdefault(path.relative_to(folder).with_suffix("").as_posix(), []).append(path)
    return files


def _paired(images_in: Path, annotations_in: Path, findings: list[Finding], *, only_lost: bool = False) -> _Pairs:
    """Find the image of each annotation: by its name, and by ``<filename>`` where that fits several images, or none."""
    images, annotations = files_below(images_in, SUFFIXES), files_below(annotations_in, XML)
    taken = {file for key in annotations.keys() & images.keys() for file in images[key]}
    free = {key: files for key, files in images.items() if key not in annotations}
    names = NameIndex(free)
    by_name: dict[str, list[Path]] = defaultdict(list)
    for each in (file for files in images.values() for file in files if file not in taken):
        by_name[each.name].append(each)
    of_name = NameIndex(by_name)
    pairs: list[_Pair] = []
    used: dict[Path, Path] = {}
    for key, path in ((key, path) for key, paths in annotations.items() for path in paths):
        near = images.get(key) or free.get(names.find(key) or "", [])
        read = _Annotation(path) if only_lost and near else _read(path, [] if only_lost else findings)
        if not near:
            named = by_name[of_name.find(slashed(read.file_name).rpartition("/")[2]) or ""]
            near = named if len(named) == 1 else []
        file = _chosen(near, read, findings)
        if file is not None and file in used:
            message = f"{file.name} belongs to {used[file].name} already"
            findings.append(Finding("duplicate-id", str(path), "", message))
            continue
        if file is not None and file.with_suffix("").relative_to(images_in).as_posix() != key:
            findings.append(Finding("other-name", str(path), "", f"its image is {file.name}"))
        if file is not None:
            used[file] = path
        pairs.append(_Pair(key, file or images_in / f"{key}.jpg", file is not None, read))
    _tell_undeclared([pair.annotation for pair in pairs], findings)
    return _Pairs(pairs, [file for files in images.values() for file in files if file not in used])


def _tell_undeclared(annotations: Sequence[_Annotation], findings: list[Finding]) -> None:
    """Report annotations without a declared encoding where others beside them declare another than UTF-8."""
    others = sorted({a.encoding for a in annotations if a.encoding and not a.encoding.lower().startswith("utf")})
    for annotation in annotations if others else ():
        if annotation.encoding is None:
            message = f"it tells no encoding and was read in UTF-8, as XML has it; others tell {', '.join(others)}"
            findings.append(Finding("undeclared", str(annotation.path), "", message))


def _chosen(near: Sequence[Path], read: _Annotation, findings: list[Finding]) -> Path | None:
    """Return which of the images with an annotation's name is meant."""
    if len(near) < 2:
        return near[0] if near else None
    written = slashed(read.file_name).rpartition("/")[2]
    name = NameIndex(file.name for file in near).find(written)
    fits = ", ".join(file.name for file in near)
    if name is None:
        message = f"it fits {fits}, and its <filename> {written!r} is none of them"
        findings.append(Finding("duplicate-id", str(read.path), "", message))
        return near[0]
    findings.append(Finding("same-stem", str(read.path), "filename", f"it fits {fits}; its <filename> is {written}"))
    return next(file for file in near if file.name == name)


def _read(path: Path, findings: list[Finding]) -> _Annotation:
    """Read one annotation; what cannot be read becomes a finding."""
    try:
        root = parse_root(content := read_file(path, MOST_BYTES))
    except (UserError, ValueError) as error:
        reason = str(error).removeprefix(f"{path}: ")
        findings.append(Finding("unreadable-annotation", str(path), "", f"not a readable VOC annotation: {reason}"))
        return _Annotation(path)
    sides = [number_at(root, f"size/{side}", default="0") for side in ("width", "height")]
    size = (int(sides[0]), int(sides[1])) if all(side > 0 for side in sides) else None
    if any(side != side for side in sides):  # noqa: PLR0124 - NaN
        findings.append(Finding("unreadable-annotation", str(path), "size", "width or height is no number"))
    nodes = root.findall("object")
    if not nodes:
        findings.append(Finding("no-boxes", str(path), "", "no object in it"))
    encoding = declared_encoding(content) or ("" if content.isascii() else None)
    return _Annotation(path, text_at(root, "filename"), size, tuple(_boxes(path, nodes, findings)), encoding)


def _boxes(path: Path, nodes: list[ET.Element], findings: list[Finding]) -> Iterator[RawBox]:
    for number, node in enumerate(nodes, start=1):
        where = f"object {number}"
        if not (name := text_at(node, "name")):
            findings.append(Finding("unreadable-annotation", str(path), where, "it has no <name>"))
            continue
        corners = [number_at(node, f"bndbox/{corner}") for corner in CORNERS]
        if wrong := [c for c, value in zip(CORNERS, corners, strict=True) if value != value]:  # noqa: PLR0124 - NaN
            texts = ", ".join(f"<bndbox/{corner}> is {node.findtext(f'bndbox/{corner}')!r}" for corner in wrong)
            findings.append(Finding("bad-box", str(path), where, f"{texts}, expected a number"))
            continue
        yield RawBox(name, _edges(*corners), where, text_at(node, "difficult").lower() in _YES)


def _edges(x1: float, y1: float, x2: float, y2: float) -> tuple[float, float, float, float]:
    """Turn corners that are pixels counted from 1, both inside, into edges; in the order in which they are written.

    Equal corners are one pixel wide by VOC's counting, and a slip of the mouse: they stay, without area.
    """
    if x1 == x2 or y1 == y2:
        return x1, y1, x2, y2
    return x1 - (x1 < x2), y1 - (y1 < y2), x2 - (x2 < x1), y2 - (y2 < y1)
