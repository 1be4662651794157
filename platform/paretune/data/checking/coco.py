"""COCO's JSON files read leniently. Lin et al., ECCV 2014; https://cocodataset.org/#format-data."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paretune.data.checking.findings import Finding, RawBox, RawImage, Survey
from paretune.data.files import read_file
from paretune.data.images import SUFFIXES
from paretune.data.vocxml import FARTHEST
from paretune.errors import UserError

_MOST_BYTES = 4_000_000_000


def survey_folder(root: Path) -> Survey:
    """Read a folder: ``annotations/instances_<split>.json`` with ``<split>/``, or JSON files and images nearby."""
    files = annotation_files(root)
    near = {split: [root / split, root / "images" / split, root / "images"] for split in files}
    return survey_files(
        root, {split: (file, [*near[split], file.parent, root, root.parent]) for split, file in files.items()}
    )


def annotation_files(root: Path) -> dict[str, Path]:
    """Return the annotation file of each split, by the split's name; none where the layout is another."""
    for pattern in ("annotations/instances_*.json", "annotations/*.json", "*/_annotations.coco.json", "*.json"):
        found = {}
        for file in sorted(root.glob(pattern)):
            own_name = file.parent.name if file.name.startswith("_") else file.stem.removeprefix("instances_")
            found[own_name] = file
        if len(found) > 1:  # train and val once more
            found = {name: file for name, file in found.items() if not name.startswith("trainval")}
        if found:
            return found
    return {}


def survey_files(root: Path, parts: Mapping[str, tuple[Path, Sequence[Path]]]) -> Survey:
    """Read annotation files.

    Args:
        root: of the dataset, for messages.
        parts: split → its JSON file, and the folders that its file names may be relative to: the first one in
            which an image lies is it.
    """
    images: list[RawImage] = []
    findings: list[Finding] = []
    classes: dict[str, None] = {}
    listed: dict[Path, set[Path]] = defaultdict(set)
    for split, (file, folders) in parts.items():
        reader = _Reader(file, folders, split)
        images += (read := reader.read())
        findings += reader.findings
        classes |= dict.fromkeys(name for _, name in sorted(reader.names.items(), key=_order))
        for image in read:
            listed[image.file.parent].add(image.file)
    for folder, known in listed.items():
        there = sorted(folder.iterdir()) if folder.is_dir() else []
        alone = [path for path in there if path.suffix.lower() in SUFFIXES and path not in known]
        findings += [Finding("no-annotation", str(path), "", "no annotation file lists it") for path in alone]
        images += [RawImage(path, path) for path in alone]
    return Survey(str(root), images, findings, list(parts), list(classes))


@dataclass
class _Reader:
    """Reads one file; what cannot be read becomes a finding."""

    file: Path
    folders: Sequence[Path]
    split: str
    findings: list[Finding] = field(default_factory=list)
    names: dict[Any, str] = field(default_factory=dict)
    """Category id → name."""

    def read(self) -> list[RawImage]:
        try:
            content = json.loads(read_file(self.file, _MOST_BYTES))
        except (UserError, ValueError, RecursionError) as error:
            reason = str(error).removeprefix(f"{self.file}: ")
            self._tell("unreadable-annotation", "", f"not readable as JSON: {reason}")
            return []
        if not isinstance(content, dict):
            self._tell("unreadable-annotation", "", "expected an object with images, annotations and categories")
            return []
        self._read_categories(content)
        entries = self._read_images(content)
        boxes = self._read_boxes(content, set(entries))
        folder = self._folder([name for _, name, _ in entries.values()])
        for number, (where, _, _) in entries.items():
            if number not in boxes:
                self._tell("no-boxes", where, "no annotation belongs to it")
        return [
            RawImage(folder / name, self.file, tuple(boxes.get(number, ())), told, splits=(self.split,))
            for number, (_, name, told) in entries.items()
        ]

    def _read_categories(self, content: Mapping[str, Any]) -> None:
        for where, entry in self._entries(content, "categories"):
            number, name = entry.get("id"), entry.get("name")
            if not _is_id(number) or not isinstance(name, str) or not name.strip():
                self._tell("unreadable-annotation", where, "expected an id and a name")
            elif number in self.names or name in self.names.values():
                self._tell("duplicate-id", where, f"category {number!r} {name!r}: this id or name is taken")
            else:
                self.names[number] = name

    def _read_images(self, content: Mapping[str, Any]) -> dict[Any, tuple[str, str, tuple[int, int] | None]]:
        found: dict[Any, tuple[str, str, tuple[int, int] | None]] = {}
        paths: dict[str, str] = {}
        for where, entry in self._entries(content, "images"):
            number, name = entry.get("id"), entry.get("file_name")
            if not _is_id(number) or not isinstance(name, str) or not name or not name.isprintable():
                self._tell("unreadable-annotation", where, "expected an id and a file_name")
            elif number in found:
                self._tell("duplicate-id", where, f"image id {number!r} is taken by {found[number][0]}")
            elif name in paths:
                self._tell("duplicate-id", where, f"{name!r} is listed already by {paths[name]}")
            else:
                paths[name] = where
                found[number] = (where, name, self._told_size(where, entry))
        return found

    def _told_size(self, where: str, entry: Mapping[str, Any]) -> tuple[int, int] | None:
        sides = [entry.get(side) for side in ("width", "height")]
        if sides == [None, None]:
            return None
        width, height = map(_number, sides)
        if not (width >= 1 and height >= 1):
            self._tell("unreadable-annotation", where, f"width {sides[0]!r}, height {sides[1]!r}: no size of an image")
            return None
        return int(width), int(height)

    def _read_boxes(self, content: Mapping[str, Any], known: set[Any]) -> dict[Any, list[RawBox]]:
        boxes: dict[Any, list[RawBox]] = defaultdict(list)
        ids: dict[Any, str] = {}
        for where, entry in self._entries(content, "annotations"):
            number, image, category, box = (entry.get(key) for key in ("id", "image_id", "category_id", "bbox"))
            if _is_id(number):
                if number in ids:
                    self._tell("repeated-id", where, f"annotation id {number!r} is taken by {ids[number]}")
                ids.setdefault(number, where)
            if not _is_id(image) or image not in known:
                self._tell("missing-image", where, f"image_id {image!r} is not among the images")
            elif not isinstance(box, list) or len(box) != 4:
                self._tell("bad-box", where, "its bbox is not a list of four numbers: x, y, width, height")
            else:
                x, y, width, height = map(_number, box)
                name = self.names.get(category) if _is_id(category) else None
                corners = (x, y, x + width, y + height)
                crowd, area = entry.get("iscrowd") == 1, _number(entry.get("area"))
                told = area if area > 0 else None  # NaN is not
                boxes[image].append(RawBox(name or f"category {category!r}", corners, where, crowd, told))
        return boxes

    def _entries(self, content: Mapping[str, Any], key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Give each object of a list, with its place."""
        rows = content.get(key)
        if not isinstance(rows, list):
            self._tell("unreadable-annotation", key, "expected a list")
            return
        for index, row in enumerate(rows):
            if isinstance(row, dict):
                yield f"{key}[{index}]", row
            else:
                self._tell("unreadable-annotation", f"{key}[{index}]", "expected an object")

    def _folder(self, names: Sequence[str]) -> Path:
        """Return the folder that file names are relative to."""
        some = names[:: max(1, len(names) // 16)]
        holding = (folder for folder in self.folders if any((folder / name).is_file() for name in some))
        there = (folder for folder in self.folders if folder.is_dir())
        return next(holding, None) or next(there, self.folders[0])

    def _tell(self, kind: str, where: str, message: str) -> None:
        self.findings.append(Finding(kind, str(self.file), where, message))


def _order(category: tuple[Any, str]) -> tuple[bool, Any]:
    """Sort numbers before texts."""
    return isinstance(category[0], str), category[0]


def _is_id(value: Any) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)


def _number(value: Any) -> float:
    """Return a number, NaN for what is none, or too large for any image."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    return float(value) if abs(value) <= FARTHEST else math.nan
