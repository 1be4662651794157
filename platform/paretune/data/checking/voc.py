"""A Pascal VOC folder read leniently."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from xml.etree import ElementTree as ET

from paretune.data.checking.findings import Finding, RawBox, RawImage, Survey
from paretune.data.files import read_file
from paretune.data.images import SUFFIXES
from paretune.data.voc import Voc
from paretune.data.voclists import share_out
from paretune.data.vocxml import CORNERS, MOST_BYTES, class_of, number_at, parse_root
from paretune.errors import UserError

FLAT = ("train", "val", "valid", "test")
"""Folders that are splits."""


def survey(dataset: Voc) -> Survey:
    """Read all that can be read.

    Raises:
        UserError: no such folder, or not a VOC folder.
    """
    root = dataset.folder
    if not all((root / part).is_dir() for part in ("Annotations", "JPEGImages")):
        raise UserError("\n".join(dataset.problems()))
    findings: list[Finding] = []
    files = _by_stem(root / "JPEGImages", SUFFIXES, findings)
    annotations = _by_stem(root / "Annotations", frozenset({".xml"}), findings)
    places, splits = _splits(dataset, annotations, findings)
    images = []
    for stem, path in annotations.items():
        file = files.get(stem, root / "JPEGImages" / f"{stem}.jpg")
        told, boxes = _read(path, findings)
        images.append(RawImage(file, path, boxes, told, splits=tuple(places.get(stem, ()))))
        if stem not in places:
            findings.append(Finding("no-split", str(path), "", f"its image is in none of {', '.join(splits)}"))
    alone = [file for stem, file in files.items() if stem not in annotations]
    findings += [Finding("no-annotation", str(file), "", f"no {file.stem}.xml in Annotations/") for file in alone]
    images += [RawImage(file, file) for file in alone]
    return Survey(str(root), images, findings, splits, dataset.classes)


def survey_flat(root: Path) -> Survey:
    """Read images with their annotations beside them (a.jpg, a.xml), as many tools write them.

    Folders named train, val, valid or test are the splits; without them there are none.
    """
    parts = {name: root / name for name in FLAT if (root / name).is_dir()} or {"": root}
    images: list[RawImage] = []
    findings: list[Finding] = []
    for split, folder in parts.items():
        files = _by_stem(folder, SUFFIXES, findings)
        annotations = _by_stem(folder, frozenset({".xml"}), findings)
        for stem in sorted({*files, *annotations}):
            file = files.get(stem, folder / f"{stem}.jpg")
            if (path := annotations.get(stem)) is None:
                findings.append(Finding("no-annotation", str(file), "", f"no {stem}.xml beside it"))
                images.append(RawImage(file, file))
                continue
            told, boxes = _read(path, findings)
            images.append(RawImage(file, path, boxes, told, splits=(split,) if split else ()))
    return Survey(str(root), images, findings, [split for split in parts if split])


def _by_stem(folder: Path, ends: frozenset[str], findings: list[Finding]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in ends or path.name.startswith("."):
            continue
        if path.stem in found:
            message = f"{found[path.stem].name} has the same name but for its ending: only one of them is used"
            findings.append(Finding("duplicate-id", str(path), "", message))
        found[path.stem] = path
    return found


def _read(path: Path, findings: list[Finding]) -> tuple[tuple[int, int] | None, tuple[RawBox, ...]]:
    """Return the size told and the boxes; what cannot be read becomes a finding."""
    try:
        root = parse_root(read_file(path, MOST_BYTES))
    except (UserError, ValueError) as error:
        findings.append(Finding("unreadable-annotation", str(path), "", str(error).removeprefix(f"{path}: ")))
        return None, ()
    sides = [number_at(root, f"size/{side}", default="0") for side in ("width", "height")]
    told = (int(sides[0]), int(sides[1])) if all(side > 0 for side in sides) else None
    if any(side != side for side in sides):  # noqa: PLR0124 - NaN
        findings.append(Finding("unreadable-annotation", str(path), "size", "width or height is no number"))
    nodes = root.findall("object")
    if not nodes:
        findings.append(Finding("no-boxes", str(path), "", "no object in it"))
    return told, tuple(_boxes(path, nodes, findings))


def _boxes(path: Path, nodes: list[ET.Element], findings: list[Finding]) -> Iterator[RawBox]:
    for number, node in enumerate(nodes, start=1):
        where = f"object {number}"
        if not (name := class_of(node)):
            findings.append(Finding("unreadable-annotation", str(path), where, "it has no <name>"))
            continue
        corners = [number_at(node, f"bndbox/{corner}") for corner in CORNERS]
        if wrong := [c for c, value in zip(CORNERS, corners, strict=True) if value != value]:  # noqa: PLR0124 - NaN
            texts = ", ".join(f"<{corner}> is {node.findtext(f'bndbox/{corner}')!r}" for corner in wrong)
            findings.append(Finding("bad-box", str(path), where, f"{texts}, expected a number"))
            continue
        x1, y1, x2, y2 = corners
        # equal corners are one pixel wide by VOC's counting, and left out by the reader: told as they are written
        shift = 1 if x2 > x1 and y2 > y1 else 0
        difficult = (node.findtext("difficult") or "").strip() == "1"
        yield RawBox(name, (x1 - shift, y1 - shift, x2, y2), where, difficult)


def _splits(
    dataset: Voc, annotations: Mapping[str, Path], findings: list[Finding]
) -> tuple[dict[str, list[str]], list[str]]:
    """Return the splits of each image, and the names of all splits."""
    files, needed = dataset.list_files, dataset.needed_lists
    there = {split: file for split, file in files.items() if file.is_file()}
    missing = sorted(needed - there.keys())
    findings += [Finding("bad-list", str(files[split]), "", f"no such list, needed for {split}") for split in missing]
    lists = {split: _list(file, annotations, findings) for split, file in there.items()} if needed else {}
    if not missing and "val" not in lists:
        whole = lists.pop("train", list(annotations))
        lists = {**share_out(whole, dataset.val_share, 0.0 if "test" in lists else dataset.test_share), **lists}
    places: dict[str, list[str]] = defaultdict(list)
    for split, ids in lists.items():
        if needed and not ids:
            findings.append(Finding("bad-list", str(files[split]), "", f"the split {split} holds no images"))
        for stem in ids:
            places[stem].append(split)
    return places, list(lists)


def _list(file: Path, known: Mapping[str, Path], findings: list[Finding]) -> list[str]:
    ids: dict[str, int] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8-sig", errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        name = line.strip() if line.strip() in known else line.split()[0]
        where = f"line {number}"
        if name not in known:
            findings.append(Finding("bad-list", str(file), where, f"{name!r} has no annotation"))
        elif name in ids:
            findings.append(Finding("duplicate-id", str(file), where, f"{name!r} is on line {ids[name]} already"))
        else:
            ids[name] = number
    return list(ids)
