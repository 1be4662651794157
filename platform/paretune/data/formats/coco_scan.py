"""COCO's JSON files read leniently. Lin et al., ECCV 2014; https://cocodataset.org/#format-data."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paretune.core.errors import UserError
from paretune.data.file_io import read_file
from paretune.data.formats.coco_json import as_text, box_of, box_of_segmentation, flag_of, id_of
from paretune.data.formats.filenames import FileFinder
from paretune.data.formats.outline_boxes import number as number_of
from paretune.data.image_io import SUFFIXES
from paretune.data.raw_annotations import Finding, RawBox, RawImage, Survey

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
        files = {}
        for file in sorted(root.glob(pattern)):
            own_name = file.parent.name if file.name.startswith("_") else file.stem.removeprefix("instances_")
            files[own_name] = file
        if len(files) > 1:  # train and val once more
            files = {name: file for name, file in files.items() if not name.startswith("trainval")}
        if files:
            return files
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
    listed: dict[Path, set[Path]] = defaultdict(set)
    finder = FileFinder()
    readers = [_Reader(file, folders, split, finder) for split, (file, folders) in parts.items()]
    for reader in readers:
        images += (read := reader.read())
        for image in read:
            listed[image.file.parent].add(image.file)
    roots = _roots(readers)
    classes: dict[str, None] = {}
    for reader in readers:
        for number, name in sorted(reader.names.items(), key=_order):
            if (name, number) in roots:
                message = f"category {number!r} {name!r}: no object is of it, and it stands above others"
                reader.report("root-class", reader.places[number], message)
            else:
                classes[name] = None
        findings += reader.findings
    for folder, known in listed.items():
        there = sorted(folder.iterdir()) if folder.is_dir() else []
        alone = [path for path in there if path.suffix.lower() in SUFFIXES and path not in known]
        findings += [Finding("no-annotation", str(path), "", "no annotation file lists it") for path in alone]
        images += [RawImage(path, path) for path in alone]
    return Survey(str(root), images, findings, list(parts), list(classes))


def _roots(readers: Sequence[_Reader]) -> set[tuple[str, int | str]]:
    """Return the categories, by name and id, that are no classes: they are above others, and no object is of them.

    They are recognised by ``supercategory``, or by the id 0 where others follow, as Roboflow numbers its root.
    """
    used = {(reader.names[number], number) for reader in readers for number in reader.used}
    above = {name for reader in readers for name in reader.above}
    return {
        (name, number)
        for reader in readers
        for number, name in reader.names.items()
        if (name in above or (number == 0 and len(reader.names) > 1)) and (name, number) not in used
    }


@dataclass
class _Reader:
    """Reads one file; what cannot be read becomes a finding."""

    file: Path
    folders: Sequence[Path]
    split: str
    finder: FileFinder
    findings: list[Finding] = field(default_factory=list)
    names: dict[int | str, str] = field(default_factory=dict)
    """Category id → name."""
    places: dict[int | str, str] = field(default_factory=dict)
    """Category id → its place in the file."""
    above: set[str] = field(default_factory=set)
    """Names that other categories have for a supercategory."""
    used: set[int | str] = field(default_factory=set)
    """Category ids that objects are of."""

    def read(self) -> list[RawImage]:
        try:
            content = json.loads(read_file(self.file, _MOST_BYTES))
        except (UserError, ValueError, RecursionError) as error:
            reason = str(error).removeprefix(f"{self.file}: ")
            self.report("unreadable-annotation", "", f"not readable as JSON: {reason}")
            return []
        if not isinstance(content, dict):
            self.report("unreadable-annotation", "", "expected an object with images, annotations and categories")
            return []
        self._read_categories(content)
        entries = self._read_images(content)
        boxes, broken = self._read_boxes(content, entries)
        folder = self._folder([name for _, name, _ in entries.values()])
        for number, (where, _, _) in entries.items():
            if number not in boxes and number not in broken:
                self.report("no-boxes", where, "no annotation belongs to it")
        images = [
            RawImage(
                self._file(folder, where, name),
                self.file,
                tuple(boxes.get(number, ())),
                message,
                splits=(self.split,),
                broken=tuple(broken.get(number, ())),
            )
            for number, (where, name, message) in entries.items()
        ]
        return self._apart(images, [where for where, _, _ in entries.values()])

    def _read_categories(self, content: Mapping[str, Any]) -> None:
        for where, entry in self._entries(content, "categories"):
            number, name = id_of(entry.get("id")), entry.get("name")
            if number is None or not isinstance(name, str) or not name.strip():
                self.report("unreadable-annotation", where, "expected an id and a name")
            elif self.names.get(number, name) != name:
                taken = f"{self.places[number]} {self.names[number]!r}"
                self.report("duplicate-id", where, f"category {number!r} {name!r}: this id is taken by {taken}")
            else:
                if name in self.names.values():
                    self.report("repeated-class", where, f"category {number!r} has the name {name!r} of another")
                self.names.setdefault(number, name)
                self.places.setdefault(number, where)
                if (parent := entry.get("supercategory")) != name and isinstance(parent, str):
                    self.above.add(parent)

    def _read_images(self, content: Mapping[str, Any]) -> dict[int | str, tuple[str, str, tuple[int, int] | None]]:
        images: dict[int | str, tuple[str, str, tuple[int, int] | None]] = {}
        paths: dict[str, str] = {}
        for where, entry in self._entries(content, "images"):
            number, name = id_of(entry.get("id")), entry.get("file_name")
            if number is None or not isinstance(name, str) or not name or not name.isprintable():
                self.report("unreadable-annotation", where, "expected an id and a file_name")
            elif number in images:
                self.report("duplicate-id", where, f"image id {number!r} is taken by {images[number][0]}")
            elif name in paths:
                self.report("duplicate-id", where, f"{name!r} is listed already by {paths[name]}")
            else:
                paths[name] = where
                images[number] = (where, name, self._annotated_size(where, entry))
        return images

    def _annotated_size(self, where: str, entry: Mapping[str, Any]) -> tuple[int, int] | None:
        sides = [entry.get(side) for side in ("width", "height")]
        if sides == [None, None]:
            return None
        width, height = map(number_of, sides)
        if not (width >= 1 and height >= 1):
            self.report("unreadable-annotation", where, f"width {sides[0]!r}, height {sides[1]!r}: no size of an image")
            return None
        return int(width), int(height)

    def _read_boxes(
        self, content: Mapping[str, Any], images: Mapping[int | str, tuple[str, str, tuple[int, int] | None]]
    ) -> tuple[Mapping[int | str, list[RawBox]], Mapping[int | str, list[Finding]]]:
        """Return the boxes of each image, and what of its objects cannot be read."""
        boxes: dict[int | str, list[RawBox]] = defaultdict(list)
        broken: dict[int | str, list[Finding]] = defaultdict(list)
        ids: dict[int | str, str] = {}
        known, categories = _Ids(images), _Ids(self.names)
        for where, entry in self._entries(content, "annotations"):
            if (number := id_of(entry.get("id"))) is not None:
                if number in ids:
                    self.report("repeated-id", where, f"annotation id {number!r} is taken by {ids[number]}")
                ids.setdefault(number, where)
            image = self._id(entry, "image_id", where, known)
            category = self._id(entry, "category_id", where, categories)
            if image is None:
                self.report("missing-image", where, f"image_id {entry.get('image_id')!r} is not among the images")
                continue
            before = len(self.findings)
            if (box := self._box(where, entry, category, images[image][2])) is not None:
                boxes[image].append(box)
            else:
                broken[image] += [finding for finding in self.findings[before:] if finding.hinders]
        return boxes, broken

    def _id(self, entry: Mapping[str, Any], key: str, where: str, known: _Ids) -> int | str | None:
        written = id_of(entry.get(key))
        image_id = None if written is None else known.find(written)
        if image_id is not None and image_id != written:
            self.report("other-id", where, f"{key} {entry[key]!r} is taken for {image_id!r}")
        return image_id

    def _box(
        self, where: str, entry: Mapping[str, Any], category: int | str | None, size: tuple[int, int] | None
    ) -> RawBox | None:
        """Return an object with its box; None, and a finding, where it has none that can be read."""
        written, outline = entry.get("bbox"), entry.get("segmentation")
        corners, crowd = box_of(written), flag_of(entry.get("iscrowd"))
        lacking = written in (None, [], [0, 0, 0, 0])
        if lacking and (around := box_of_segmentation(outline, size)) is not None:
            corners = around
            self.report("segmentation", where, f"its bbox is {written!r}; that of its segmentation is taken")
        if corners is None:
            shape = ", and its segmentation is neither polygons nor runs of all its image's pixels" if outline else ""
            what = (
                f"it has no bbox{shape}" if lacking else "its bbox is not a list of four numbers: x, y, width, height"
            )
            self.report("bad-box", where, what)
            return None
        if crowd is None:
            self.report("unreadable-annotation", where, f"iscrowd is {entry['iscrowd']!r}, expected 0 or 1")
            return None
        if category is not None:
            self.used.add(category)
        name = f"category {entry.get('category_id')!r}" if category is None else self.names[category]
        area = number_of(entry.get("area"))
        return RawBox(name, corners, where, crowd, area if area > 0 else None)  # NaN is not

    def _entries(self, content: Mapping[str, Any], key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield each object of a list, with its place."""
        rows = content.get(key)
        if not isinstance(rows, list):
            self.report("unreadable-annotation", key, "expected a list")
            return
        for index, row in enumerate(rows):
            if isinstance(row, dict):
                yield f"{key}[{index}]", row
            else:
                self.report("unreadable-annotation", f"{key}[{index}]", "expected an object")

    def _folder(self, names: Sequence[str]) -> Path:
        """Return the folder that file names are relative to."""
        some = names[:: max(1, len(names) // 16)]
        folders = (folder for folder in self.folders if any(self.finder.find(folder, name) for name in some))
        there = (folder for folder in self.folders if folder.is_dir())
        holding = next(folders, None) or next(
            (f for f in self.folders if any(self.finder.end_of(f, n) for n in some)), None
        )
        return holding or next(there, self.folders[0])

    def _file(self, folder: Path, where: str, name: str) -> Path:
        """Return an image's file; the path as it is written where there is none."""
        path = self.finder.find(folder, name) or self.finder.end_of(folder, name)
        if path is None:
            return folder / name
        if path != folder / name:
            self.report("other-name", where, f"{name!r} is taken for {path}")
        return path

    def _apart(self, images: Sequence[RawImage], places: Sequence[str]) -> list[RawImage]:
        """Return the images but those whose file is that of one before: two names can mean one file."""
        seen: dict[Path, str] = {}
        kept = []
        for image, where in zip(images, places, strict=True):
            if image.file in seen:
                self.report("duplicate-id", where, f"{image.file} is listed already by {seen[image.file]}")
                continue
            seen[image.file] = where
            kept.append(image)
        return kept

    def report(self, kind: str, where: str, message: str) -> None:
        """Add a finding."""
        self.findings.append(Finding(kind, str(self.file), where, message))


class _Ids:
    """Known ids; one that is written as a text in one place, and not in another, is found where only one fits."""

    def __init__(self, known: Iterable[int | str]) -> None:
        self._known = set(known)
        self._texts: dict[str, list[int | str]] = defaultdict(list)
        for number in self._known:
            self._texts[as_text(number)].append(number)

    def find(self, number: int | str) -> int | str | None:
        """Return the known id that is meant."""
        if number in self._known:
            return number
        alike = self._texts.get(as_text(number), ())
        return alike[0] if len(alike) == 1 else None


def _order(category: tuple[int | str, str]) -> tuple[bool, Any]:
    """Sort numbers before texts."""
    return isinstance(category[0], str), category[0]
