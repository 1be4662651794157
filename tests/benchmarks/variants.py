"""Forty and more small datasets, each with one oddity of those that tools and people write: see ``cases``."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from written import both, coco, each, labelme, line, outline, run_lengths, via, voc, without_boxes, yolo


@dataclass(frozen=True)
class Variant:
    """One dataset."""

    write: Callable[[Path], None]
    refused: str | None = None
    skip: bool = False
    odd: bool = False


def _of(make: Callable[..., None], **options: Any) -> Variant:
    return Variant(lambda folder: make(folder, **options))


def _pixels(label: int, box: tuple[int, ...]) -> str:
    x1, y1, x2, y2 = box
    return f"{label} {(x1 + x2) / 2:g} {(y1 + y2) / 2:g} {x2 - x1} {y2 - y1}"


def _flat(folder: Path) -> None:
    yolo(folder, layout="", fields=lambda _: "")
    (folder / "classes.txt").write_text("cat\ndog\n")


def _darknet(folder: Path) -> None:
    yolo(folder, layout="obj_train_data", fields=lambda _: "", end=".png")
    (folder / "obj.names").write_text("cat\ndog\n")
    (folder / "obj.data").write_text("classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n")
    names = sorted(path.name for path in (folder / "obj_train_data").glob("*.png"))
    (folder / "train.txt").write_text("".join(f"data/obj_train_data/{name}\n" for name in names))


_SPLITS, _NAMES = "train: images/train\nval: images/val\n", "nc: 2\nnames: ['cat', 'dog']\n"
_DECOMPOSED, _COMPOSED = "Käse ü_{}", "Käse ü_{}"
VARIANTS: dict[str, Variant] = {
    "coco-string-ids": _of(
        coco,
        change=both(
            each("images", id=lambda r: str(r["id"])), each("annotations", image_id=lambda r: str(r["image_id"]))
        ),
    ),
    "coco-mixed-ids": _of(
        coco,
        change=each(
            "annotations", image_id=lambda r: float(r["image_id"]), category_id=lambda r: str(r["category_id"])
        ),
    ),
    "coco-dot-slash": _of(coco, listed=lambda split, name: f"./{name}"),
    "coco-other-machine": _of(coco, listed=lambda split, name: f"C:\\Users\\bob\\data\\{split}\\{name}"),
    "coco-absolute": _of(coco, listed=lambda split, name: f"/home/bob/data/{split}/{name}"),
    "coco-split-in-name": _of(coco, listed=lambda split, name: f"{split}/{name}"),
    "coco-upper-case": _of(coco, stored=lambda name: name.upper()),
    "coco-composed-on-disk": _of(
        coco,
        stored=lambda name: unicodedata.normalize("NFC", _COMPOSED.format(name)),
        listed=lambda split, name: unicodedata.normalize("NFD", _DECOMPOSED.format(name)),
    ),
    "coco-twice-a-class": _of(
        coco,
        change=both(
            lambda c: c["categories"].append({"id": 7, "name": "dog"}),
            each("annotations", category_id=lambda r: 7 if r["category_id"] == 2 and r["id"] % 2 else r["category_id"]),
        ),
    ),
    "coco-unused-root": _of(coco, change=lambda c: c["categories"].insert(0, {"id": 0, "name": "animals"})),
    "coco-runs": _of(coco, change=both(each("annotations", segmentation=run_lengths), without_boxes)),
    "coco-outlines": _of(coco, change=without_boxes),
    "coco-id-zero": _of(
        coco,
        change=both(
            each("images", id=lambda r: r["id"] - 1), each("annotations", image_id=lambda r: r["image_id"] - 1)
        ),
    ),
    "coco-null-fields": _of(coco, change=each("annotations", area=lambda r: None, segmentation=lambda r: [])),
    "yolo-windows": _of(yolo, ending="\r\n"),
    "yolo-mark": _of(yolo, start="\ufeff"),
    "yolo-tabs": _of(yolo, written=lambda label, box: line(label, box).replace(" ", "\t") + "  "),
    "yolo-outlines": _of(yolo, written=outline),
    "yolo-confidence": _of(yolo, written=lambda label, box: line(label, box) + " 0.87"),
    "yolo-float-classes": _of(yolo, written=lambda label, box: line(label, box).replace(" ", ".0 ", 1)),
    "yolo-of-pixels": Variant(lambda folder: yolo(folder, written=_pixels), refused="pixel"),
    "yolo-other-path": _of(yolo, fields=lambda _: f"path: /content/x\n{_SPLITS}names: {{0: cat, 1: dog}}\n"),
    "yolo-roboflow": _of(
        yolo,
        layout="{split}/images",
        fields=lambda _: f"train: ../train/images\nval: ../val/images\ntest: ../test/images\n{_NAMES}",
    ),
    "yolo-spaces": _of(yolo, stored=lambda name: f"holiday 2024 ({name.partition('.')[0]}).jpg"),
    "yolo-jfif": _of(yolo, end=".jfif", format="JPEG"),
    "yolo-capital-ending": _of(yolo, end=".JPEG", format="JPEG"),
    "yolo-webp": _of(yolo, end=".webp", lossless=True),
    "yolo-palette": _of(yolo, end=".png", mode="P"),
    "yolo-alpha": _of(yolo, end=".png", mode="RGBA"),
    "yolo-four-inks": _of(yolo, mode="CMYK"),
    "yolo-flat": Variant(_flat),
    "yolo-darknet": Variant(_darknet),
    **{f"yolo-turned-{turn}": _of(yolo, turn=turn) for turn in range(2, 9)},
    "voc-utf-16": _of(voc, encoding="utf-16"),
    "voc-latin": _of(voc, encoding="latin-1"),
    "voc-chinese": _of(voc, encoding="gb18030"),
    "voc-floats": _of(voc, box=lambda box: tuple(f"{v}.0" for v in (box[0] + 1, box[1] + 1, box[2], box[3]))),
    "voc-upside-down": _of(voc, box=lambda box: (box[2], box[3], box[0] + 1, box[1] + 1)),
    "voc-no-size": _of(voc, sized=False),
    "voc-no-ending": _of(voc, named=lambda name: name),
    "voc-other-name": _of(voc, named=lambda name: "000001.jpg"),
    "voc-spaces": _of(voc, stored=lambda name: f"my picture {name}"),
    "voc-flags": _of(voc, listed=lambda name: f"{name}  1"),
    "voc-turned": _of(voc, turn=6),
    "voc-list-with-ending": _of(voc, listed=lambda name: f"{name}.jpg"),
    "labelme-rectangles": _of(labelme),
    "labelme-polygons": _of(labelme, shape="polygon", path="..\\train\\{}"),
    "via-json": _of(via),
    "via-csv": _of(via, form="csv"),
}
"""Name → a dataset."""
