"""Small datasets as tools and people write them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from paretune.data import DATASETS
from paretune.data.formats.detect import format_of_folder
from paretune.data.scanned_dataset import survey_dataset

SIZE = (64, 48)
BOX = (8, 6, 24, 30)
"""x1 y1 x2 y2 in pixels, of the object in each picture."""


def cases(name):
    """A folder of PARETUNE_CASES: small inputs as real tools make them."""
    folder = os.environ.get("PARETUNE_CASES")
    if not folder or not (Path(folder) / name).is_dir():
        pytest.skip(f"PARETUNE_CASES names no folder that holds {name}")
    return Path(folder) / name


def picture(file, seed=0, size=SIZE):
    file.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    _, content = cv2.imencode(file.suffix.lower(), cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC))
    file.write_bytes(content.tobytes())


def shares(box=BOX, size=SIZE):
    """YOLO's numbers of a box."""
    (x1, y1, x2, y2), (w, h) = box, size
    return f"{(x1 + x2) / 2 / w:.8f} {(y1 + y2) / 2 / h:.8f} {(x2 - x1) / w:.8f} {(y2 - y1) / h:.8f}"


def yolo(root, line=None, *, train=6, val=3, images="images/{split}", labels="labels/{split}"):
    """Images of a cat and a dog each; ``line`` makes the first image's label file, the others hold good ones."""
    for split, count in (("train", train), ("val", val)):
        for number in range(count):
            stem = f"{split[0]}{number}"
            picture(root / images.format(split=split) / f"{stem}.jpg", hash((split, number)) % 10_000)
            file = root / labels.format(split=split) / f"{stem}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"0 {shares()}\n1 {shares((30, 10, 60, 40))}\n")
    if line is not None:
        (root / labels.format(split="train") / "t0.txt").write_text(line)
    (root / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/val\nnc: 2\nnames: [cat, dog]\n")
    return root


def coco(root, change=lambda content: None, *, train=6, val=3, name="{stem}.jpg", stored="{stem}.jpg"):
    """The same as COCO's JSON files; ``change`` is made in the content of both, names differ on disk if asked."""
    for split, count in (("train", train), ("val", val)):
        content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]}
        for number in range(1, count + 1):
            stem = f"{split[0]}{number}"
            picture(root / split / stored.format(stem=stem, split=split), number + 100 * count)
            told = name.format(stem=stem, split=split)
            content["images"].append({"id": number, "file_name": told, "width": SIZE[0], "height": SIZE[1]})
            for k, (x1, y1, x2, y2) in enumerate((BOX, (30, 10, 60, 40)), start=1):
                row = {"id": 10 * number + k, "image_id": number, "category_id": k, "iscrowd": 0}
                content["annotations"].append({**row, "bbox": [x1, y1, x2 - x1, y2 - y1]})
        change(content)
        (root / "annotations").mkdir(exist_ok=True)
        (root / f"annotations/instances_{split}.json").write_text(json.dumps(content))
    return root


def voc_text(*objects, filename="", size=SIZE):
    rows = "".join(
        f"<object><name>{name}</name><difficult>0</difficult><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>"
        f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for name, x1, y1, x2, y2 in objects
    )
    told = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    return f"<annotation><filename>{filename}</filename>{told}{rows}</annotation>"


VOC_BOX = (BOX[0] + 1, BOX[1] + 1, BOX[2], BOX[3])
"""The same box by VOC's counting: pixels from 1, both corners inside."""
OBJECTS = (("cat", *VOC_BOX), ("dog", 31, 11, 60, 40))


def voc(root, stems, lists=None, suffix=".jpg"):
    """A VOC folder; stems may have folders before them."""
    for number, stem in enumerate(stems):
        picture(root / "JPEGImages" / f"{stem}{suffix}", number)
        file = root / "Annotations" / f"{stem}.xml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(voc_text(*OBJECTS, filename=f"{Path(stem).name}{suffix}"))
    for name, text in (lists or {}).items():
        file = root / "ImageSets/Main" / f"{name}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return root


def survey_of_folder(root, form=None):
    """Read the dataset in a folder leniently, of the format that it is recognised as unless one is named."""
    return survey_dataset(DATASETS.load(format_of_folder(root, form)).model_validate({"root": str(root)}))


def opened(form, root, **fields):
    return DATASETS.load(form).model_validate({"root": str(root), **fields}).open(Path(root).parent / "cache")


def objects_of(data):
    """Every image's objects by the image's name: class, and corners to a hundredth of a pixel."""
    found = {}
    for split in data.splits.values():
        for index, name in enumerate(split.ids):
            truth = split.annotations(index)
            rows = zip(truth.labels.tolist(), truth.boxes.tolist(), strict=True)
            found[name] = sorted((data.classes[label], *(round(edge, 2) for edge in box)) for label, box in rows)
    return found


GOOD = [("cat", *map(float, BOX)), ("dog", 30.0, 10.0, 60.0, 40.0)]
"""What each picture holds."""
