"""YOLO's text files: a line ``class cx cy w h`` for each object, in shares of the image (Redmon's Darknet)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import yaml

from paretune.core.errors import UserError
from paretune.core.types import Data
from paretune.data.box_checks import FAR, Corners, enclosing
from paretune.data.conversion import DARKNET_NAMES, NO_CROWDS, WrittenImage
from paretune.data.file_io import read_file, text_of
from paretune.data.formats.filenames import FileFinder
from paretune.data.formats.yolo_layouts import description, is_yolo_folder, label_of, no_label, parts_of
from paretune.data.raw_annotations import Finding, RawBox, RawImage, Survey
from paretune.data.scanned_dataset import ScannedDataset

_MOST_BYTES = 10_000_000
EMPTY = "no images in it; put some into images/train/, their text files into labels/train/"


class YoloFolder(ScannedDataset):
    """Photographs annotated in YOLO's text format: images/<split>/a.jpg with labels/<split>/a.txt, and data.yaml.

    Also as CVAT (YOLO 1.1 and Ultralytics), Roboflow, Label Studio, labelImg and Darknet lay it out: lists of images,
    labels beside the images, names in obj.names or classes.txt.
    """

    name: ClassVar[str] = "yolo"
    layout: ClassVar[str] = "data.yaml, obj.data, images/ and labels/, or .txt files beside the images"
    to_fill_a_split: ClassVar[str] = (
        "put some into images/{split}/, their text files into labels/{split}/, or name another folder in data.yaml"
    )

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Return whether a folder has any of YOLO's layouts."""
        return is_yolo_folder(root)

    @property
    def described(self) -> Path | None:
        """The YAML file that the root names, where it is no folder."""
        named = super().folder
        return named if named.suffix.lower() in (".yaml", ".yml") and named.is_file() else None

    @property
    def folder(self) -> Path:
        """The root, or the folder of the YAML file that it names."""
        described = self.described
        return super().folder if described is None else described.parent

    @property
    def place(self) -> Path:
        """The YAML file that the root names, else its folder."""
        return self.described or self.folder

    def problems(self) -> list[str]:
        """Return what is wrong with the folder: missing, or without labels."""
        if self.described is not None and not self.missing("data.yaml"):
            return []
        return super().problems()

    def survey(self) -> Survey:
        """Read every label file.

        Raises:
            UserErrors: data.yaml is no YAML.
        """
        findings: list[Finding] = []
        parts, described = parts_of(self.folder, findings, self.described)
        listed = _names(described.get("names"))
        if listed is not None and (count := described.get("nc")) not in (None, len(listed), str(len(listed))):
            message = f"the number of classes is {count!r}, and names tells {len(listed)}"
            findings.append(Finding("class-count", str(self.described or description(self.folder)), "nc", message))
        names = self.classes if listed is None else listed
        return _survey_parts(self.folder, parts, names, findings, _keypoints(described.get("kpt_shape")))


def _survey_parts(
    root: Path,
    parts: Mapping[str, Sequence[Path]],
    names: Sequence[str] | None,
    findings: list[Finding],
    behind: int = 0,
) -> Survey:
    """Read the images of each split with their labels.

    Args:
        root: of the dataset, for messages.
        parts: split → its images; each has the label ``label_of``.
        names: of the classes, in their order; None where no file names them.
        findings: findings so far; more are added.
        behind: numbers of keypoints behind each box.
    """
    finder = FileFinder()
    images = []
    labels: dict[tuple[str, Path], Path] = {}
    exact = {label_of(file) for files in parts.values() for file in files}
    for split, files in parts.items():
        if not files and (split != "test" or not any(finding.kind == "missing-split" for finding in findings)):
            kind = "missing-split" if split == "test" else "bad-list"
            findings.append(Finding(kind, str(root), "", f"the split {split} holds no images" if split else EMPTY))
        for file in files:
            wanted = label_of(file)
            base = root if wanted.is_relative_to(root) else wanted.parent
            alike = finder.find(base, wanted.relative_to(base).as_posix())
            label = wanted if alike is None or alike in exact else alike
            if (other := labels.setdefault((split, label), file)) != file:
                message = (
                    f"{label.name} would be the label of {other.name} too: YOLO tells whose it is by the name alone"
                )
                findings.append(Finding("duplicate-id", str(file), "", message))
                continue
            place = (split,) if split else ()
            if not label.is_file():
                findings.append(Finding("background", str(file), "", f"no {label.name}: taken for background"))
                images.append(RawImage(file, file, relative=True, splits=place))
                continue
            if label != wanted:
                findings.append(Finding("other-name", str(label), "", f"taken for the label of {file.name}"))
            boxes = _read(label, names, findings, behind)
            images.append(RawImage(file, label, tuple(boxes), relative=True, splits=place))
    known = {label for _, label in labels}
    for folder in sorted({label.parent for label in known}):
        there = folder.glob("*.txt") if folder.is_dir() else ()
        lost = sorted(path for path in there if path not in known and not no_label(path))
        findings += [Finding("missing-image", str(path), "", "no image belongs to it") for path in lost]
    splits = [split for split, files in parts.items() if split and (files or split != "test")]
    return Survey(str(root), images, findings, splits, names)


def _read(label: Path, names: Sequence[str] | None, findings: list[Finding], behind: int) -> list[RawBox]:
    try:
        lines = text_of(read_file(label, _MOST_BYTES)).splitlines()
    except (UserError, UnicodeDecodeError) as error:
        reason = str(error).removeprefix(f"{label}: ")
        findings.append(Finding("unreadable-annotation", str(label), "", reason))
        return []
    boxes = []
    for number, line in enumerate(lines, start=1):
        if words := line.split():
            corners, kind, message = corners_of(words, behind)
            where = f"line {number}"
            if kind:
                findings.append(Finding(kind, str(label), where, message))
            if corners is not None:
                boxes.append(RawBox(_name(_class(words[0]), names), corners, where))
    if not any(line.strip() for line in lines):
        findings.append(Finding("no-boxes", str(label), "", "no object in it"))
    return boxes


def corners_of(words: Sequence[str], behind: int = 0) -> tuple[Corners | None, str, str]:
    """Read the words of a line: class cx cy w h, perhaps a confidence or keypoints behind, or class x y x y x y ….

    Args:
        words: of one line.
        behind: numbers of keypoints behind each box.

    Returns:
        Corners in shares of the image, None where they cannot be read; kind and message of a finding, empty without.
    """
    wanted = "a class's number and four numbers: class cx cy w h, or the points of a polygon: class x y x y x y …"
    count, numbers = len(words), list(map(_number, words[1:]))
    if not words or _class(words[0]) is None:
        return None, "unreadable-annotation", f"{words[0] if words else ''!r} is no class's number; expected {wanted}"
    if count == 5:
        return _around(numbers), "", ""
    if unused := _unused(words, numbers, behind):
        return _around(numbers[:4]), "confidence", f"{unused}: not used"
    if count >= 7 and count % 2:
        return enclosing(numbers), "polygon", f"{count // 2} points: their enclosing box is taken"
    keypoints = "; of keypoints, kpt_shape in data.yaml tells how many" if count > 6 else ""
    return None, "unreadable-annotation", f"{count} words, expected {wanted}{keypoints}"


def _unused(words: Sequence[str], numbers: Sequence[float], behind: int) -> str:
    """Return what the numbers behind a box are; empty where there are none, or nobody knows."""
    if behind and len(words) == 5 + behind:
        return f"{behind} numbers of keypoints"
    if len(words) == 6 and 0 <= numbers[4] <= 1:
        return f"{words[5]}, taken for a confidence"
    if len(words) == 6 and numbers[4] > 1 and numbers[4].is_integer():
        return f"{words[5]}, taken for a track's number"
    if len(words) == 7 and all(0 <= number <= 1 for number in numbers[:5]) and numbers[5] > FAR:
        return f"{words[5]} and {words[6]}, taken for a confidence and a track's number"
    return ""


def _around(numbers: Sequence[float]) -> Corners:
    cx, cy, width, height = numbers
    return cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2


def _class(word: str) -> int | None:
    """Return a class's number, also one that is written as 1.0; None for what is none."""
    if word.isdecimal():
        return int(word) if len(word) < 10 else -1
    value = _number(word)
    return int(value) if value.is_integer() and 0 <= value < 1e9 else None


def _keypoints(shape: Any) -> int:
    """Return how many numbers of keypoints stand behind each box, by ``kpt_shape`` of data.yaml."""
    known = isinstance(shape, list) and len(shape) == 2 and all(isinstance(n, int) and 0 < n < 1000 for n in shape)
    return shape[0] * shape[1] if known else 0


def _name(index: int | None, names: Sequence[str] | None) -> str:
    return f"class {index}" if names is None or index is None or not 0 <= index < len(names) else names[index]


def _number(word: str) -> float:
    try:
        return math.nan if "_" in word else float(word)
    except ValueError:
        return math.nan


def _names(listed: Any) -> list[str] | None:
    """Return the class names of a list, or of a mapping from number to name."""
    if isinstance(listed, list):
        return [str(name) for name in listed]
    if isinstance(listed, Mapping):
        numbered = {int(key): str(name) for key, name in listed.items() if re.fullmatch(r"\d{1,5}", str(key), re.ASCII)}
        return [numbered.get(index, f"class {index}") for index in range(max(numbered, default=-1) + 1)]
    return None


def write_yolo(draft: Path, data: Data, entries: list[WrittenImage]) -> list[str]:
    """Write labels/<split>/<id>.txt beside images/<split>/, and data.yaml."""
    lost = _write_labels("yolo", {split: draft / "labels" / split for split in data.splits}, entries)
    fields = {**{split: f"images/{split}" for split in data.splits}, "names": dict(enumerate(data.classes))}
    (draft / "data.yaml").write_text(yaml.safe_dump(fields, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return lost


def write_darknet(draft: Path, data: Data, entries: list[WrittenImage]) -> list[str]:
    """Write obj.data, obj.names, <split>.txt, and obj_<split>_data/<id>.txt beside each image; val is called valid."""
    folders = {split: draft / f"obj_{DARKNET_NAMES.get(split, split)}_data" for split in data.splits}
    lost = _write_labels("darknet", folders, entries)
    given = [f"classes = {len(data.classes)}"]
    for split, folder in folders.items():
        name = f"{DARKNET_NAMES.get(split, split)}.txt"
        listed = [f"data/{folder.name}/{entry.file_name}\n" for entry in entries if entry.split == split]
        (draft / name).write_text("".join(listed), encoding="utf-8")
        given.append(f"{DARKNET_NAMES.get(split, split)} = data/{name}")
    given += ["names = data/obj.names", "backup = backup/"]
    (draft / "obj.data").write_text("".join(f"{line}\n" for line in given), encoding="utf-8")
    (draft / "obj.names").write_text("".join(f"{name}\n" for name in data.classes), encoding="utf-8")
    return lost


def _write_labels(form: str, folders: dict[str, Path], entries: Sequence[WrittenImage]) -> list[str]:
    """Write a label file for each image, and return what YOLO's lines cannot hold."""
    if len({(entry.split, entry.id) for entry in entries}) < len(entries):
        raise UserError(
            f"{form}: two images of one split have the same name; YOLO tells whose a label is by the name alone"
        )
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    ignored = 0
    for entry in entries:
        lines = []
        for (x1, y1, x2, y2), label, ignore in entry.objects:
            ignored += ignore
            if not ignore:
                width, height = entry.size
                shares = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
                lines.append(f"{label} {' '.join(f'{share:.9g}' for share in shares)}\n")
        (folders[entry.split] / f"{entry.id}.txt").write_text("".join(lines), encoding="utf-8")
    return [NO_CROWDS.format(form=form, count=ignored)] if ignored else []
