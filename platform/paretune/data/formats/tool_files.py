"""Helpers that the readers of labelling tools' files share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from paretune.core.errors import UserError
from paretune.data.file_io import read_file
from paretune.data.formats.image_references import ImageIndex, images_below, split_of
from paretune.data.formats.outline_boxes import Box
from paretune.data.raw_annotations import Finding, RawImage, Survey

ONLY_CLASS = "object"
"""The class of a dataset none of whose objects has one."""
IGNORED = ("difficult", "iscrowd", "crowd", "ignore")
"""Attributes of an object that is neither a hit nor a miss."""
_MOST_BYTES = 2_000_000_000
_LOOKED_AT = 50
"""Files of each ending that are looked into to recognise what a folder holds."""
_HEAD, _END = 1_000_000, 65_536
"""Bytes of a file that are looked into: what lies between may be a picture."""


class DrawnObject(NamedTuple):
    """One object as a tool has drawn it."""

    box: Box | None
    """None: a point or a line, around which there is no box."""
    exact: bool = True
    """False: the box is that around a polygon, a mask, or something turned."""


@dataclass
class FolderScan:
    """A folder that is being read: what was found, and what is wrong."""

    root: Path
    findings: list[Finding] = field(default_factory=list)
    found: list[RawImage] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Know the images below the root; they are listed when one is looked for by its name alone."""
        self.images = ImageIndex(self.root)
        self._claimed: dict[Path, str] = {}

    def report(self, kind: str, file: Path, where: str, message: str) -> Finding:
        """Add a finding, and return it."""
        finding = Finding(kind, str(file), where, message)
        self.findings.append(finding)
        return finding

    def add(self, image: RawImage, where: str = "") -> None:
        """Add an image, or a finding if it has been added for another annotation."""
        here = f"{image.annotation}{f': {where}' if where else ''}"
        if (first := self._claimed.setdefault(image.file, here)) != here:
            self.report("duplicate-id", image.annotation, where, f"{image.file} is annotated by {first} already")
            return
        if not image.boxes:
            self.report("no-boxes", image.annotation, where, f"no object in {image.file.name}")
        self.found.append(image)

    def unlabelled(self, image: Path, annotation: Path, where: str, reason: str) -> None:
        """Add an image that nobody has looked at yet: it is left out, which is not background."""
        self._claimed.setdefault(image, str(annotation))
        self.report("no-annotation", annotation, where, f"{image.name}: {reason}")
        self.found.append(RawImage(image, image))

    def hindering(self, since: int) -> tuple[Finding, ...]:
        """Return what hinders training of the findings that were added since there were so many."""
        return tuple(finding for finding in self.findings[since:] if finding.hinders)

    def drawn(self, file: Path, where: str, drawn: DrawnObject, what: str) -> Box | None:
        """Return an object's box, with a finding where it is not drawn as a box; None where there is none."""
        if drawn.box is None:
            self.report("no-box", file, where, f"a {what} has no area: left out")
        elif not drawn.exact:
            self.report("polygon", file, where, f"a {what}: its enclosing box is taken")
        return drawn.box

    def survey(self, listed: Sequence[str]) -> Survey:
        """Return all that was read, with the images that no annotation names.

        Args:
            listed: classes that the tool's settings name, in their order; others that occur follow, sorted.
        """
        classes = list(dict.fromkeys([*listed, *sorted({box.name for image in self.found for box in image.boxes})]))
        for path in images_below(self.root):
            if path not in self._claimed:
                self.report("no-annotation", path, "", "no annotation names it")
                self.found.append(RawImage(path, path))
        names = list(dict.fromkeys(name for image in self.found for name in image.splits))
        if names:
            for image in self.found:
                if not image.splits and image.annotation != image.file:
                    self.report("no-split", image.annotation, "", f"{image.file.name} is in none of {', '.join(names)}")
        return Survey(str(self.root), self.found, self.findings, names, classes)

    def splits_of(self, *paths: Path) -> tuple[str, ...]:
        """Return the split that the first of these paths names by a folder or file."""
        return next(((name,) for path in paths if (name := split_of(path, self.root))), ())


def read_json(scan: FolderScan, file: Path) -> Any:
    """Return what a JSON file holds; None, and a finding, where it holds none."""
    try:
        return json.loads(read_file(file, _MOST_BYTES))
    except (UserError, ValueError, RecursionError) as error:
        reason = str(error).removeprefix(f"{file}: ")
        scan.report("unreadable-annotation", file, "", f"not readable as JSON: {reason}")
        return None


def files_below(root: Path, ending: str) -> list[Path]:
    """Return the files of one ending in a folder and below, sorted, without hidden ones."""
    return sorted(path for path in root.rglob(f"*{ending}") if not path.name.startswith(".") and path.is_file())


def looks_like(file: Path, *texts: str) -> bool:
    """Return whether a file's beginning or end holds all of these texts."""
    with file.open("rb") as opened:
        content = opened.read(_HEAD)
        opened.seek(max(_HEAD, file.stat().st_size - _END))
        content += opened.read(_END)
    return all(text.encode() in content for text in texts)


def any_like(root: Path, ending: str, *texts: str) -> bool:
    """Return whether one of the first files of an ending, at the root or two folders below, looks like a format's."""
    files = (path for pattern in ("*", "*/*", "*/*/*") for path in sorted(root.glob(f"{pattern}{ending}"))[:_LOOKED_AT])
    return any(path.is_file() and looks_like(path, *texts) for path in files)


def is_ignored(fields: Any) -> bool:
    """Return whether an object's attributes make it difficult, or a crowd."""
    return isinstance(fields, dict) and any(
        str(fields.get(name, "")).strip().lower() in ("1", "true", "yes") for name in IGNORED
    )
