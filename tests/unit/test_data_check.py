"""`paretune data check`: each defect planted alone, then all of them at once."""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow

from paretune.cli import main as cli
from paretune.data.checks.image_files import difference_hash
from paretune.data.checks.report import check_survey, checked_dataset
from paretune.data.formats.voc import Voc
from paretune.data.raw_annotations import KINDS
from paretune.data.synthetic.shapes import Shapes
from tests_support import ROOT
from tests_support_data import survey_of_folder
from unit.test_data_check_formats import IN_COCO, IN_YOLO

BOX = "<bndbox><xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox>"


def photograph(seed, size=(64, 48)):
    """A smooth picture that is like no other: small ones of pure noise are alike once they are shrunk."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)


def annotate(root, stem, *objects, size=(64, 48)):
    rows = "".join(f"<object><name>{name}</name>{BOX.format(*box)}</object>" for name, *box in objects)
    told = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>"
    (root / f"Annotations/{stem}.xml").write_text(f"<annotation>{told}{rows}</annotation>")


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "voc"
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / part).mkdir(parents=True)
    for number, stem in enumerate("abcdef"):
        Pillow.fromarray(photograph(number)).save(root / f"JPEGImages/{stem}.jpg", quality=95)
        annotate(root, stem, ("cat", 11, 21, 30, 40), ("dog", 1, 1, 64, 48))
    (root / "ImageSets/Main/train.txt").write_text("a\nb\nc\nd\n")
    (root / "ImageSets/Main/val.txt").write_text("e\nf\n")
    return root


def check(root, near=0, **fields):
    with checked_dataset(Voc(root=str(root), **fields), near) as report:
        return report


def test_a_good_folder_has_no_defects(root):
    report = check(root)
    assert report.findings == []
    assert not report.hinders
    tree = report.tree()
    assert (tree["images"], tree["boxes"], tree["classes"]) == (6, 12, {"cat": 6, "dog": 6})
    assert tree["splits"] == {"train": {"images": 4, "boxes": 8}, "val": {"images": 2, "boxes": 4}}


def boxed(*objects):
    return lambda root: annotate(root, "b", *objects)


def truncated(root):
    file = root / "JPEGImages/b.jpg"
    file.write_bytes(file.read_bytes()[:-200])


def turned(root):
    exif = Pillow.Exif()
    exif[0x0112] = 6
    Pillow.fromarray(photograph(1)).rotate(90, expand=True).save(root / "JPEGImages/b.jpg", exif=exif)


def same_content(root, stem):
    shutil.copy(root / "JPEGImages/a.jpg", root / f"JPEGImages/{stem}.jpg")


def appended(root, name, line):
    with (root / f"ImageSets/Main/{name}.txt").open("a") as file:
        file.write(line + "\n")


def written(name, content):
    return lambda root: (root / name).write_bytes(content)


CAT = ("cat", 11, 21, 30, 40)


def two_endings(root):
    Pillow.fromarray(photograph(9)).save(root / "JPEGImages/b.png")
    file = root / "Annotations/b.xml"
    file.write_text(file.read_text().replace("<annotation>", "<annotation><filename>b.jpg</filename>"))


def two_encodings(root):
    for stem, head in (("a", '<?xml version="1.0" encoding="GBK"?>'), ("b", "<!-- \u00e9 -->")):
        file = root / f"Annotations/{stem}.xml"
        file.write_bytes((head + file.read_text()).encode())


PLANTED = {
    "missing-image": (lambda root: (root / "JPEGImages/b.jpg").unlink(), "b.xml", ""),
    "unreadable-image": (truncated, "b.jpg", ""),
    "unreadable-image: no image": (written("JPEGImages/b.jpg", b"<html>not found</html>"), "b.jpg", ""),
    "unreadable-image: empty": (written("JPEGImages/b.jpg", b""), "b.jpg", ""),
    "unreadable-annotation": (written("Annotations/b.xml", b"<annotation><object>"), "b.xml", ""),
    "unreadable-annotation: no class": (boxed(CAT, ("", 1, 1, 9, 9)), "b.xml", "object 2"),
    "bad-box": (boxed(CAT, ("cat", 1, "nan", 9, 9)), "b.xml", "object 2"),
    "bad-box: no number": (boxed(("cat", 1, 1, "9px", 9), CAT), "b.xml", "object 1"),
    "unknown-class": (boxed(CAT, ("cow", 1, 1, 9, 9)), "b.xml", "object 2"),
    "duplicate-id": (lambda root: appended(root, "train", "b"), "train.txt", "line 5"),
    "bad-list": (lambda root: appended(root, "val", "zebra"), "val.txt", "line 3"),
    "bad-list: missing": (lambda root: (root / "ImageSets/Main/train.txt").unlink(), "train.txt", ""),
    "bad-list: empty": (written("ImageSets/Main/val.txt", b"\n"), "val.txt", ""),
    "leak": (lambda root: appended(root, "val", "b"), "b.jpg", ""),
    "leak: same content": (lambda root: same_content(root, "e"), "e.jpg", ""),
    "other-size": (lambda root: annotate(root, "b", CAT, size=(640, 480)), "b.xml", ""),
    "inverted-box": (boxed(CAT, ("cat", 30, 20, 10, 40)), "b.xml", "object 2"),
    "empty-box": (boxed(CAT, ("cat", 10, 20, 10, 40)), "b.xml", "object 2"),
    "outside-box": (boxed(CAT, ("cat", 10, 20, 30, 60)), "b.xml", "object 2"),
    "outside-box: wholly": (boxed(CAT, ("cat", 70, 20, 90, 40)), "b.xml", "object 2"),
    "tiny-box": (boxed(CAT, ("cat", 10, 20, 12, 40)), "b.xml", "object 2"),
    "duplicate-box": (boxed(CAT, ("dog", *CAT[1:]), CAT), "b.xml", "object 3"),
    "no-boxes": (boxed(), "b.xml", ""),
    "no-annotation": (lambda root: Pillow.fromarray(photograph(9)).save(root / "JPEGImages/x.jpg"), "x.jpg", ""),
    "wrong-suffix": (lambda root: Pillow.fromarray(photograph(1)).save(root / "JPEGImages/b.jpg", "PNG"), "b.jpg", ""),
    "turned": (turned, "b.jpg", ""),
    "duplicate-image": (lambda root: same_content(root, "b"), "b.jpg", ""),
    "near-leak": (
        lambda root: Pillow.fromarray(photograph(0)).save(root / "JPEGImages/e.jpg", quality=96),
        "e.jpg",
        "",
    ),
    "same-stem": (two_endings, "b.xml", "filename"),
    "undeclared": (two_encodings, "b.xml", ""),
    "other-class": (written("ImageSets/Main/train.txt", b"a 1\nb -1\nc 1\nd 1\n"), "train.txt", "line 2"),
    "gap": (lambda root: [annotate(root, stem, CAT) for stem in "abcd"], "voc", ""),
    "no-split": (written("ImageSets/Main/train.txt", b"a\nc\nd\n"), "b.xml", ""),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_one_defect_is_found_where_it_is(root, planted):
    plant, file, where = PLANTED[planted]
    plant(root)
    kind = planted.partition(":")[0]
    report = check(root, classes=["cat", "dog"])
    (finding,) = [finding for finding in report.findings if finding.kind == kind]
    assert (finding.file.rpartition("/")[2], finding.where) == (file, where)
    assert report.hinders == KINDS[kind][0]
    others = {finding.kind for finding in report.findings} - {kind}
    beside = {"bad-list: missing": {"no-split"}, "bad-list: empty": {"no-split"}, "same-stem": {"no-annotation"}}
    assert others <= beside.get(planted, set())


def test_no_objects_at_all(root):
    for stem in "abcdef":
        annotate(root, stem)
    assert check(root).counts == {"no-objects": 1, "no-boxes": 6}


def test_nothing_at_all(tmp_path):
    for part in ("Annotations", "JPEGImages"):
        (tmp_path / part).mkdir()
    assert check(tmp_path).counts == {"no-objects": 1}


def test_every_kind_is_planted_here():
    of_tools = {"no-box", "several", "other-file"}  # planted in test_data_layouts
    of_pictures = {"unturned", "deep", "frames", "transparent"}  # in test_data_images and test_data_orientation
    elsewhere = {"no-objects", "allowed-gap"} | of_tools | of_pictures
    others = {name.partition(":")[0] for name in (*IN_COCO, *IN_YOLO)}  # of other formats alone
    assert {name.partition(":")[0] for name in PLANTED} | others | elsewhere == set(KINDS)


@pytest.mark.parametrize(("near", "found"), [(0, 0), (4, 1)])
def test_near_images_are_found_by_how_near_they_are(root, near, found):
    """A crop of one pixel all around: alike for everybody, but not in every bit."""
    picture = cv2.resize(photograph(0, (640, 480))[6:-6, 6:-6], (640, 480))
    Pillow.fromarray(photograph(0, (640, 480))).save(root / "JPEGImages/a.jpg")
    Pillow.fromarray(picture).save(root / "JPEGImages/e.jpg")
    for stem in "ae":
        annotate(root, stem, CAT, size=(640, 480))
    assert check(root, near).counts.get("near-leak", 0) == found


def test_the_hash_is_kept_by_scaling_and_brightness_and_means_nothing_for_uniform_pictures():
    picture = photograph(3, (640, 480))

    def bits(other):
        one, two = (np.unpackbits(np.frombuffer(difference_hash(p), np.uint8)) for p in (picture, other))
        return int((one != two).sum())

    assert bits(cv2.resize(picture, (320, 240), interpolation=cv2.INTER_AREA)) <= 1
    assert bits((picture * 0.8).astype(np.uint8)) <= 3
    assert bits(photograph(4, (640, 480))) > 15
    assert difference_hash(np.full((50, 50, 3), 90, np.uint8)) is None


def test_the_splits_told_are_those_that_training_uses(root, tmp_path):
    """Without a list of val, and by VOC 2007's protocol."""
    main = root / "ImageSets/Main"
    (main / "val.txt").rename(main / "test.txt")
    for fields in ({"val_share": 0.5}, {"val": "test"}):
        report = check(root, **fields)
        data = Voc(root=str(root), **fields).open(tmp_path)
        assert not report.hinders
        assert {n: part["images"] for n, part in report.splits.items()} == {n: len(s) for n, s in data.splits.items()}


def test_a_dataset_that_is_generated_is_checked_too():
    with checked_dataset(Shapes(train=6, val=4, test=2, size="96x64")) as report:
        pass
    assert report.splits.keys() == {"train", "val", "test"}
    assert len(report.survey.images) == 12
    assert not report.hinders


# --- the command -------------------------------------------------------------------------------------


def test_the_command_tells_a_good_folder(root, capsys):
    assert cli.main(["data", "check", str(root)]) == 0
    out = capsys.readouterr().out
    format_of, _, rest = out.partition("\n")
    assert format_of.startswith("format: voc (in a job: dataset: {voc: {root: ")
    assert rest.startswith("6 images, 12 boxes, 2 classes\nsplits: train 4, val 2\nclasses: cat 6, dog 6\n")
    assert "no defects found" in out


def test_the_command_tells_defects_with_examples(root, capsys):
    for stem in "abcd":
        annotate(root, stem, ("cat", 5, 5, 5, 9), CAT)
    truncated(root)
    assert cli.main(["data", "check", str(root)]) == 1
    out = capsys.readouterr().out
    assert f"{root}/JPEGImages/b.jpg: cannot be decoded" in out
    assert "… 1 more; --json tells all" in out
    assert "1 defects hinder training; 4 more are told" in out


def test_defects_that_hinder_nothing_are_exit_code_0(root, capsys):
    annotate(root, "a", ("cat", 5, 5, 5, 9), CAT)
    assert cli.main(["data", "check", str(root)]) == 0
    assert "nothing hinders training" in capsys.readouterr().out


def test_the_command_as_json(root, capsys):
    annotate(root, "a", ("cat", 5, 5, 5, 9), CAT)
    (root / "JPEGImages/b.jpg").unlink()
    assert cli.main(["data", "check", str(root), "--json"]) == 1
    tree = json.loads(capsys.readouterr().out)
    assert {"images", "boxes", "classes", "splits", "defects", "counts"} <= tree.keys()
    assert tree["counts"] == {"missing-image": 1, "empty-box": 1}
    assert [(d["kind"], d["where"], d["hinders"]) for d in tree["defects"]] == [
        ("missing-image", "", True),
        ("empty-box", "object 1", False),
    ]


def test_the_command_takes_a_job(root, tmp_path, capsys):
    job = tmp_path / "job.yaml"
    job.write_text(f"dataset: {{voc: {{root: {root}, classes: [cat, cow]}}}}\ndetector: yolo\nspace: none.yaml\n")
    assert cli.main(["data", "check", str(job), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["counts"] == {"unknown-class": 6}


@pytest.mark.slow
def test_the_command_draws_a_picture(root, tmp_path, capsys):
    truncated(root)
    annotate(root, "c", ("cat", 5, 5, 5, 9), ("dog", "nan", 1, 1, 1), ("汽车", 9, 9, 60, 40))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib's of characters that no font has
        assert cli.main(["data", "check", str(root), "--picture", str(tmp_path / "a.png")]) == 1
    with Pillow.open(tmp_path / "a.png") as picture:
        assert picture.size == (1300, 1000)
        assert len(picture.convert("RGB").getcolors(10**7)) > 1000
    assert cli.main(["data", "check", str(root), "--picture", str(tmp_path / "no/a.png")]) == 2
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_draws_pictures_that_are_generated_for_the_check_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    job, picture = ROOT / "jobs/quickstart.yaml", tmp_path / "a.png"
    assert cli.main(["data", "check", str(job), "--picture", str(picture)]) == 0
    assert "no defects found" in capsys.readouterr().out
    with Pillow.open(picture) as drawn:
        samples = drawn.convert("RGB").crop((0, 400, 1300, 1000))  # below: eight images with their boxes
        assert len(samples.getcolors(10**7)) > 10_000
    assert [*tmp_path.iterdir()] == [picture]


def test_a_picture_that_cannot_be_written_costs_nothing_of_the_report(root, tmp_path, capsys):
    assert cli.main(["data", "check", str(root), "--json", "--picture", str(tmp_path / "no/a.png")]) == 2
    said = capsys.readouterr()
    assert json.loads(said.out)["images"] == 6
    assert "cannot be written" in said.err


# --- real photographs --------------------------------------------------------------------------------


@pytest.mark.photos
@pytest.mark.slow
def test_blood_cells(photographs):
    report = check_survey(survey_of_folder(photographs / "bccd/BCCD"))
    tree = report.tree()
    assert (tree["images"], tree["boxes"]) == (364, 4888)
    assert tree["splits"] == {
        "train": {"images": 205, "boxes": tree["splits"]["train"]["boxes"]},
        "val": {"images": 87, "boxes": tree["splits"]["val"]["boxes"]},
        "test": {"images": 72, "boxes": tree["splits"]["test"]["boxes"]},
    }
    assert tree["classes"] == {"Platelets": 361, "RBC": 4155, "WBC": 372}
    empty = [finding for finding in report.findings if finding.kind == "empty-box"]
    assert [finding.file[-9:-4] for finding in empty] == ["00338", "00343"]
