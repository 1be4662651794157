"""Messages of datasets: folders, annotations, images, tables of boxes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from messages.provoke import case, cases, refused
from paretune.data import DATASETS
from paretune.data.conversion import write_dataset
from paretune.data.formats.detect import format_of_folder
from paretune.data.image_io import read_image
from paretune.data.splits import split_of
from tests_support_data import OBJECTS, SIZE, coco, opened, picture, shares, survey_of_folder, voc, voc_text, yolo

DATA = Path("data")


def three() -> Path:
    """Pascal VOC: a in train, b and c in val."""
    return voc(DATA, "abc", {"train": "a\n", "val": "b\nc\n"})


def of_voc(change: Callable[[Path], Any] = lambda _: None, form: str = "voc", **fields: Any) -> None:
    change(three())
    opened(form, DATA, **fields)


def listed(name: str, text: str) -> Callable[[Path], Any]:
    return lambda root: (root / f"ImageSets/Main/{name}.txt").write_text(text)


def annotated(content: str | bytes) -> Callable[[Path], Any]:
    body = content if isinstance(content, bytes) else content.encode()
    return lambda root: (root / "Annotations/b.xml").write_bytes(body)


def boxed(*box: object) -> Callable[[Path], Any]:
    return annotated(voc_text(("cat", *box)))


def two_endings(root: Path) -> None:
    picture(root / "JPEGImages/b.png", 77)
    annotated(voc_text(*OBJECTS, filename="other.jpg"))(root)


def without_objects(root: Path) -> None:
    for stem in "abc":
        (root / f"Annotations/{stem}.xml").write_text(voc_text())


cases(
    "voc",
    of_voc,
    {
        "a missing image": (lambda root: (root / "JPEGImages/b.jpg").unlink(),),
        "XML that is cut off": (annotated("<annotation><object>"),),
        "bytes that are no XML": (annotated(b"\xff\xfe\x00garbage"),),
        "another document": (annotated("<html></html>"),),
        "an empty file": (annotated(""),),
        "entities": (annotated('<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>'),),
        "bytes that are not as declared": (
            annotated(b'<?xml version="1.0" encoding="utf-8"?><annotation>\xff</annotation>'),
        ),
        "bytes without a declaration": (annotated("<annotation><name>猫</name></annotation>".encode("gbk") + b"\xff"),),
        "an encoding that is none": (annotated('<?xml version="1.0" encoding="klingon"?><annotation/>'),),
        "entities in UTF-7": (
            annotated(b'<?xml version="1.0" encoding="utf-7"?><annotation>+ADwAIQ-DOCTYPE a+AD4-</annotation>'),
        ),
        "entities in UTF-16": (
            annotated('<?xml version="1.0" encoding="utf-16"?><!DOCTYPE a []><annotation/>'.encode("utf-16")),
        ),
        "an encoding that takes for ever": (
            annotated(b'<?xml version="1.0" encoding="punycode"?><annotation/>' + b"a" * 10**6),
        ),
        "no class": (annotated("<annotation><object><bndbox/></object></annotation>"),),
        "no box": (annotated("<annotation><object><name>cat</name></object></annotation>"),),
        "a corner that is a text": (boxed(1, "x", 3, 4),),
        "a corner that is not a number": (boxed(1, "nan", 3, 4),),
        "a file of 10 MB": (annotated(b" " * 10_000_001),),
        "a line of a list that means nothing": (listed("val", "b\nzebra\n"),),
        "a line of a list with another flag": (listed("val", "b\nc 7\n"),),
        "a list in another encoding": (lambda root: (root / "ImageSets/Main/val.txt").write_bytes(b"\xe9"),),
        "an image twice in a list": (listed("val", "b\nc\nb\n"),),
        "an image in two splits": (listed("val", "b\na\n"),),
        "an empty split": (listed("val", ""),),
        "no list to train on": (lambda root: (root / "ImageSets/Main/train.txt").unlink(),),
        "no objects": (without_objects,),
        "a file that is no image": (lambda root: (root / "JPEGImages/b.jpg").write_bytes(b"not an image"),),
        "two images that fit": (two_endings,),
    },
)
case("voc: a list that is not there", of_voc, val="vla")
case("voc: a list of test that is not there", of_voc, test="extra")
case("voc: an unknown class", of_voc, classes=["cat", "dogs"])
case("voc: one list for val and test", of_voc, listed("holdout", "c\n"), val="holdout", test="holdout")
case("voc: no such folder", opened, "voc", "lost")
case("voc: the folder of nobody", opened, "voc", "~nobody-of-this-name/voc")


def half_a_folder() -> None:
    (DATA / "Annotations").mkdir(parents=True)
    opened("voc", DATA)


def half_a_folder_to_check() -> None:
    (DATA / "Annotations").mkdir(parents=True)
    survey_of_folder(DATA, "voc")


def empty_folders() -> None:
    for name in ("Annotations", "JPEGImages"):
        (DATA / name).mkdir(parents=True)
    opened("voc", DATA)


case("voc: half of its folders", half_a_folder)
case("data check: half of the folders", half_a_folder_to_check)
case("voc: empty folders", empty_folders)


# --- COCO ----------------------------------------------------------------------------------------------


def of_coco(change: Callable[[dict[str, Any]], Any], **fields: Any) -> None:
    opened("coco", coco(DATA, change), **fields)


def twice(content: dict[str, Any]) -> None:
    first = content["images"][0]
    content["images"].append({**first, "id": 99, "file_name": "./" + first["file_name"]})


def scaled(content: dict[str, Any]) -> None:
    for row in content["annotations"]:
        row["bbox"] = [value / SIZE[number % 2] for number, value in enumerate(row["bbox"])]


def cornered(content: dict[str, Any]) -> None:
    for row in content["annotations"]:
        x, y, w, h = row["bbox"]
        row["bbox"] = [x, y, x + w, y + h]


cases(
    "coco",
    of_coco,
    {
        "an image listed twice": (twice,),
        "an unknown category": (lambda content: content["annotations"][0].update(category_id=99),),
        "a box with NaN": (lambda content: content["annotations"][0].update(bbox=[1, 2, float("nan"), 4]),),
        "an object of no image": (lambda content: content["annotations"][0].update(image_id=99),),
        "a category twice": (lambda content: content["categories"].append({"id": 1, "name": "cow"}),),
        "no box": (lambda content: content["annotations"][0].pop("bbox"),),
        "a missing image": (lambda content: content["images"][0].update(file_name="lost.jpg"),),
        "shares in place of pixels": (scaled,),
        "second corners in place of width and height": (cornered,),
    },
)
case("coco: a class that is not among those asked for", of_coco, lambda _: None, classes=["dog"])


def a_name_of_two_files() -> None:
    coco(DATA, name="{stem}.JPG")
    picture(DATA / "train/T1.jpg")
    opened("coco", DATA)


def three_splits() -> None:
    coco(DATA)
    (DATA / "annotations/instances_train.json").unlink()
    opened("coco", DATA)


case("coco: another layout", lambda: opened("coco", yolo(DATA)))
case("coco: a name that fits two files", a_name_of_two_files)
case("coco: no split to train on", three_splits)


# --- YOLO ----------------------------------------------------------------------------------------------


def of_yolo(line: str | None = None, described: str | None = None, **fields: Any) -> None:
    yolo(DATA, line)
    if described is not None:
        (DATA / "data.yaml").write_text(described)
    opened("yolo", DATA, **fields)


BOTH = "train: images/train\nval: images/val\nnames: [cat, dog]\n"
cases(
    "yolo",
    of_yolo,
    {
        "too few words": (f"0 {shares()}\n0 0.5 0.5\n",),
        "a share that is a text": ("0 0.5 x 0.1 0.1\n",),
        "another class": (f"7 {shares()}\n",),
        "a class that is a text": (f"cat {shares()}\n",),
        "no val": (None, "train: images/train\nval: lost/val\nnames: [cat, dog]\n"),
        "a description that is no YAML": (None, "names: [cat\n"),
    },
)
case("yolo: a test split that is not there", of_yolo, None, BOTH + "test: lost\n", test="test")
case("yolo: an empty val by shares", of_yolo, None, "train: images/train\nnames: [cat, dog]\n", val_share=1e-9)
case("yolo: an empty train by shares", of_yolo, None, "train: images/train\nnames: [cat, dog]\n", val_share=1 - 1e-9)


def in_pixels() -> None:
    yolo(DATA)
    for file in DATA.glob("labels/train/*.txt"):
        file.write_text("0 16 18 16 24\n1 45 25 30 30\n")
    opened("yolo", DATA)


def two_images_of_a_label() -> None:
    yolo(DATA)
    picture(DATA / "images/train/t0.png", 99)
    opened("yolo", DATA)


def a_split_that_is_named_only() -> None:
    yolo(DATA)
    (DATA / "data.yaml").write_text(BOTH + "test: lost/images\n")
    split_of(opened("yolo", DATA), "test")


case("yolo: pixels in place of shares", in_pixels)
case("yolo: two images of one label", two_images_of_a_label)
case("yolo: a split that is named and not there", a_split_that_is_named_only)


# --- other formats, images, conversion -----------------------------------------------------------------


def via(**fields: Any) -> None:
    attributes = {"colour": "red", "age": "3"}
    region = {"shape_attributes": {"name": "rect", "x": 3, "y": 4, "width": 6, "height": 8}}
    picture(DATA / "x.jpg")
    entry = {"filename": "x.jpg", "regions": [{**region, "region_attributes": attributes}]}
    (DATA / "via.json").write_text(json.dumps({"x.jpg1": entry}))
    opened("via", DATA, **fields)


def no_layout() -> None:
    picture(DATA / "a.jpg")
    format_of_folder(DATA)


def checked(*words: str) -> str:
    Path("empty").mkdir()
    Path("a.json").write_text("{}")
    Path("a.yaml").write_text("hello: 1\n")
    return refused("data", "check", *words)


def image(pixels: Any) -> None:
    if pixels is not None:
        cv2.imwrite("a.tif", pixels)
    read_image(Path("a.tif"))


GREY = np.arange(48, dtype=np.uint8).reshape(6, 8)
case("via: several attributes", via)
case("via: an attribute that is not there", via, attribute="size")
case("layouts: none", no_layout)
cases(
    "data check",
    checked,
    {
        "nothing in the folder": ("empty",),
        "a misspelt format": ("empty", "--from", "vocc"),
        "a JSON file": ("a.json",),
        "a file that is no description": ("a.yaml",),
    },
)
cases(
    "images",
    image,
    {
        "no file": (None,),
        "floats up to 255": (GREY.astype(np.float32),),
        "negative floats": (GREY.astype(np.float32) / 48 - 0.5,),
        "floats that are not numbers": (np.where(GREY > 40, np.nan, GREY / 48).astype(np.float32),),
        "32 bits": (GREY.astype(np.int32),),
        "16 bits with a sign": (GREY.astype(np.int16),),
    },
)


def table(rows: str) -> str:
    picture(Path("pictures/a.jpg"))
    Path("t.csv").write_text(f"class,filename,width,height,xmin,ymin,xmax,ymax\n{rows}\n")
    return refused("data", "annotate", "pictures", "new", "--to", "coco", "--from-csv", "t.csv")


cases(
    "table",
    table,
    {
        "another image": ("cat,c.jpg,64,48,1,2,30,40",),
        "a corner that is a text": ("cat,a.jpg,64,48,1,2,x,40",),
        "no area": ("cat,a.jpg,64,48,9,2,1,40",),
        "no class": (",a.jpg,64,48,1,2,3,40",),
        "a box outside": ("cat,a.jpg,64,48,70,10,90,20",),
        "a quote that is not closed": ('cat,"a.jpg,64,48,1,2,3,40\n' + "cat,a.jpg,64,48,1,2,3,40\n" * 7000,),
    },
)


def convert(*words: str) -> str:
    yolo(DATA)
    Path("full").mkdir()
    Path("full/mine").touch()
    return refused("data", words[0], "data", *words[1:])


cases(
    "data convert",
    convert,
    {
        "a folder that holds something": ("convert", "full", "--to", "coco"),
        "no share for train": ("split", "new", "--val", "0.9", "--test", "0.2"),
        "an empty share": ("split", "new", "--val", "0.000001", "--test", "0"),
    },
)
case("data convert: a misspelt format", lambda: write_dataset(opened("yolo", yolo(DATA)), Path("new"), "coko"))


def fields(form: str, given: dict[str, Any]) -> None:
    DATASETS.load(form).model_validate(given)


cases(
    "dataset fields",
    fields,
    {
        "a class twice": ("voc", {"root": "x", "classes": ["a", "a"]}),
        "no classes": ("voc", {"root": "x", "classes": []}),
        "no share for train": ("voc", {"root": "x", "val_share": 0.6, "test_share": 0.5}),
        "no share for val": ("voc", {"root": "x", "val_share": 0.0}),
        "pictures that are too small": ("shapes", {"size": "16x16"}),
        "a difficulty above 1": ("shapes", {"difficulty": 1.1}),
    },
)
