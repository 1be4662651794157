"""Data that has one reading is read that way, told and counted: names, ids, encodings, geometry. One reader for all."""

from __future__ import annotations

import json
import shutil
import unicodedata
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask
from pycocotools.coco import COCO

from paretune.cli.main import main
from paretune.core.errors import UserError
from paretune.data.checks.report import checked_dataset
from paretune.data.formats.coco import Coco
from paretune.data.formats.coco_json import as_text, box_of_segmentation, flag_of, id_of
from paretune.data.formats.filenames import FileFinder, NameIndex
from paretune.data.formats.voc import Voc, VocFlat
from paretune.data.formats.voc_xml import decoded
from paretune.data.formats.yolo import YoloFolder, corners_of
from tests_support_data import BOX, GOOD, OBJECTS, SIZE, cases, coco, objects_of, opened, picture, shares, voc, voc_text
from tests_support_data import yolo as yolo_folder


def told(data, words):
    (note,) = [note for note in data.notes if words in note]
    return int(note.split()[0])


def counts_of(dataset):
    with checked_dataset(dataset) as report:
        return report.counts, report.hinders


# --- names ------------------------------------------------------------------------------------------

NAMES = {
    "backslash": ("{split}\\{stem}.jpg", "{stem}.jpg"),
    "decomposed on disk": ("Käse {stem}.jpg", unicodedata.normalize("NFD", "Käse {stem}.jpg")),
    "decomposed in the file": (unicodedata.normalize("NFD", "한국{stem}.jpg"), "한국{stem}.jpg"),
    "capitals": ("{stem}.JPG", "{stem}.jpg"),
    "another machine": ("C:\\Users\\me\\{split}\\{stem}.jpg", "{stem}.jpg"),
    "another system": ("/content/data/{split}/{stem}.jpg", "{stem}.jpg"),
    "a dot": ("./{stem}.jpg", "{stem}.jpg"),
    "yen": ("{split}\u00a5{stem}.jpg", "{stem}.jpg"),
}


@pytest.mark.parametrize("way", NAMES)
def test_images_are_found_by_the_only_name_that_fits(tmp_path, way):
    name, stored = NAMES[way]
    data = opened("coco", coco(tmp_path / "in", name=name, stored=stored))
    assert list(objects_of(data).values()) == [GOOD] * 9
    if way != "a dot":
        assert told(data, "are named otherwise") == 9
        counts, hinders = counts_of(Coco(root=str(tmp_path / "in")))
        assert (counts, hinders) == ({"other-name": 9}, False)


def test_labels_are_found_by_name_and_capitals(tmp_path):
    root = yolo_folder(tmp_path / "in")
    composed, apart = unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é")
    (root / "images/train/t0.jpg").rename(root / f"images/train/{composed}.jpg")
    (root / "labels/train/t0.txt").rename(root / f"labels/train/{apart}.txt")
    (root / "labels/train/t1.txt").rename(root / "labels/train/T1.TXT")
    data = opened("yolo", root)
    assert list(objects_of(data).values()) == [GOOD] * 9
    assert told(data, "are named otherwise") == 2


def test_lists_of_images_may_come_from_windows(tmp_path):
    root = yolo_folder(tmp_path / "in")
    names = sorted(path.name for path in (root / "images/train").iterdir())
    (root / "train.txt").write_text("\r\n".join(f"D:\\data\\images\\train\\{name}" for name in names))
    (root / "data.yaml").write_text("train: train.txt\nval: images\\val\nnames: [cat, dog]\n")
    data = opened("yolo", root)
    assert len(data.splits["train"]) == 6
    assert told(data, "are named otherwise") == 6


def test_folders_of_another_machine_are_found_below_the_description(tmp_path):
    root = yolo_folder(tmp_path / "in")
    (root / "data.yaml").write_text("train: /content/set/images/train\nval: C:\\set\\images\\val\nnames: [cat, dog]\n")
    data = opened("yolo", root)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 6, "val": 3}
    assert told(data, "are named otherwise") == 2


def test_a_file_is_found_exactly_before_it_is_found_otherwise(tmp_path):
    for name in ("a.jpg", "A.jpg", "b.jpg", "x/C.jpg"):
        picture(tmp_path / name)
    finder = FileFinder()
    assert finder.find(tmp_path, "a.jpg") == tmp_path / "a.jpg"
    assert finder.find(tmp_path, "A.JPG") is None
    assert finder.find(tmp_path, "B.jpg") == tmp_path / "b.jpg"
    assert finder.find(tmp_path, "X\\c.JPG") == tmp_path / "x/C.jpg"
    assert finder.find(tmp_path, "x") is None
    assert finder.find(tmp_path, "\0") is None
    assert finder.find(tmp_path, "n" * 5000) is None
    assert finder.end_of(tmp_path, "Z:\\q\\x\\C.jpg") == tmp_path / "x/C.jpg"


@given(st.lists(st.text("aAäÄ\u0308e", max_size=4)), st.text("aAäÄ\u0308e", max_size=4))
def test_a_name_is_found_where_exactly_one_is_alike(names, wanted):
    found = NameIndex(names).find(wanted)
    if wanted in names:
        assert found == wanted
    elif found is not None:
        key = unicodedata.normalize("NFC", unicodedata.normalize("NFC", wanted).casefold())
        assert unicodedata.normalize("NFC", unicodedata.normalize("NFC", found).casefold()) == key


# --- VOC: lists, file names, encodings ---------------------------------------------------------------


def test_names_with_spaces_folders_and_flags_in_lists(tmp_path):
    stems = ["a b", "day 1/c d", "day 2/c d", "e", "f"]
    lists = {"train": "a b 1\nday 1\\c d  1\nf -1\n", "val": "day 2/c d\ne.jpg\n"}
    root = voc(tmp_path / "in", stems, lists)
    data = opened("voc", root)
    assert [file.relative_to(root).as_posix() for file in data.splits["train"].files] == [
        "JPEGImages/a b.jpg",
        "JPEGImages/day 1/c d.jpg",
    ]
    assert [file.stem for file in data.splits["val"].files] == ["c d", "e"]
    assert [(entry.what, entry.count, entry.why) for entry in data.left_out] == [
        ("images", 1, "without the class by the flag in its list")
    ]


def test_a_class_list_names_the_images_that_hold_the_class(tmp_path):
    lists = {"cat_train": "a  1\nb -1\nc  0\n", "cat_val": "d  1\ne -1\n"}
    root = voc(tmp_path / "in", "abcde", lists)
    data = opened("voc", root, train="cat_train", val="cat_val")
    assert {name: list(split.ids) for name, split in data.splits.items()} == {"train": ["a", "c"], "val": ["d"]}
    assert [entry.count for entry in data.left_out] == [2]
    counts, hinders = counts_of(Voc(root=str(root), train="cat_train", val="cat_val"))
    assert (counts, hinders) == ({"other-class": 2}, False)


def test_lists_and_labels_may_be_in_utf_16(tmp_path):
    root = voc(tmp_path / "in", ["é", "b", "c"], {"val": "c\n"})
    (root / "ImageSets/Main/train.txt").write_text("é\r\nb\r\n", encoding="utf-16")
    assert list(opened("voc", root).splits["train"].ids) == ["é", "b"]
    (root / "ImageSets/Main/train.txt").write_bytes("é".encode("latin-1"))
    with pytest.raises(UserError, match=r"train\.txt: 'utf-8' codec"):
        opened("voc", root)
    root = yolo_folder(tmp_path / "more")
    for file in root.glob("labels/*/*.txt"):
        file.write_text(file.read_text(), encoding="utf-16")
    assert list(objects_of(opened("yolo", root)).values()) == [GOOD] * 9


def test_the_file_name_in_the_annotation_decides_between_endings(tmp_path):
    root = voc(tmp_path / "in", "abcd", {"train": "a\nb\nc\n", "val": "d\n"})
    picture(root / "JPEGImages/a.png", 77)
    data = opened("voc", root)
    assert [file.name for file in data.splits["train"].files] == ["a.jpg", "b.jpg", "c.jpg"]
    assert told(data, "their <filename> decided") == 1
    assert [(e.what, e.count) for e in data.left_out] == [("images", 1)]
    counts, hinders = counts_of(Voc(root=str(root)))
    assert (counts, hinders) == ({"same-stem": 1, "no-annotation": 1}, False)
    (root / "Annotations/a.xml").write_text(voc_text(*OBJECTS, filename="other.jpg"))
    with pytest.raises(UserError, match=r"a\.xml: it fits a\.jpg, a\.png, and its <filename> 'other\.jpg' is none of"):
        opened("voc", root)
    assert counts_of(Voc(root=str(root)))[1]


@pytest.mark.parametrize("flat", [False, True])
def test_an_annotation_finds_its_image_by_the_file_name_alone(tmp_path, flat):
    root = voc(tmp_path / "in", "abcd", {"train": "a\nb\nc\n", "val": "d\n"})
    (root / "JPEGImages/a.jpg").rename(root / "JPEGImages/IMG 1.jpg")
    (root / "Annotations/a.xml").write_text(voc_text(*OBJECTS, filename="C:\\x\\IMG 1.jpg"))
    if flat:
        for split, stems in (("train", "abc"), ("val", "d")):
            (root / split).mkdir()
            for file in [*root.glob("*/*.xml"), *root.glob("*/*.jpg")]:
                if file.stem in stems or (split == "train" and file.stem == "IMG 1"):
                    file.rename(root / split / file.name)
    assert not Voc(root=str(root)).problems() or flat
    data = opened("voc_flat" if flat else "voc", root)
    assert {file.name for file in data.splits["train"].files} == {"IMG 1.jpg", "b.jpg", "c.jpg"}
    assert list(objects_of(data).values()) == [GOOD] * 4
    assert told(data, "are named otherwise") == 1


ENCODINGS = {
    "gbk": ("猫", "GBK"),
    "gb2312 by name": ("喆", "gb2312"),  # not in GB 2312, in what is written under its name
    "utf-16": ("猫", "utf-16"),
    "utf-16 big": ("猫", "utf-16-be"),
    "utf-32": ("猫", "utf-32"),
    "latin-1": ("chien é", "ISO-8859-1"),
    "windows-1251": ("дом", "windows-1251"),
    "shift_jis": ("猫", "Shift_JIS"),
    "euc-kr": ("고양이", "EUC-KR"),
    "big5": ("貓", "Big5"),
    "utf-8": ("猫", "utf-8"),
    "mark": ("猫", "utf-8-sig"),
}


@pytest.mark.parametrize("way", ENCODINGS)
def test_xml_is_decoded_as_it_declares(tmp_path, way):
    name, encoding = ENCODINGS[way]
    root = voc(tmp_path / "in", "abc", {"train": "a\nb\n", "val": "c\n"})
    text = f'<?xml version="1.0" encoding="{encoding.removesuffix("-sig").removesuffix("-be")}"?>'
    text += voc_text((name, 9, 7, 24, 30))
    for stem in "abc":
        (root / f"Annotations/{stem}.xml").write_bytes(text.encode({"gb2312": "gb18030"}.get(encoding, encoding)))
    data = opened("voc", root)
    assert data.classes == (name,)
    assert not data.notes


def test_a_declaration_of_utf_16_in_utf_8_is_read():
    assert decoded(b'<?xml version="1.0" encoding="utf-16"?><annotation/>').endswith("<annotation/>")


def test_corners_the_wrong_way_round_are_turned_by_every_reader(tmp_path, capsys):
    root = voc(tmp_path / "in", "abcd", {"train": "a\nb\nc\n", "val": "d\n"})
    (x1, y1, x2, y2), (_, *dog) = OBJECTS[0][1:], OBJECTS[1]
    for number, corners in enumerate([(x2, y2, x1, y1), (x2, y1, x1, y2), (x1, y2, x2, y1)]):
        (root / f"Annotations/{'abc'[number]}.xml").write_text(voc_text(("cat", *corners), ("dog", *dog)))
    data = opened("voc", root)
    assert list(objects_of(data).values()) == [GOOD] * 4
    assert told(data, "corners the wrong way round") == 3
    assert data.left_out == ()
    assert counts_of(Voc(root=str(root))) == ({"inverted-box": 3}, False)
    flat = tmp_path / "flat"
    flat.mkdir()
    for file in [*root.glob("*/*.xml"), *root.glob("*/*.jpg")]:
        shutil.copy(file, flat)
    assert list(objects_of(opened("voc_flat", flat, val_share=0.5)).values()) == [GOOD] * 4
    assert main(["data", "convert", str(root), str(tmp_path / "out"), "--to", "coco"]) == 0
    assert "3 boxes have their corners the wrong way round" in capsys.readouterr().out
    assert list(objects_of(opened("coco", tmp_path / "out")).values()) == [GOOD] * 4


@pytest.mark.parametrize("form", ["coco", "yolo"])
def test_negative_widths_are_corners_the_wrong_way_round(tmp_path, form):
    def turned(content):
        for row in content["annotations"]:
            x, y, w, h = row["bbox"]
            row["bbox"] = [x + w, y + h, -w, -h]

    root = tmp_path / "in"
    if form == "coco":
        data = opened("coco", coco(root, turned))
        assert told(data, "corners the wrong way round") == 18
    else:
        cx, cy, w, h = shares().split()
        data = opened("yolo", yolo_folder(root, f"0 {cx} {cy} -{w} {h}\n1 {shares((30, 10, 60, 40))}\n"))
        assert told(data, "corners the wrong way round") == 1
    assert list(objects_of(data).values()) == [GOOD] * 9


# --- YOLO: lines ------------------------------------------------------------------------------------

CAT, DOG = f"0 {shares()}", f"1 {shares((30, 10, 60, 40))}"
POINTS = [(8, 18), (16, 6), (24, 12), (20, 30), (10, 28)]


def polygon(points=POINTS, size=SIZE):
    return " ".join(f"{x / size[0]:.8f} {y / size[1]:.8f}" for x, y in points)


LINES = {
    "polygon": (f"0 {polygon()}\n{DOG}\n", "read as their enclosing boxes"),
    "triangle": (f"0 {polygon([(8, 6), (24, 6), (16, 30)])}\n{DOG}\n", "read as their enclosing boxes"),
    "turned box": (f"0 {polygon([(8, 18), (16, 6), (24, 18), (16, 30)])}\n{DOG}\n", "read as their enclosing boxes"),
    "confidence": (f"{CAT} 0.91\n{DOG}\n", "numbers behind them"),
    "confidence 1": (f"{CAT} 1\n{DOG}\n", "numbers behind them"),
    "track": (f"{CAT} 17\n{DOG}\n", "numbers behind them"),
    "confidence and track": (f"{CAT} 0.9 17\n{DOG}\n", "numbers behind them"),
    "float class": (f"0.0 {shares()}\n1.000000000000000000e+00 {shares((30, 10, 60, 40))}\n", None),
    "exponents": ("0 2.5e-1 3.75e-1 2.5e-1 5e-1\n" + DOG, None),
    "windows": (f"{CAT}\r\n\r\n{DOG}  \r\n", None),
    "mark": (f"\ufeff{CAT}\n{DOG}", None),
}


@pytest.mark.parametrize("way", LINES)
def test_lines_of_yolo_that_have_one_reading(tmp_path, way):
    line, words = LINES[way]
    root = yolo_folder(tmp_path / "in", line)
    data = opened("yolo", root)
    assert list(objects_of(data).values()) == [GOOD] * 9
    assert data.left_out == ()
    assert (told(data, words) == 1) if words else not data.notes
    assert counts_of(YoloFolder(root=str(root)))[1] is False


@pytest.mark.parametrize(
    "line",
    [
        "0 0.5 0.5",
        "0 0.1 0.1 0.2 0.1 7.5",
        "0 0.1 0.1 0.2 0.1 -0.5",
        "0.5 0.5 0.5 0.1 0.1",
        "-1 0.5 0.5 0.1 0.1",
        "nan 0.5 0.5 0.1 0.1",
        "1_0 0.5 0.5 0.1 0.1",
        "0,0.5,0.5,0.1,0.1",
        "0 0.1 0.1 0.2 0.1 0.2 0.2 0.4",
    ],
)
def test_lines_of_yolo_that_have_none(line):
    corners, kind, _ = corners_of(line.split())
    assert (corners, kind) == (None, "unreadable-annotation")


def test_keypoints_behind_a_box_are_not_a_polygon(tmp_path):
    root = yolo_folder(tmp_path / "in")
    for file in root.glob("labels/*/*.txt"):
        file.write_text("".join(f"{line} 0.1 0.1 0.9 0.8\n" for line in file.read_text().splitlines()))
    text = (root / "data.yaml").read_text()
    (root / "data.yaml").write_text(text + "kpt_shape: [2, 2]\n")
    data = opened("yolo", root)
    assert list(objects_of(data).values()) == [GOOD] * 9
    assert told(data, "numbers behind them") == 18


@given(
    st.lists(st.tuples(st.floats(0, 1, width=16), st.floats(0, 1, width=16)), min_size=3, max_size=9),
)
def test_the_box_of_a_polygon_is_that_of_its_points(points):
    words = ["3", *(str(value) for point in points for value in point)]
    corners, kind, _ = corners_of(words)
    array = np.array(points)
    assert kind == "polygon"
    assert corners == (*array.min(axis=0), *array.max(axis=0))


# --- YOLO: the description ----------------------------------------------------------------------------


def test_the_description_itself_can_be_named(tmp_path, capsys, monkeypatch):
    root = yolo_folder(tmp_path / "my data (v2) é")
    (root / "data.yaml").write_text(
        "train: ../images/train\nval: ../images/val\ntest: ../test/images\nnc: 3\nnames: [cat, dog]\n"
    )
    assert main(["data", "check", str(root / "data.yaml")]) == 0
    said = capsys.readouterr().out
    assert "missing-split" in said
    assert "class-count" in said
    assert "nothing hinders training" in said
    monkeypatch.chdir(root)
    assert main(["data", "check", "data.yaml"]) == 0
    assert main(["data", "convert", "data.yaml", str(tmp_path / "out"), "--to", "coco"]) == 0
    said = capsys.readouterr().out
    assert "splits are named and not there" in said
    assert "not that of their names" in said
    assert list(objects_of(opened("coco", tmp_path / "out")).values()) == [GOOD] * 9
    (root / "other.yml").write_text("train: images/val\nval: images/train\nnames: [cat, dog]\n")
    data = YoloFolder(root=str(root / "other.yml")).open(tmp_path)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 3, "val": 6}
    assert "test" not in opened("yolo", root).splits


# --- COCO: ids, classes, segmentations -----------------------------------------------------------------


def each(key, change):
    def do(content):
        for row in content[key]:
            change(row)

    return do


def as_floats(row):
    row.update({k: float(v) for k, v in row.items() if k.endswith("id")})


def as_texts(row):
    row.update({k: str(v) for k, v in row.items() if k.endswith("id")})


def all_texts(content):
    for key in ("images", "annotations", "categories"):
        each(key, as_texts)(content)


def from_zero(content):
    for key, names in (("images", ["id"]), ("categories", ["id"]), ("annotations", ["image_id", "category_id"])):
        for row in content[key]:
            row.update({name: row[name] - 1 for name in names})


IDS = {
    "floats": (each("annotations", as_floats), None),
    "floats of images": (each("images", as_floats), None),
    "texts": (all_texts, None),
    "texts of annotations": (each("annotations", as_texts), 36),
    "texts of floats": (each("annotations", lambda row: (as_floats(row), as_texts(row))), 36),
    "flags as texts": (each("annotations", lambda row: row.update(iscrowd="0")), None),
    "numbers as texts": (each("annotations", lambda row: row.update(bbox=[str(v) for v in row["bbox"]])), None),
    "no flags": (each("annotations", lambda row: row.pop("iscrowd")), None),
    "from 0": (from_zero, None),
}


@pytest.mark.parametrize("way", IDS)
def test_ids_of_coco_as_programs_write_them(tmp_path, way):
    change, alike = IDS[way]
    data = opened("coco", coco(tmp_path / "in", change))
    assert list(objects_of(data).values()) == [GOOD] * 9
    assert (told(data, "taken for the same") == alike) if alike else not data.notes
    assert not any(data.splits["train"].annotations(0).ignore)


@pytest.mark.parametrize(("value", "crowd"), [("1", True), (1.0, True), (True, True), ("true", True), ("0.0", False)])
def test_a_crowd_is_one_however_it_is_written(tmp_path, value, crowd):
    root = coco(tmp_path / "in", lambda content: content["annotations"][0].update(iscrowd=value))
    assert opened("coco", root).splits["train"].annotations(0).ignore.tolist() == [crowd, False]


def test_ids_are_compared_as_texts_only_where_one_fits():
    assert [id_of(value) for value in (1, 1.0, "1", True, 1.5, None, [1])] == [1, 1, "1", None, None, None, None]
    assert [as_text(value) for value in (1, "1", "1.0", "1.5", "a", " 1 ")] == ["1", "1", "1", "1.5", "a", "1"]
    assert [flag_of(value) for value in (None, "", 0, 1, "1", "yes", 2, "1.0")] == [
        False, False, False, True, True, None, None, True,
    ]  # fmt: skip


def root_first(content, name):
    content["categories"] = [
        {"id": 0, "name": name, "supercategory": "none"},
        {"id": 1, "name": "cat", "supercategory": name},
        {"id": 2, "name": "dog", "supercategory": name},
    ]


@pytest.mark.parametrize("name", ["dog", "animals"])
def test_a_category_that_only_stands_above_others_is_no_class(tmp_path, name):
    root = coco(tmp_path / "in", lambda content: root_first(content, name))
    data = opened("coco", root)
    assert data.classes == ("cat", "dog")
    assert list(objects_of(data).values()) == [GOOD] * 9
    assert told(data, "categories above others are no class") == 2
    assert counts_of(Coco(root=str(root)))[1] is False


def test_so_is_one_with_the_id_0_that_nothing_is_of(tmp_path):
    root = coco(tmp_path / "in", lambda content: content["categories"].insert(0, {"id": 0, "name": "animals"}))
    data = opened("coco", root)
    assert (data.classes, data.gaps) == (("cat", "dog"), ())
    assert told(data, "categories above others are no class") == 2


def test_a_category_above_others_that_objects_are_of_stays_a_class(tmp_path):
    def some_of_it(content):
        root_first(content, "animals")
        content["annotations"][0]["category_id"] = 0

    assert opened("coco", coco(tmp_path / "in", some_of_it)).classes == ("animals", "cat", "dog")


def test_two_ids_of_one_name_are_one_class(tmp_path):
    def twice(content):
        content["categories"].append({"id": 7, "name": "dog"})
        content["annotations"][1]["category_id"] = 7

    data = opened("coco", coco(tmp_path / "in", twice))
    assert data.classes == ("cat", "dog")
    assert list(objects_of(data).values()) == [GOOD] * 9
    assert told(data, "they are one class") == 2


def runs(box, *, compressed):
    x1, y1, x2, y2 = box
    shape = np.zeros((SIZE[1], SIZE[0]), np.uint8, order="F")
    shape[y1:y2, x1:x2] = 1
    if compressed:
        found = mask.encode(shape)
        return {"size": found["size"], "counts": found["counts"].decode()}
    flat = shape.flatten(order="F")
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [0]])))
    return {"size": [SIZE[1], SIZE[0]], "counts": np.diff([0, *edges, len(flat)]).tolist()}


def corners(box):
    x1, y1, x2, y2 = box
    return [x1, y1, x2, y1, x2, y2, x1, y2]


OUTLINES = {
    "polygon": lambda box: [corners(box)],
    "flat polygon": corners,
    "two polygons": lambda box: [corners((*box[:3], box[1] + 2)), corners((box[0], box[3] - 2, *box[2:]))],
    "runs": lambda box: runs(box, compressed=False),
    "compressed runs": lambda box: runs(box, compressed=True),
}


@pytest.mark.parametrize("bbox", ["missing", None, [], [0, 0, 0, 0]])
@pytest.mark.parametrize("way", OUTLINES)
def test_the_box_of_a_segmentation(tmp_path, way, bbox):
    def outlined(row):
        x, y, w, h = row.pop("bbox")
        row["segmentation"] = OUTLINES[way]((x, y, x + w, y + h))
        if bbox != "missing":
            row["bbox"] = bbox

    root = coco(tmp_path / "in", each("annotations", outlined))
    data = opened("coco", root)
    assert list(objects_of(data).values()) == [GOOD] * 9
    assert told(data, "have that of their segmentation") == 18
    assert counts_of(Coco(root=str(root))) == ({"segmentation": 18}, False)


@given(st.lists(st.integers(0, 1), min_size=12, max_size=12).filter(any))
def test_boxes_of_runs_are_those_of_pycocotools(pixels):
    shape = np.asfortranarray(np.array(pixels, np.uint8).reshape(3, 4))
    encoded = mask.encode(shape)
    x, y, w, h = mask.toBbox(encoded)
    told = {"size": [3, 4], "counts": encoded["counts"].decode()}
    assert box_of_segmentation(told) == (x, y, x + w, y + h)


@pytest.mark.parametrize(
    "told",
    [
        [], [[]], [[1, 2, 3, 4]], [[1, 2, 3, 4, 5]], [[1, 2, 3, 4, 5, "x"]], "text", 7, {"size": [3, 4]},
        {"size": [3, 4], "counts": "ooooo"}, {"size": [3, 4], "counts": [1, 2]}, {"size": [3, 4], "counts": [-1, 13]},
        {"size": [3], "counts": [12]}, {"size": [3, 4], "counts": "\x7f\xff"}, {"size": [3, 4], "counts": [5, "x", 7]},
        {"size": [0, 4], "counts": []},
    ],
)  # fmt: skip
def test_segmentations_that_are_none(told):
    assert box_of_segmentation(told) is None


# --- the folders as real tools make them ----------------------------------------------------------------


def coco_truth(root, splits):
    """What pycocotools reads: file name → classes and corners."""
    found = {}
    for file in splits:
        official = COCO(str(root / file))
        for number, entry in official.imgs.items():
            rows = official.loadAnns(official.getAnnIds([number]))
            name = Path(entry["file_name"].replace("\\", "/")).stem
            found[unicodedata.normalize("NFC", name)] = sorted(
                (official.cats[row["category_id"]]["name"], x, y, x + w, y + h)
                for row in rows
                for x, y, w, h in [row.get("bbox") or mask.toBbox(mask.frPyObjects(row["segmentation"], 120, 160))[0]]
            )
    return found


@pytest.mark.parametrize(
    "name",
    ["coco-backslash", "unicode-nfd-coco", "coco-float-ids", "coco-segmentation-only", "roboflow-coco-root-category"],
)
def test_cases_of_coco_hold_what_pycocotools_reads(name, capsys):
    root = cases(name)
    files = [*root.glob("annotations/*.json"), *root.glob("*/_annotations.coco.json")]
    data = opened("coco", root)
    truth = coco_truth(root, [file.relative_to(root) for file in files])
    ours = {unicodedata.normalize("NFC", key): rows for key, rows in objects_of(data).items()}
    assert ours == truth
    assert len(truth) >= 8
    assert data.classes == ("cat", "dog")
    assert (data.left_out, data.gaps) == ((), ())
    assert main(["data", "check", str(root)]) == 0
    said = capsys.readouterr().out
    assert "nothing hinders training" in said or "no defects found" in said


def yolo_truth(root):
    """The boxes of five words, as Darknet means them; polygons by their points."""
    found = {}
    for file in root.rglob("labels/*/*.txt"):
        rows = []
        for line in file.read_text().splitlines():
            kind, *numbers = map(float, line.split())
            if len(numbers) < 6:
                cx, cy, w, h = numbers[:4]
                edges = np.array([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
            else:
                points = np.array(numbers).reshape(-1, 2)
                edges = np.concatenate([points.min(axis=0), points.max(axis=0)])
            edges = (edges * [160, 120, 160, 120]).clip(0, [160, 120, 160, 120])
            rows.append((["cat", "dog"][int(kind)], *edges))
        found[file.stem] = sorted(rows)
    return found


@pytest.mark.parametrize("name", ["yolo-polygons", "yolo-float-class"])
def test_cases_of_yolo(name):
    data = opened("yolo", cases(name))
    truth, ours = yolo_truth(cases(name)), objects_of(data)
    assert ours.keys() == truth.keys()
    for key, rows in truth.items():
        assert [row[0] for row in rows] == [row[0] for row in ours[key]]
        np.testing.assert_allclose([row[1:] for row in ours[key]], [row[1:] for row in rows], atol=0.02)
    assert (data.left_out, data.gaps) == ((), ())
    if name == "yolo-polygons":
        assert told(data, "read as their enclosing boxes") == 2
        assert told(data, "numbers behind them") == 1


def test_the_case_of_paths_with_spaces(capsys):
    (root,) = cases("yolo-paths-with-spaces").iterdir()
    assert main(["data", "check", str(root / "data.yaml")]) == 0
    assert "missing-split" in capsys.readouterr().out
    data = opened("yolo", root / "data.yaml")
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 6, "val": 3}


def voc_truth(root):
    """What torchvision's parser reads, the smaller corner first, in edges; annotation → classes and corners."""
    found = {}
    for file in sorted(root.glob("Annotations/*.xml")):
        tree = torchvision.datasets.VOCDetection.parse_voc_xml(ET.parse(file).getroot())["annotation"]  # noqa: S314
        rows = []
        for row in tree["object"]:
            x1, y1, x2, y2 = (int(row["bndbox"][corner]) for corner in ("xmin", "ymin", "xmax", "ymax"))
            rows.append((row["name"], min(x1, x2) - 1, min(y1, y2) - 1, max(x1, x2), max(y1, y2)))
        found[file.stem] = sorted(rows)
    return found


@pytest.mark.parametrize("name", ["voc-inverted", "voc-same-stem"])
def test_cases_of_voc_hold_what_torchvision_reads(name, capsys):
    root = cases(name)
    data = opened("voc", root)
    assert objects_of(data) == voc_truth(root)
    assert {file.suffix for split in data.splits.values() for file in split.files} == {".jpg"}
    assert main(["data", "check", str(root)]) == 0
    said = capsys.readouterr().out
    assert ("inverted-box" if name == "voc-inverted" else "same-stem") in said
    assert data.gaps == ()


def test_the_case_of_encodings():
    data = opened("voc", cases("voc-xml-encodings"))
    found = {key: rows[0][0] for key, rows in objects_of(data).items()}
    assert {key: found[key] for key in ("e0", "e1", "e2", "e3", "e5", "e6", "e7")} == {
        "e0": "猫", "e1": "猫", "e2": "猫", "e3": "chien é", "e5": "дом", "e6": "猫", "e7": "猫",
    }  # fmt: skip
    assert told(data, "tell no encoding, others beside them do") == 2  # e4 and e7
    assert found["e4"] == "è"  # GBK's bytes of 猫 without a declaration are UTF-8's of è: XML says the latter


def test_flat_annotations_and_those_in_folders_of_their_own_are_read_alike(tmp_path):
    root = voc(tmp_path / "in", ["a", "b", "c"], {"train": "a\nb\n", "val": "c\n"})
    flat = tmp_path / "flat"
    for split, stems in (("train", "ab"), ("val", "c")):
        (flat / split).mkdir(parents=True)
        for stem in stems:
            shutil.copy(root / f"JPEGImages/{stem}.jpg", flat / split)
            shutil.copy(root / f"Annotations/{stem}.xml", flat / split)
    assert objects_of(opened("voc", root)) == objects_of(opened("voc_flat", flat)) == dict.fromkeys("abc", GOOD)
    assert VocFlat(root=str(flat)).problems() == []
    assert json.dumps(opened("voc", root).facts) == json.dumps(opened("voc_flat", flat).facts)
    assert GOOD[0][1:] == BOX
