"""Messages of splits without images: what would fill them, in the words of their format."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from messages.provoke import case
from tests_support_data import coco, opened, voc, yolo

DATA = Path("data")


def of(form: str, make: Callable[[Path], Any], change: Callable[[Path], Any] = lambda _: None, **fields: Any) -> None:
    change(make(DATA))
    opened(form, DATA, **fields)


def flat(root: Path) -> None:
    """Pascal VOC's annotations beside their images."""
    voc(root, "abc")
    for split, stems in (("train", "ab"), ("val", "c")):
        (root / split).mkdir()
        for file in (file for file in root.glob("*/*.*") if file.stem in stems):
            file.rename(root / split / file.name)


def spoilt(folder: str) -> Callable[[Path], Any]:
    return lambda _: [file.write_bytes(b"no image") for file in (DATA / folder).glob("*.jpg")]


def without_val(_: Any) -> None:
    (DATA / "annotations/instances_val.json").unlink()


def without_images(_: Any) -> None:
    shutil.rmtree(DATA / "images")
    (DATA / "data.yaml").write_text("names: [cat, dog]\n")


case("splits: an empty one of coco", of, "coco", lambda root: coco(root, val=0))
case("splits: all entries of coco skipped", of, "coco", coco, spoilt("val"), policy="skip")
case("splits: all entries of yolo skipped", of, "yolo", yolo, spoilt("images/val"), policy="skip")
case(
    "splits: all entries of voc_flat skipped",
    of,
    "voc_flat",
    lambda root: flat(root) or root,
    spoilt("val"),
    policy="skip",
)
case("splits: too small a share of coco", of, "coco", coco, without_val, val_share=1e-9)
case("splits: too large a share of coco", of, "coco", coco, without_val, val_share=1 - 1e-9)
case("splits: too small a share of voc", of, "voc", lambda root: voc(root, "ab", {"train": "a\nb\n"}), val_share=1e-9)
case("splits: no image of yolo", of, "yolo", yolo, without_images)
