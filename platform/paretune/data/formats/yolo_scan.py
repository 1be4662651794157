"""YOLO's text files read leniently: ``class cx cy w h`` on each line, in shares of the image."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from paretune.core.errors import UserError
from paretune.data.box_checks import FAR, Corners, enclosing
from paretune.data.file_io import read_file, text_of
from paretune.data.formats.filenames import FileFinder
from paretune.data.formats.yolo_layouts import description, label_of, no_label, parts_of
from paretune.data.raw_annotations import Finding, RawBox, RawImage, Survey

_MOST_BYTES = 10_000_000
EMPTY = "no images in it; put some into images/train/, their text files into labels/train/"


def survey_folder(root: Path, classes: Sequence[str] | None = None, file: Path | None = None) -> Survey:
    """Read a folder of any layout that ``yolofolder`` knows.

    Args:
        root: of the dataset.
        classes: their names in their order, where the folder tells none.
        file: the YAML file that describes it; None takes the one that lies in it, if there is one.

    Raises:
        UserErrors: data.yaml is no YAML.
    """
    findings: list[Finding] = []
    parts, described = parts_of(root, findings, file)
    told = _names(described.get("names"))
    names = classes if told is None else told
    if told is not None and (count := described.get("nc")) not in (None, len(told), str(len(told))):
        message = f"the number of classes is {count!r}, and names tells {len(told)}"
        findings.append(Finding("class-count", str(file or description(root)), "nc", message))
    return survey_parts(root, parts, names, findings, _keypoints(described.get("kpt_shape")))


def survey_parts(
    root: Path,
    parts: Mapping[str, Sequence[Path]],
    names: Sequence[str] | None,
    found: list[Finding],
    behind: int = 0,
) -> Survey:
    """Read the images of each split with their labels.

    Args:
        root: of the dataset, for messages.
        parts: split → its images; each has the label that ``label_of`` says.
        names: of the classes, in their order; None where nobody tells them.
        found: findings to go on with.
        behind: numbers of keypoints behind each box.
    """
    findings = list(found)
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


def _names(told: Any) -> list[str] | None:
    """Return the class names of a list, or of a mapping from number to name."""
    if isinstance(told, list):
        return [str(name) for name in told]
    if isinstance(told, Mapping):
        numbered = {int(key): str(name) for key, name in told.items() if re.fullmatch(r"\d{1,5}", str(key), re.ASCII)}
        return [numbered.get(index, f"class {index}") for index in range(max(numbered, default=-1) + 1)]
    return None
