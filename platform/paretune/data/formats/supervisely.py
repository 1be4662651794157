"""Supervisely's projects: meta.json, and in each dataset ann/<image>.json with img/<image>.

Format: https://docs.supervisely.com/customization-and-integration/00_ann_format_navi; corners are pixels counted from
0, both inside the object.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from paretune.data.formats.outline_boxes import NO_BOX, Box, around, number, sides
from paretune.data.formats.tool_files import DrawnObject, FolderScan, read_json
from paretune.data.raw_annotations import RawBox, RawImage, Survey
from paretune.data.scanned_dataset import ScannedDataset

_NO_AREA = ("point", "line", "graph")
_PNG_HEADER = 64
"""Bytes that are unpacked of a mask: its size is among them."""


class Supervisely(ScannedDataset):
    """Photographs annotated with Supervisely: meta.json, train/img/a.jpg with train/ann/a.jpg.json and so on."""

    name: ClassVar[str] = "supervisely"
    layout: ClassVar[str] = "Supervisely's meta.json with ann/ and img/ in each dataset"
    to_fill_a_split: ClassVar[str] = "put some into {split}/img/, their annotations into {split}/ann/"

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """Return whether a folder is a project of Supervisely, or one of its datasets."""
        return bool(_datasets(root)) and ((root / "meta.json").is_file() or (root.parent / "meta.json").is_file())

    def survey(self) -> Survey:
        """Read every annotation; datasets named train, val or test are the splits."""
        scan = FolderScan(self.folder)
        listed = _classes(scan, self.folder)
        for dataset in dict.fromkeys(_datasets(self.folder)):
            for file in sorted((dataset / "ann").glob("*.json")):
                fields = read_json(scan, file)
                if isinstance(fields, dict) and isinstance(fields.get("objects"), list):
                    image, size = _image(scan, dataset, file), sides(fields.get("size"))
                    boxes = tuple(_boxes(scan, file, fields["objects"]))
                    scan.add(RawImage(image, file, boxes, size, splits=scan.splits_of(dataset)))
                elif fields is not None:
                    scan.report("unreadable-annotation", file, "", "expected an object with `size` and `objects`")
        return scan.survey(listed)


def _datasets(root: Path) -> list[Path]:
    """Return the folders that hold ann/ and img/; datasets may lie in one another."""
    return sorted(
        path.parent for path in [root / "ann", *root.glob("**/ann")] if (path.parent / "img").is_dir() and path.is_dir()
    )


def _classes(scan: FolderScan, root: Path) -> list[str]:
    """Return the names of the project's classes, those of points and lines left out."""
    file = next((path for path in (root / "meta.json", root.parent / "meta.json") if path.is_file()), None)
    fields = read_json(scan, file) if file else None
    entries = fields.get("classes") if isinstance(fields, dict) else None
    given = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    return [str(entry["title"]) for entry in given if "title" in entry and entry.get("shape") not in _NO_AREA]


def _image(scan: FolderScan, dataset: Path, file: Path) -> Path:
    """Return the image of an annotation: of a.jpg.json a.jpg; older projects write a.json."""
    image = scan.images.find(file.stem, [dataset / "img"]) if Path(file.stem).suffix else None
    same = [path for path in (dataset / "img").iterdir() if path.stem == file.stem]
    return image or (same[0] if len(same) == 1 else dataset / "img" / file.stem)


def _boxes(scan: FolderScan, file: Path, objects: list[Any]) -> Iterator[RawBox]:
    for index, entry in enumerate(objects):
        where = f"objects[{index}]"
        name = entry.get("classTitle") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not name.strip():
            scan.report("unreadable-annotation", file, where, "expected an object with a classTitle")
            continue
        what = str(entry.get("geometryType") or ("bitmap" if entry.get("bitmap") else "rectangle"))
        box = scan.drawn(file, where, _drawn(what, entry), what)
        if box is not None:
            yield RawBox(name.strip(), box, where)


def _drawn(what: str, entry: dict[str, Any]) -> DrawnObject:
    if what in _NO_AREA:
        return DrawnObject(None)
    if what in ("bitmap", "alpha_mask"):
        return DrawnObject(_mask(entry.get("bitmap")), exact=False)
    points = entry.get("points")
    left, top, right, bottom = around(points.get("exterior") if isinstance(points, dict) else None)
    return DrawnObject((left, top, right + 1, bottom + 1), exact=what == "rectangle")


def _mask(fields: Any) -> Box:
    """Return the box of a mask: a PNG of its own size, packed by zlib, that begins at its origin."""
    try:
        x, y = map(number, fields["origin"])
        packed = base64.b64decode(fields["data"], validate=True)
        start = zlib.decompressobj().decompress(packed, _PNG_HEADER)
        width, height = struct.unpack(">II", start[16:24])
    except (KeyError, TypeError, ValueError, binascii.Error, zlib.error, struct.error):
        return NO_BOX
    good = start[1:4] == b"PNG" and not math.isnan(x + y)
    return (x, y, x + width, y + height) if good else NO_BOX
