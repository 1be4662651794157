"""Reading and writing every format: what goes in comes out, and what cannot is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from scipy.optimize import linear_sum_assignment

from paretune.cli.main import main
from paretune.core.errors import UserError
from paretune.core.types import Annotations, Data
from paretune.data import DATASETS, WRITTEN_FORMATS
from paretune.data.conversion import write_dataset
from paretune.data.formats.coco import Coco
from paretune.data.image_split import unique_ids
from tests_support import ROOT

CLASSES = ("zebra", "ape", "bear")
SIZE = (64, 48)


class Made:
    """A split that lies nowhere."""

    classes = CLASSES

    def __init__(self, name, truth):
        self.ids = tuple(f"{name}{index}" for index in range(len(truth)))
        self.truth = truth

    def __len__(self):
        return len(self.ids)

    def image(self, index):
        return np.random.default_rng(index).integers(0, 255, (SIZE[1], SIZE[0], 3), np.uint8)

    def size(self, index):
        return SIZE

    def annotations(self, index):
        return self.truth[index]

    def file(self, index):
        return None


def truth_of(rows):
    boxes = np.array([row[:4] for row in rows], np.float32).reshape(-1, 4)
    return Annotations(boxes, np.array([row[4] for row in rows], np.int64), np.array([row[5] for row in rows], bool))


def data_of(*, ignore=False):
    first = [(1.5, 2.25, 30.0, 40.0, 0, False), (0.0, 0.0, 64.0, 48.0, 1, ignore), (3.1, 4.7, 9.9, 11.3, 2, False)]
    train, val = [truth_of(first), truth_of([])], [truth_of([(10, 10, 20, 20, 2, False)])]
    return Data(CLASSES, {"train": Made("a", train), "val": Made("b", val)}, "x")


def opened(form, folder, tmp_path):
    row = {"darknet": "yolo"}.get(form, form)
    return DATASETS.load(row).model_validate({"root": str(folder)}).open(tmp_path / "cache")


def rows(data):
    """Every image's objects with class names: what must survive."""
    found = {}
    for name, split in data.splits.items():
        for index, identity in enumerate(split.ids):
            truth = split.annotations(index)
            objects = zip(truth.boxes, truth.labels, truth.ignore, strict=True)
            found[name, identity] = [((data.classes[k], bool(i)), np.array(box, float)) for box, k, i in objects]
    return found


def assert_same(one, other, *, within):
    one, other = rows(one), rows(other)
    assert one.keys() == other.keys()
    for key, objects in one.items():
        assert sorted(kind for kind, _ in objects) == sorted(kind for kind, _ in other[key]), key
        # partners are found by distance: in order of numbers, a difference of 1e-27 would swap two of them
        apart = [[np.inf if k != j else np.abs(a - b).max() for j, b in other[key]] for k, a in objects]
        apart = np.minimum(np.array(apart).reshape(len(objects), len(objects)), 1e9)
        assert (apart[linear_sum_assignment(apart)] <= within).all(), key


@pytest.mark.parametrize("form", WRITTEN_FORMATS)
def test_what_is_written_is_read_again(form, tmp_path):
    data = data_of()
    write_dataset(data, tmp_path / "out", form)
    row = {"darknet": "yolo"}.get(form, form)
    assert DATASETS.load(row).model_validate({"root": str(tmp_path / "out")}).problems() == []
    again = opened(form, tmp_path / "out", tmp_path)
    assert_same(data, again, within=1e-4)
    assert sorted(again.classes) == sorted(CLASSES)
    assert (again.splits["train"].image(0) == data.splits["train"].image(0)).all()


BOX = st.tuples(st.floats(0, 60), st.floats(0, 44), st.floats(1.5, 64), st.floats(1.5, 48), st.integers(0, 2)).map(
    lambda b: (b[0], b[1], min(b[0] + b[2], 64.0), min(b[1] + b[3], 48.0), b[4], False)
)


@pytest.mark.parametrize("form", WRITTEN_FORMATS)
@given(boxes=st.lists(BOX, min_size=1, max_size=6))
@settings(max_examples=15, deadline=None)
def test_any_box_survives(form, boxes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("any")
    data = Data(CLASSES, {"train": Made("a", [truth_of(boxes)]), "val": Made("b", [truth_of(boxes)])}, "x")
    write_dataset(data, folder / "out", form)
    assert_same(data, opened(form, folder / "out", folder), within=1e-3)


def test_coco_is_what_pycocotools_reads(tmp_path):
    data = data_of(ignore=True)
    write_dataset(data, tmp_path / "out", "coco")
    oracle = COCO(str(tmp_path / "out/annotations/instances_train.json"))
    assert [c["name"] for c in oracle.loadCats(oracle.getCatIds())] == list(CLASSES)
    boxes = [a["bbox"] for a in oracle.loadAnns(oracle.getAnnIds(imgIds=[1]))]
    corners = data.splits["train"].annotations(0).boxes
    assert np.allclose([[x, y, x + w, y + h] for x, y, w, h in boxes], corners, atol=1e-5)
    assert [a["iscrowd"] for a in oracle.loadAnns(oracle.getAnnIds(imgIds=[1]))] == [0, 1, 0]


def test_what_is_lost_is_said(tmp_path):
    (line,) = write_dataset(data_of(ignore=True), tmp_path / "yolo", "yolo")
    assert "1 were left out" in line
    (line,) = write_dataset(data_of(ignore=True), tmp_path / "voc", "voc")
    assert "order of the classes" in line
    thin = [truth_of([(1, 1, 9, 9, k, False) for k in range(3)]), truth_of([(4, 4, 5, 9, 0, False)])]
    lines = write_dataset(Data(CLASSES, {"train": Made("a", thin)}, "x"), tmp_path / "thin", "voc")
    assert "one pixel or less: 1 were left out" in lines[0]
    assert write_dataset(data_of(ignore=True), tmp_path / "coco", "coco") == []


def test_links_and_annotations_alone(tmp_path):
    write_dataset(data_of(), tmp_path / "voc", "voc")
    data = opened("voc", tmp_path / "voc", tmp_path)
    write_dataset(data, tmp_path / "linked", "coco", "link")
    picture = tmp_path / "linked/train/a0.png"
    assert picture.is_symlink()
    assert cv2.imread(str(picture)).shape == (48, 64, 3)
    assert_same(data, opened("coco", tmp_path / "linked", tmp_path), within=1e-3)
    write_dataset(data, tmp_path / "alone", "coco", "none")
    assert [path.name for path in (tmp_path / "alone").iterdir()] == ["annotations"]


def test_coco_with_gaps_in_its_ids_and_images_elsewhere(tmp_path):
    write_dataset(data_of(), tmp_path / "out", "coco")
    for name in ("train", "val"):
        file = tmp_path / f"out/annotations/instances_{name}.json"
        content = json.loads(file.read_text())
        for row in content["categories"]:
            row["id"] = {1: 90, 2: 7, 3: 44}[row["id"]]
        for row in content["annotations"]:
            row["category_id"] = {1: 90, 2: 7, 3: 44}[row["category_id"]]
        file.write_text(json.dumps(content))
        (tmp_path / "out" / name).rename(tmp_path / "out" / f"pictures-{name}")
    (tmp_path / "out/pictures").mkdir()
    for name in ("train", "val"):
        for file in (tmp_path / "out" / f"pictures-{name}").iterdir():
            file.rename(tmp_path / "out/pictures" / file.name)
    dataset = DATASETS.load("coco").model_validate({"root": str(tmp_path / "out"), "images": "pictures"})
    data = dataset.open(tmp_path)
    assert data.classes == ("ape", "bear", "zebra")  # in the order of their ids
    assert_same(data_of(), data, within=1e-3)


BREAKS = {
    "unknown-class": lambda content: content["annotations"][0].update(category_id=99),
    "bad-box": lambda content: content["annotations"][0].update(bbox=[1, 2, float("nan"), 4]),
    "missing-image": lambda content: content["annotations"][0].update(image_id=99),
    "duplicate-id": lambda content: content["categories"].append({"id": 1, "name": "cow"}),
}


@pytest.mark.parametrize("kind", BREAKS)
def test_broken_entries_are_refused_or_left_out_and_counted(kind, tmp_path):
    write_dataset(data_of(), tmp_path / "out", "coco")
    file = tmp_path / "out/annotations/instances_train.json"
    content = json.loads(file.read_text())
    BREAKS[kind](content)
    file.write_text(json.dumps(content))
    fields = {"root": str(tmp_path / "out")}
    with pytest.raises(UserError, match=r"instances_train\.json: (annotations\[0\]|categories\[3\]): "):
        DATASETS.load("coco").model_validate(fields).open(tmp_path)
    data = DATASETS.load("coco").model_validate({**fields, "policy": "skip"}).open(tmp_path)
    (entry, *images) = data.left_out
    lost = {
        "unknown-class": ("boxes", "of a class that is not among the classes"),
        "bad-box": ("boxes", "without a box that can be read"),
        "missing-image": ("boxes", "the image is not there"),
        "duplicate-id": ("entries", "there twice"),
    }
    assert (entry.what, entry.why, entry.count) == (*lost[kind], 1)
    # an object that is left out would be taught as background, so its image is left out too
    of_an_image = kind in ("unknown-class", "bad-box")
    assert [(e.what, e.count, e.why) for e in images] == [("images", 1, "an object in them is left out")] * of_an_image
    assert len(data.splits["train"]) == 2 - of_an_image


def test_boxes_with_one_id_are_all_kept(tmp_path):
    write_dataset(data_of(), tmp_path / "out", "coco")
    file = tmp_path / "out/annotations/instances_train.json"
    content = json.loads(file.read_text())
    for row in content["annotations"]:
        row["id"] = 0
    file.write_text(json.dumps(content))
    data = opened("coco", tmp_path / "out", tmp_path)
    assert_same(data_of(), data, within=1e-4)
    assert data.notes == ()


@pytest.mark.parametrize("parts", [["train"], ["train", "val"]])
def test_an_image_listed_twice_keeps_what_its_first_entry_says(parts, tmp_path):
    """As in two files that were joined: the second entry, and the boxes that belong to it, are left out."""
    truth = [truth_of([(1, 1, 9, 9, 0, False)]) for _ in range(20)]
    write_dataset(Data(CLASSES, {name: Made(name, truth) for name in parts}, "x"), tmp_path / "out", "coco")
    file = tmp_path / "out/annotations/instances_train.json"
    content = json.loads(file.read_text())
    content["images"].append({**content["images"][0], "id": 99})
    content["annotations"].append({"id": 99, "image_id": 99, "category_id": 2, "bbox": [20, 20, 9, 9]})
    file.write_text(json.dumps(content))
    fields = {"root": str(tmp_path / "out")}
    with pytest.raises(UserError, match=r"images\[20\]: 'train0.png' is listed already by images\[0\]"):
        DATASETS.load("coco").model_validate(fields).open(tmp_path)
    data = DATASETS.load("coco").model_validate({**fields, "policy": "skip"}).open(tmp_path)
    assert kinds_by_corner(data) == [(1, "zebra")] * 20 * len(parts)
    told = [(entry.what, entry.count, entry.why) for entry in data.left_out]
    assert told == [("boxes", 1, "the image is not there"), ("images", 1, "there twice")]


@pytest.mark.parametrize("form", ["coco", "voc_flat"])
def test_a_size_that_differs_from_the_annotations_is_told(form, tmp_path):
    """As where a photograph was annotated turned as its EXIF asks, and is stored unturned."""
    write_dataset(data_of(), tmp_path / "out", "coco" if form == "coco" else "voc")
    if form == "voc_flat":
        for split, names in (("train", ["a0", "a1"]), ("val", ["b0"])):
            (tmp_path / "out" / split).mkdir()
            for file in (f for f in (tmp_path / "out").glob("*/*.*") if f.stem in names):
                file.rename(tmp_path / "out" / split / file.name)
    assert not any("size" in note for note in opened(form, tmp_path / "out", tmp_path).notes)
    cv2.imwrite(str(tmp_path / "out/train/a1.png"), np.zeros((SIZE[0], SIZE[1], 3), np.uint8))
    notes = opened(form, tmp_path / "out", tmp_path).notes
    assert "1 images do not have the size that their annotations give" in notes


@pytest.mark.parametrize("form", ["coco", "voc"])
def test_our_jobs_read_the_official_layouts(form, tmp_path, capsys):
    """annotations/instances_train2017.json with train2017/, and VOCdevkit/VOC2007."""
    data = data_of(ignore=True)
    if form == "coco":
        data = Data(data.classes, {f"{name}2017": split for name, split in data.splits.items()}, "x")
    write_dataset(data, tmp_path / ("VOCdevkit/VOC2007" if form == "voc" else "official"), form)
    root = tmp_path / ("VOCdevkit" if form == "voc" else "official")
    text = (ROOT / f"jobs/{form}.yaml").read_text()
    assert "root: ???" in text
    for folder in ("jobs", "search_spaces"):
        (tmp_path / folder).mkdir()
    (tmp_path / "search_spaces/photographs.yaml").write_text((ROOT / "search_spaces/photographs.yaml").read_text())
    job = tmp_path / f"jobs/{form}.yaml"
    job.write_text(text.replace("root: ???", f"root: {root}"))
    assert main(["check", str(job)]) == 0, capsys.readouterr().err
    again = opened(form, root, tmp_path)
    assert sorted(again.splits) == ["train", "val"]
    assert len(again.splits["train"].annotations(0).labels) == 3


@pytest.mark.parametrize("name", ["instances", "train"])
def test_test_too_is_shared_out_of_the_only_split(name, tmp_path):
    truth = [truth_of([(1, 1, 9, 9, 0, False)]) for _ in range(40)]
    write_dataset(Data(CLASSES, {name: Made("a", truth)}, "x"), tmp_path / "out", "coco")
    data = Coco(root=str(tmp_path / "out"), val_share=0.2, test_share=0.3).open(tmp_path)
    assert list(data.splits) == ["train", "val", "test"]
    assert 4 <= len(data.splits["test"]) <= 22
    assert sorted(i for split in data.splits.values() for i in split.ids) == sorted(f"a{n}" for n in range(40))
    assert list(Coco(root=str(tmp_path / "out")).open(tmp_path).splits) == ["train", "val"]


def test_test_is_not_shared_out_where_there_are_other_splits(tmp_path):
    truth = [truth_of([(1, 1, 9, 9, 0, False)]) for _ in range(20)]
    parts = {"train": Made("a", truth), "extra": Made("b", truth)}
    write_dataset(Data(CLASSES, parts, "x"), tmp_path / "out", "coco")
    data = Coco(root=str(tmp_path / "out"), test_share=0.3).open(tmp_path)
    assert sorted(i for split in data.splits.values() for i in split.ids) == sorted(f"a{n}" for n in range(20))
    assert list(data.splits) == ["train", "val"]


def test_convert_and_split_on_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_dataset(data_of(ignore=True), tmp_path / "in", "coco")
    assert main(["data", "convert", "in", "out", "--to", "yolo"]) == 0
    told = capsys.readouterr().out
    assert "lost: yolo keeps no crowds" in told
    assert "out: yolo, images: train 2, val 1" in told
    assert main(["data", "convert", "in", "out", "--to", "yolo"]) == 2
    assert "holds something already" in capsys.readouterr().err
    assert main(["data", "convert", "nowhere", "new", "--to", "voc"]) == 2
    truth = [truth_of([(1, 1, 9, 9, 0, False)]) for _ in range(40)]
    write_dataset(Data(CLASSES, {"train": Made("a", truth), "val": Made("b", truth)}, "x"), tmp_path / "many", "voc")
    assert main(["data", "split", "many", "one", "--seed", "1"]) == 0
    assert main(["data", "split", "many", "two", "--seed", "1"]) == 0
    assert main(["data", "split", "many", "three", "--seed", "2", "--test", "0"]) == 0
    one, two, three = (opened("voc", tmp_path / name, tmp_path) for name in ("one", "two", "three"))
    assert {name: split.ids for name, split in one.splits.items()} == {n: s.ids for n, s in two.splits.items()}
    assert sorted(one.splits) == ["test", "train", "val"]
    assert sorted(three.splits) == ["train", "val"]
    assert main(["data", "split", "many", "four", "--val", "0.9", "--test", "0.2"]) == 2


def test_annotations_out_of_a_table(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    for name in ("a", "b"):
        cv2.imwrite(str(tmp_path / f"pictures/{name}.jpg"), np.zeros((48, 64, 3), np.uint8))
    head = "class,filename,width,height,xmin,ymin,xmax,ymax\n"
    (tmp_path / "good.csv").write_text(f"{head}cat,a.jpg,64,48,1,2,30,40\ndog,a.jpg,64,48,5,5,9,9\n")
    assert main(["data", "annotate", "pictures", "out", "--to", "coco", "--from-csv", "good.csv"]) == 0
    oracle = COCO(str(tmp_path / "out/annotations/instances_train.json"))
    assert sorted(a["bbox"] for a in oracle.loadAnns(oracle.getAnnIds())) == [[1, 2, 29, 38], [5, 5, 4, 4]]
    assert len(oracle.getImgIds()) == 2
    for row, wrong in (
        ("cat,c.jpg,64,48,1,2,30,40", "no image 'c.jpg'"),
        ("cat,a.jpg,64,48,1,2,x,40", "xmax is 'x'"),
        ("cat,a.jpg,64,48,9,2,1,40", "without area"),
        (",a.jpg,64,48,1,2,3,40", "no class"),
    ):
        (tmp_path / "bad.csv").write_text(f"{head}{row}\n")
        assert main(["data", "annotate", "pictures", "new", "--to", "coco", "--from-csv", "bad.csv"]) == 2
        told = capsys.readouterr().err
        assert told.startswith("bad.csv:2: ")
        assert wrong in told
        assert not (tmp_path / "new").exists()


def test_a_table_says_what_its_corners_are_and_what_it_leaves_out(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    for name in "abcde":
        cv2.imwrite(str(tmp_path / f"pictures/{name}.jpg"), np.zeros((48, 64, 3), np.uint8))
    head = "filename,class,xmin,ymin,xmax,ymax\n"
    words = ["data", "annotate", "pictures", "out", "--to", "coco", "--from-csv", "t.csv"]

    def boxes(rows, *more):
        (tmp_path / "t.csv").write_text(head + rows)
        shutil.rmtree("out", ignore_errors=True)
        assert main([*words, *more]) == 0
        oracle = COCO(str(tmp_path / "out/annotations/instances_train.json"))
        return [a["bbox"] for a in oracle.loadAnns(oracle.getAnnIds())], capsys.readouterr().out

    whole = "a.jpg,cat,1,1,64,48\n"
    found, said = boxes(whole)
    assert found == [[1, 1, 63, 47]]
    assert "counted from 0, xmax and ymax beyond the object" in said
    assert "4 of 5 images without a row in t.csv, so without objects: b.jpg, c.jpg, d.jpg, …" in said
    assert "if they are counted from 1, give --origin 1" in said
    found, said = boxes(whole, "--origin", "1")
    assert found == [[0, 0, 64, 48]]  # as Pascal VOC's: all of the image
    assert "counted from 1" in said
    assert "give --origin" not in said
    found, said = boxes("a.jpg,cat,0,5,9,9\nb.jpg,cat,60,40,70,50\n", "--origin", "1")
    assert found == [[0, 4, 9, 5], [59, 39, 5, 9]]
    assert "a corner is 0" in said
    assert "2 of 2 boxes reached beyond the image and cut there: t.csv:2, t.csv:3" in said
    assert "3 of 5 images" in said
    (tmp_path / "t.csv").write_text(f"{head}{whole}b.jpg,cat,70,10,90,20\n")
    assert main([*words[:3], "new", *words[4:]]) == 2
    assert "t.csv:3: the box 70 10 90 20 lies outside of b.jpg, 64 x 48 pixels" in capsys.readouterr().err
    assert main(["data", "annotate", "pictures", "new", "--to", "coco", "--with", "x", "--origin", "1"]) == 2


def same_but_for_the_ending(folder, content):
    """Two images, a.jpg with a cat on the left and a.png with a dog on the right."""
    folder.mkdir(parents=True)
    for number, name in enumerate(("a.jpg", "a.png"), start=1):
        cv2.imwrite(str(folder / name), np.full((48, 64, 3), 80 * number, np.uint8))
        content["images"].append({"id": number, "file_name": name, "width": 64, "height": 48})
        content["annotations"].append(
            {"id": number, "image_id": number, "category_id": number, "bbox": [20 * number, 1, 9, 9]}
        )


def kinds_by_corner(data):
    return sorted((box[0], kind) for objects in rows(data).values() for (kind, _), box in objects)


@pytest.mark.parametrize("parts", [["train"], ["train", "val"]])
def test_images_whose_names_differ_in_the_ending_alone_are_all_kept(parts, tmp_path):
    for split in parts:
        content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]}
        same_but_for_the_ending(tmp_path / split, content)
        for n in range(3, 40):  # enough that each share holds some
            cv2.imwrite(str(tmp_path / split / f"{split}{n}.png"), np.zeros((48, 64, 3), np.uint8))
            content["images"].append({"id": n, "file_name": f"{split}{n}.png", "width": 64, "height": 48})
        (tmp_path / f"{split}.json").write_text(json.dumps(content))
    data = opened("coco", tmp_path, tmp_path)
    assert sum(len(split) for split in data.splits.values()) == 39 * len(parts)
    assert kinds_by_corner(data) == sorted([(20, "cat"), (40, "dog")] * len(parts))
    assert len({name for split in data.splits.values() for name in split.ids}) == 39 * len(parts)


@given(st.sets(st.sampled_from([f"{d}{s}{e}" for d in ("", "x/", "x_") for s in "ab" for e in (".jpg", ".jpg.png")])))
def test_no_two_files_share_a_name(names):
    files = [Path("root") / name for name in sorted(names)]
    named = unique_ids(files, Path("root"))
    assert list(named) == files
    assert len(set(named.values())) == len(files)
    assert not any("/" in name for name in named.values())


@pytest.mark.parametrize("form", WRITTEN_FORMATS)
def test_a_table_of_images_whose_names_differ_in_the_ending_alone(form, tmp_path, capsys):
    same_but_for_the_ending(tmp_path / "in", {"images": [], "annotations": []})
    head = "filename,class,xmin,ymin,xmax,ymax"
    (tmp_path / "t.csv").write_text(f"{head}\na.jpg,cat,20,1,29,10\na.png,dog,40,1,49,10\n")
    words = ["data", "annotate", tmp_path / "in", tmp_path / "out", "--to", form, "--from-csv", tmp_path / "t.csv"]
    assert main(list(map(str, words))) == 0, capsys.readouterr().err
    pictures = {cv2.imread(str(file)).mean(): file for file in (tmp_path / "out").rglob("a*.*g")}
    assert {round(mean): file.suffix for mean, file in pictures.items()} == {80: ".jpg", 160: ".png"}
    if form == "yolo":
        labels = {file.stem: file.read_text()[0] for file in (tmp_path / "out/labels").rglob("*.txt")}
        assert labels == {pictures[mean].stem: "0" if mean < 100 else "1" for mean in pictures}


def test_labels_of_yolo_that_could_not_be_told_apart_are_refused(tmp_path):
    made = Made("a", [truth_of([(1, 1, 9, 9, kind, False)]) for kind in range(2)])
    made.ids = ("a", "a")
    with pytest.raises(UserError, match="yolo: two images of one split have the same name"):
        write_dataset(Data(CLASSES, {"train": made}, "x"), tmp_path / "out", "yolo")
    assert not (tmp_path / "out").exists()


@pytest.mark.photos
@pytest.mark.slow
def test_photographs_in_three_formats_hold_the_same(photographs, tmp_path):
    coco = DATASETS.load("coco").model_validate({"root": str(photographs / "bccd/derived_coco")}).open(tmp_path)
    voc = DATASETS.load("voc").model_validate({"root": str(photographs / "bccd/BCCD")}).open(tmp_path)
    assert_same(coco, voc, within=1.01)
    flat = DATASETS.load("voc_flat").model_validate({"root": str(photographs / "playing_cards/images")}).open(tmp_path)
    assert sum(flat.facts[f"boxes_{name}"] for name in flat.splits) == 670
    write_dataset(voc, tmp_path / "yolo", "yolo", "link")
    assert_same(voc, opened("yolo", tmp_path / "yolo", tmp_path), within=1e-3)
