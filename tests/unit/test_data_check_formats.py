"""`paretune data check` on COCO, YOLO and flat VOC folders: layouts, and each defect planted alone."""

from __future__ import annotations

import json
import shutil

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow

from paretune.core.errors import UserError
from paretune.data.checks.report import check_survey, checked_dataset
from paretune.data.formats.coco import Coco
from paretune.data.formats.yolo import YoloFolder
from tests_support_data import survey_of_folder


def photograph(seed, size=(64, 48)):
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return Pillow.fromarray(cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC))


def check(root, name=None):
    return check_survey(survey_of_folder(root, name))


def planted_alone(report, kind, file, where):
    (finding,) = [finding for finding in report.findings if finding.kind == kind]
    assert (finding.file.rpartition("/")[2], finding.where) == (file, where), finding
    beside = {"outside-box"} if kind == "other-unit" else set()  # each of its boxes is told too
    assert {finding.kind for finding in report.findings} == {kind} | beside


# --- COCO --------------------------------------------------------------------------------------------


def content_of(ids):
    return {
        "images": [{"id": n, "file_name": f"{n:012}.jpg", "width": 64, "height": 48} for n in ids],
        "annotations": [
            {"id": 10 * n + k, "image_id": n, "category_id": category, "bbox": box, "iscrowd": 0}
            for n in ids
            for k, (category, box) in enumerate([(1, [10.5, 20, 20, 20]), (18, [0, 0, 64, 48])])
        ],
        "categories": [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}],
    }


@pytest.fixture
def coco(tmp_path):
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    for split, ids in (("train2017", [1, 2, 3]), ("val2017", [4, 5])):
        (root / split).mkdir()
        for n in ids:
            photograph(n).save(root / split / f"{n:012}.jpg", quality=95)
        (root / f"annotations/instances_{split}.json").write_text(json.dumps(content_of(ids)))
    return root


def changed(change):
    """Change the content of the training annotations."""

    def plant(root):
        file = root / "annotations/instances_train2017.json"
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))

    return plant


def set_at(key, index, **fields):
    return changed(lambda content: content[key][index].update(fields))


def boxed(*box):
    return set_at("annotations", 2, bbox=list(box))


def test_the_official_layout(coco):
    report = check(coco)
    assert report.findings == []
    assert report.splits == {"train2017": {"images": 3, "boxes": 6}, "val2017": {"images": 2, "boxes": 4}}
    assert report.classes == {"person": 5, "dog": 5}
    (box, _) = report.survey.images[0].boxes
    assert box[:3] == ("person", (10.5, 20, 30.5, 40), "annotations[0]")


@pytest.mark.parametrize(
    ("annotations", "images"),
    [
        ("annotations/train.json", "images/train"),
        ("annotations/train.json", "images"),
        ("train/_annotations.coco.json", "train"),
        ("train.json", "."),
        ("train.json", "images"),
    ],
)
def test_other_layouts(tmp_path, annotations, images):
    root = tmp_path / "other"
    for place in ((root / annotations).parent, root / images):
        place.mkdir(parents=True, exist_ok=True)
    (root / annotations).write_text(json.dumps(content_of([1, 2])))
    for n in (1, 2):
        photograph(n).save(root / images / f"{n:012}.jpg")
    report = check(root)
    assert report.findings == []
    assert report.splits == {"train": {"images": 2, "boxes": 4}}


COCO = "instances_train2017.json"
IN_COCO = {
    "missing-image": (lambda root: (root / "train2017/000000000001.jpg").unlink(), COCO, ""),
    "missing-image: id": (set_at("annotations", 2, image_id=99), COCO, "annotations[2]"),
    "unreadable-image": (
        lambda root: (root / "train2017/000000000001.jpg").write_bytes(b"\xff\xd8"),
        "000000000001.jpg",
        "",
    ),
    "unreadable-annotation: image": (changed(lambda c: c["images"].append({"id": 9})), COCO, "images[3]"),
    "unreadable-annotation: name": (
        changed(lambda c: c["images"].append({"id": 9, "file_name": "a\0.jpg"})),
        COCO,
        "images[3]",
    ),
    "unreadable-annotation: size": (set_at("images", 1, width=-3), COCO, "images[1]"),
    "unreadable-annotation: no object": (changed(lambda c: c["annotations"].append(7)), COCO, "annotations[6]"),
    "unreadable-annotation: category": (changed(lambda c: c["categories"].append({"id": 5})), COCO, "categories[2]"),
    "duplicate-id: image": (
        changed(lambda c: c["images"].append({"id": 2, "file_name": "x.jpg"})),
        COCO,
        "images[3]",
    ),
    "repeated-id": (set_at("annotations", 2, id=10), COCO, "annotations[2]"),
    "duplicate-id: category": (
        changed(lambda c: c["categories"].append({"id": 18, "name": "cat"})),
        COCO,
        "categories[2]",
    ),
    "unknown-class": (set_at("annotations", 2, category_id=77), COCO, "annotations[2]"),
    "bad-box": (boxed(1, 2, float("nan"), 4), COCO, "annotations[2]"),
    "bad-box: short": (boxed(1, 2, 3), COCO, "annotations[2]"),
    "bad-box: enormous": (boxed(1, 2, 10**400, 4), COCO, "annotations[2]"),
    "empty-box": (boxed(20, 20, 0, 10), COCO, "annotations[2]"),
    "duplicate-box": (set_at("annotations", 2, bbox=[0, 0, 64, 48], category_id=18), COCO, "annotations[3]"),
    "other-size": (set_at("images", 1, width=640, height=480), COCO, ""),
    "no-boxes": (changed(lambda c: c["annotations"].__delitem__(slice(2, 4))), COCO, "images[1]"),
    "other-name": (
        lambda root: (root / "train2017/000000000001.jpg").rename(root / "train2017/000000000001.JPG"),
        COCO,
        "images[0]",
    ),
    "other-id": (set_at("annotations", 2, image_id="2"), COCO, "annotations[2]"),
    "repeated-class": (
        changed(lambda c: c["categories"].append({"id": 19, "name": "dog"})),
        COCO,
        "categories[2]",
    ),
    "root-class": (
        changed(
            lambda c: (c["categories"].append({"id": 0, "name": "x"}), c["categories"][1].update(supercategory="x"))
        ),
        COCO,
        "categories[2]",
    ),
    "segmentation": (
        changed(lambda c: c["annotations"][2].update(bbox=None, segmentation=[[1, 1, 30, 1, 30, 30]])),
        COCO,
        "annotations[2]",
    ),
    "no-annotation": (lambda root: photograph(50).save(root / "train2017/x.jpg"), "x.jpg", ""),
    "leak": (
        lambda root: shutil.copy(root / "train2017/000000000001.jpg", root / "val2017/000000000004.jpg"),
        "000000000004.jpg",
        "",
    ),
}


@pytest.mark.parametrize("planted", IN_COCO)
def test_one_defect_in_coco(coco, planted):
    plant, file, where = IN_COCO[planted]
    plant(coco)
    planted_alone(check(coco), planted.partition(":")[0], file, where)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 10**6, b'{"images": 3}', b"null"])
def test_json_that_is_no_coco(coco, content):
    (coco / "annotations/instances_val2017.json").write_bytes(content)
    report = check(coco)
    assert {finding.kind for finding in report.findings} == {"unreadable-annotation"}
    assert report.splits["train2017"] == {"images": 3, "boxes": 6}


def test_train_and_val_together_are_no_third_split(coco):
    (coco / "annotations/instances_trainval2017.json").write_text(json.dumps(content_of([1, 2, 3, 4, 5])))
    assert check(coco).findings == []


@pytest.mark.photos
def test_the_blood_cells_counts_are_those_of_pycocotools(photographs):
    from pycocotools.coco import COCO

    survey = survey_of_folder(photographs / "bccd/derived_coco")
    for split in survey.splits:
        official = COCO(photographs / f"bccd/derived_coco/{split}.json")
        ours = {image.file.name: image for image in survey.images if image.splits == (split,)}
        assert len(ours) == len(official.imgs)
        for number, entry in official.imgs.items():
            rows = official.loadAnns(official.getAnnIds([number]))
            found = ours[entry["file_name"].rpartition("/")[2]].boxes
            assert [official.cats[row["category_id"]]["name"] for row in rows] == [box.name for box in found]
            expected = [(x, y, x + w, y + h) for x, y, w, h in (row["bbox"] for row in rows)]
            assert expected == [box.box for box in found]


# --- YOLO --------------------------------------------------------------------------------------------

LABEL = "0 0.5 0.5 0.25 0.25\n1 0.3 0.4 0.5 0.5\n"


@pytest.fixture
def yolo(tmp_path):
    root = tmp_path / "yolo"
    for split, stems in (("train", "abc"), ("val", "de")):
        for part in ("images", "labels"):
            (root / part / split).mkdir(parents=True)
        for stem in stems:
            photograph(ord(stem)).save(root / f"images/{split}/{stem}.jpg", quality=95)
            (root / f"labels/{split}/{stem}.txt").write_text(LABEL)
    (root / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/val\nnames: [cat, dog]\n")
    return root


def test_a_yolo_folder(yolo):
    report = check(yolo)
    assert report.findings == []
    assert report.splits == {"train": {"images": 3, "boxes": 6}, "val": {"images": 2, "boxes": 4}}
    assert report.classes == {"cat": 5, "dog": 5}
    box, _ = report.survey.images[0].boxes
    assert box[:3] == ("cat", (0.375, 0.375, 0.625, 0.625), "line 1")


@pytest.mark.parametrize(
    "text",
    [
        "train: ../images/train\nval: ../images/val\nnames: {0: cat, 1: dog}\n",  # as some tools write it
        "train: [images/train]\nval: val.txt\nnames: [cat, dog]\n",
        "train: train.txt\nval: images/val\nnc: 2\nnames: [cat, dog]\n",
    ],
)
def test_other_ways_to_describe_it(yolo, text):
    (yolo / "data.yaml").write_text(text)
    (yolo / "train.txt").write_text("./images/train/a.jpg\nimages/train/b.jpg\n\nimages/train/c.jpg\n")
    (yolo / "val.txt").write_text(f"{yolo}/images/val/d.jpg\n./images/val/e.jpg\n")
    report = check(yolo)
    assert report.findings == []
    assert report.splits == {"train": {"images": 3, "boxes": 6}, "val": {"images": 2, "boxes": 4}}


def test_without_a_description(yolo):
    (yolo / "data.yaml").unlink()
    report = check(yolo)
    assert report.findings == []
    assert report.classes == {"class 0": 5, "class 1": 5}


def test_classes_of_the_job_where_the_folder_tells_none(yolo, tmp_path):
    (yolo / "data.yaml").unlink()
    fields = {"root": str(yolo), "classes": ["dog", "cat"]}
    with checked_dataset(YoloFolder(**fields)) as report:
        assert report.findings == []
    data = YoloFolder(**fields).open(tmp_path)
    assert data.classes == ("dog", "cat")
    truth = data.splits["train"].annotations(0)  # of LABEL: class 0 in the middle, class 1 from 0.05, 0.15
    np.testing.assert_allclose(truth.boxes[truth.labels == 0], [[24, 18, 40, 30]], atol=1e-4)
    np.testing.assert_allclose(truth.boxes[truth.labels == 1], [[3.2, 7.2, 35.2, 31.2]], atol=1e-4)


def test_the_check_tells_every_box_that_opening_refuses_for_its_class(yolo, coco, tmp_path):
    for dataset in (YoloFolder(root=str(yolo), classes=["cat"]), Coco(root=str(coco), classes=["person"])):
        with pytest.raises(UserError, match="class 'dog' is not among"):
            dataset.open(tmp_path)
        with checked_dataset(dataset) as report:
            assert report.counts == {"unknown-class": 5}  # a dog in each of five images


@pytest.mark.parametrize("end", ["", "\n", "\r\n\n"])
@pytest.mark.parametrize("place", ["", "labels"])
def test_classes_of_a_text_file(yolo, place, end):
    (yolo / "data.yaml").unlink()
    (yolo / place / "classes.txt").write_text(f"cat\n\ndog{end}", newline="")
    assert list(check(yolo).survey.classes) == ["cat", "", "dog"]  # a line in the middle counts: it has a number


def test_an_empty_text_file_tells_no_classes(yolo):
    (yolo / "data.yaml").unlink()
    (yolo / "classes.txt").write_text("\n")
    assert check(yolo).classes == {"class 0": 5, "class 1": 5}


def test_labels_beside_their_images(yolo, tmp_path):
    root = tmp_path / "beside"
    root.mkdir()
    for file in [*yolo.glob("*/train/*")]:
        shutil.copy(file, root)
    (root / "data.yaml").write_text("train: .\nval: .\nnames: [cat, dog]\n")
    report = check(root)
    assert report.counts == {"leak": 3}  # val is train


def lines(*rows):
    return lambda root: (root / "labels/train/b.txt").write_text("".join(f"{row}\n" for row in rows))


CAT = "0 0.5 0.5 0.25 0.25"
IN_YOLO = {
    "missing-image": (lambda root: (root / "images/train/b.jpg").unlink(), "b.txt", ""),
    "unreadable-annotation: words": (lines(CAT, "1 0.5 0.5 0.2"), "b.txt", "line 2"),
    "unreadable-annotation: points": (lines(CAT, "1 0.1 0.1 0.2 0.1 0.2 0.2 0.3"), "b.txt", "line 2"),
    "polygon": (lines(CAT, "1 0.1 0.1 0.2 0.1 0.2 0.3"), "b.txt", "line 2"),
    "confidence": (lines(CAT, "1 0.1 0.1 0.2 0.2 0.93"), "b.txt", "line 2"),
    "unreadable-annotation: class": (lines(CAT, "dog 0.5 0.5 0.2 0.2"), "b.txt", "line 2"),
    "unreadable-annotation: bytes": (
        lambda root: (root / "labels/train/b.txt").write_bytes(b"\xff\xfe\0"),
        "b.txt",
        "",
    ),
    "bad-box": (lines(CAT, "1 0.5 nan 0.2 0.2"), "b.txt", "line 2"),
    "bad-box: text": (lines("1 0.5 x 0.2 0.2", CAT), "b.txt", "line 1"),
    "unknown-class": (lines(CAT, "2 0.5 0.5 0.2 0.2"), "b.txt", "line 2"),
    "outside-box: pixels": (lines(CAT, "1 30 20 12 9"), "b.txt", "line 2"),
    "duplicate-box": (lines(CAT, CAT), "b.txt", "line 2"),
    "no-boxes": (lines(), "b.txt", ""),
    "background": (lambda root: (root / "labels/train/b.txt").unlink(), "b.jpg", ""),
    "missing-split": (
        lambda root: (root / "data.yaml").write_text((root / "data.yaml").read_text() + "test: lost\n"),
        "data.yaml",
        "test",
    ),
    "class-count": (
        lambda root: (root / "data.yaml").write_text((root / "data.yaml").read_text() + "nc: 3\n"),
        "data.yaml",
        "nc",
    ),
    "other-unit": (
        lambda root: [file.write_text("0 30 20 12 9\n") for file in root.glob("labels/val/*.txt")],
        "yolo",
        "",
    ),
    "bad-list": (
        lambda root: (root / "data.yaml").write_text("train: images/train\nval: lost\nnames: [cat, dog]"),
        "data.yaml",
        "val",
    ),
    "leak": (lambda root: shutil.copy(root / "images/train/a.jpg", root / "images/val/d.jpg"), "d.jpg", ""),
}


@pytest.mark.parametrize("planted", IN_YOLO)
def test_one_defect_in_yolo(yolo, planted):
    plant, file, where = IN_YOLO[planted]
    plant(yolo)
    report = check(yolo)
    kind = planted.partition(":")[0]
    if kind == "bad-list":
        assert report.counts[kind] == 2  # the folder, and the split that holds nothing
        assert (str(yolo / file), where) in [(finding.file, finding.where) for finding in report.findings]
    else:
        planted_alone(report, kind, file, where)


# --- VOC, other layouts ------------------------------------------------------------------------------


def write_flat(folder, stems):
    folder.mkdir(parents=True)
    for stem in stems:
        photograph(ord(stem)).save(folder / f"{stem}.JPG", "JPEG")
        box = "<xmin>3</xmin><ymin>4</ymin><xmax>30</xmax><ymax>40</ymax>"
        text = f"<annotation><object><name>ace</name><bndbox>{box}</bndbox></object></annotation>"
        (folder / f"{stem}.xml").write_text(text)


def test_annotations_beside_their_images(tmp_path):
    write_flat(tmp_path / "cards/train", "abc")
    write_flat(tmp_path / "cards/test", "de")
    report = check(tmp_path / "cards")
    assert report.findings == []
    assert report.splits == {"train": {"images": 3, "boxes": 3}, "test": {"images": 2, "boxes": 2}}
    (tmp_path / "cards/train/b.JPG").unlink()
    photograph(1).save(tmp_path / "cards/test/x.jpg")
    assert check(tmp_path / "cards").counts == {"missing-image": 1, "no-annotation": 1}


def test_one_flat_folder_has_no_splits(tmp_path):
    write_flat(tmp_path / "cards", "abc")
    report = check(tmp_path / "cards")
    assert (report.findings, report.splits, len(report.survey.images)) == ([], {}, 3)


@pytest.mark.photos
@pytest.mark.slow
def test_playing_cards(photographs):
    report = check(photographs / "playing_cards/images")
    assert {name: part["images"] for name, part in report.splits.items()} == {"train": 296, "test": 67}
    assert sum(report.classes.values()) == 670
    assert not report.hinders
