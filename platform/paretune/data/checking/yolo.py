"""YOLO's text files read leniently: ``class cx cy w h`` on each line, in shares of the image."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from paretune.data.checking.findings import Finding, RawBox, RawImage, Survey
from paretune.data.files import read_file
from paretune.data.images import SUFFIXES
from paretune.errors import UserError
from paretune.yamlfile import read_yaml

SPLITS = ("train", "val", "valid", "test")
"""Names that a folder or a field of data.yaml may have."""
_MOST_BYTES = 10_000_000


def survey_folder(root: Path, classes: Sequence[str] | None = None) -> Survey:
    """Read a folder: with data.yaml, or images/ and labels/, whose subfolders are the splits.

    Args:
        root: of the dataset.
        classes: their names in their order, where the folder tells none.

    Raises:
        UserErrors: data.yaml is no YAML.
    """
    findings: list[Finding] = []
    described = data_file(root)
    fields = read_yaml(described).data if described else {}
    fields = fields if isinstance(fields, Mapping) else {}
    told = _names(root, fields.get("names"))
    names = classes if told is None else told
    parts = _of_yaml(described, fields, findings) if described else _of_layout(root)
    return survey_parts(root, parts, names, findings)


def data_file(root: Path) -> Path | None:
    """Return the YAML file that describes the folder, if there is one."""
    for file in [root / "data.yaml", root / "data.yml", *sorted(root.glob("*.y*ml"))]:
        if file.is_file() and b"names" in file.read_bytes()[:1_000_000]:
            return file
    return None


def survey_parts(
    root: Path, parts: Mapping[str, Sequence[Path]], names: Sequence[str] | None, found: list[Finding]
) -> Survey:
    """Read the images of each split with their labels.

    Args:
        root: of the dataset, for messages.
        parts: split → its images; the label of images/a.jpg is labels/a.txt, of another a.jpg a.txt.
        names: of the classes, in their order; None where nobody tells them.
        found: findings to go on with.
    """
    findings = list(found)
    images = []
    labels: set[Path] = set()
    for split, files in parts.items():
        if not files:
            findings.append(Finding("bad-list", str(root), "", f"the split {split} holds no images"))
        for file in files:
            label = label_of(file)
            labels.add(label)
            place = (split,) if split else ()
            if not label.is_file():
                findings.append(Finding("no-annotation", str(file), "", f"no {label.name}: taken as background"))
                images.append(RawImage(file, file, relative=True, splits=place))
                continue
            boxes = _read(label, names, findings)
            images.append(RawImage(file, label, tuple(boxes), relative=True, splits=place))
    for folder in sorted({label.parent for label in labels}):
        there = folder.glob("*.txt") if folder.is_dir() else ()
        lost = sorted(path for path in there if path not in labels and path.name != "classes.txt")
        findings += [Finding("missing-image", str(path), "", "no image belongs to it") for path in lost]
    return Survey(str(root), images, findings, [split for split in parts if split], names)


def label_of(image: Path) -> Path:
    """Return the path of an image's label."""
    parts = list(image.parts)
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] == "images":
            parts[index] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _read(label: Path, names: Sequence[str] | None, findings: list[Finding]) -> list[RawBox]:
    try:
        lines = read_file(label, _MOST_BYTES).decode("utf-8-sig").splitlines()
    except (UserError, UnicodeDecodeError) as error:
        reason = str(error).removeprefix(f"{label}: ")
        findings.append(Finding("unreadable-annotation", str(label), "", reason))
        return []
    boxes = []
    for number, line in enumerate(lines, start=1):
        words, where = line.split(), f"line {number}"
        if not words:
            continue
        if len(words) != 5 or not words[0].isdecimal():
            message = f"{len(words)} words, expected a class's number and four numbers: class cx cy w h"
            findings.append(Finding("unreadable-annotation", str(label), where, message))
            continue
        cx, cy, width, height = map(_number, words[1:])
        corners = (cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2)
        boxes.append(RawBox(_name(words[0], names), corners, where))
    if not any(line.strip() for line in lines):
        findings.append(Finding("no-boxes", str(label), "", "no object in it"))
    return boxes


def _name(word: str, names: Sequence[str] | None) -> str:
    index = int(word) if len(word) < 10 else -1
    return f"class {word}" if names is None or not 0 <= index < len(names) else names[index]


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return math.nan


def _names(root: Path, told: Any) -> list[str] | None:
    """Return the class names of data.yaml (a list, or number → name), or of a classes.txt."""
    if isinstance(told, list):
        return [str(name) for name in told]
    if isinstance(told, Mapping):
        numbered = {int(key): str(name) for key, name in told.items() if re.fullmatch(r"\d{1,5}", str(key), re.ASCII)}
        return [numbered.get(index, f"class {index}") for index in range(max(numbered, default=-1) + 1)]
    for file in (root / "classes.txt", root / "labels" / "classes.txt"):
        if file.is_file() and (text := file.read_text(encoding="utf-8-sig", errors="replace").rstrip()):
            return text.split("\n")[:100_000]
    return None


def _of_yaml(file: Path, fields: Mapping[str, Any], findings: list[Finding]) -> dict[str, list[Path]]:
    base = file.parent / str(fields.get("path") or "")
    parts: dict[str, list[Path]] = {}
    for split in SPLITS:
        places = fields.get(split)
        if not places:
            continue
        parts[split] = []
        for place in places if isinstance(places, list) else [places]:
            # some tools write ../train/images in a data.yaml that lies beside train/
            own = [base / str(place), file.parent / str(place), file.parent / str(place).lstrip("./")]
            there = next((path for path in own if path.exists()), None)
            if there is None:
                findings.append(Finding("bad-list", str(file), split, f"no such folder or list: {place}"))
            else:
                parts[split] += _in_folder(there) if there.is_dir() else _in_list(there, findings)
    return parts


def _of_layout(root: Path) -> dict[str, list[Path]]:
    images = root / "images"
    for places in (
        {split: images / split for split in SPLITS},
        {split: root / split / "images" for split in SPLITS},
    ):
        if there := {split: place for split, place in places.items() if place.is_dir()}:
            return {split: _in_folder(place) for split, place in there.items()}
    return {"": _in_folder(images if images.is_dir() else root)}


def _in_folder(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))


def _in_list(file: Path, findings: list[Finding]) -> list[Path]:
    seen: dict[Path, int] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8-sig", errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        path = file.parent / line.strip()
        if path in seen:
            findings.append(Finding("duplicate-id", str(file), f"line {number}", f"is on line {seen[path]} already"))
        seen.setdefault(path, number)
    return list(seen)
