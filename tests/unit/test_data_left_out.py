"""What of a dataset is not used is counted, told and recorded, and stops a training where it is much."""

from __future__ import annotations

import json

import pytest

from paretune.cli.main import main
from paretune.core.errors import UserError
from paretune.core.types import Data, LeftOut
from paretune.data.checks.report import checked_dataset
from paretune.data.formats.coco import Coco
from paretune.data.formats.yolo import YoloFolder
from paretune.data.left_out import SplitTally, gaps_of, left_out_line, lines_of, lines_of_record, record_of, refuse_gaps
from tests_support_data import cases, coco, opened, shares, voc, voc_text
from tests_support_data import yolo as yolo_folder
from tests_support_documented import printed, words


def left(data):
    return [(entry.what, entry.count, entry.why) for entry in data.left_out]


def refused(data, dataset):
    with pytest.raises(UserError) as caught:
        refuse_gaps(data, dataset)
    return str(caught.value)


def lines_in(root, stem, *lines):
    (root / f"labels/train/{stem}.txt").write_text("".join(f"{line}\n" for line in lines))


# --- what leaves with a skipped object -----------------------------------------------------------------

BROKEN = {
    "too few words": ("0 0.5 0.5", "not readable"),
    "no number": ("0 0.5 x 0.1 0.1", "without a box that can be read"),
    "another class": (f"7 {shares()}", "of a class that is not among the classes"),
}


@pytest.mark.parametrize("way", BROKEN)
def test_an_image_with_a_skipped_object_leaves_its_split(tmp_path, way):
    line, why = BROKEN[way]
    root = yolo_folder(tmp_path / "in")
    lines_in(root, "t0", f"0 {shares()}", line)
    with pytest.raises(UserError, match="line 2"):
        opened("yolo", root)
    data = opened("yolo", root, policy="skip")
    assert left(data) == [("boxes", 1, why), ("images", 1, "an object in them is left out")]
    assert "t0" not in data.splits["train"].ids
    assert data.gaps == ()  # one of six images, two of twelve boxes
    assert left_out_line(data.left_out) == (
        f"left out: 1 boxes ({why}, the first {root}/labels/train/t0.txt: line 2), "
        f"1 images (an object in them is left out, the first {root}/images/train/t0.jpg)"
    )


def test_objects_of_classes_that_are_not_asked_for_are_background(tmp_path):
    root = coco(tmp_path / "in")
    with pytest.raises(UserError, match="is not among"):
        opened("coco", root, classes=["dog"])
    data = opened("coco", root, classes=["dog"], policy="skip")
    assert left(data) == [("boxes", 9, "of a class that is not among the classes")]
    assert [len(data.splits[split]) for split in ("train", "val")] == [6, 3]
    assert [len(data.splits["train"].annotations(index).boxes) for index in range(6)] == [1] * 6
    assert data.gaps == ()


def test_so_does_one_of_a_file_that_all_images_share(tmp_path):
    root = coco(tmp_path / "in", lambda content: content["annotations"][0].update(bbox=[1, 2, "x", 4]))
    data = opened("coco", root, policy="skip")
    assert left(data) == [
        ("boxes", 2, "without a box that can be read"),
        ("images", 2, "an object in them is left out"),
    ]
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 5, "val": 2}
    assert data.gaps == (
        "2 of 6 boxes of the split val are left out, more than 20%",
        "1 of 3 images of the split val are left out, more than 20%",
    )


def test_so_does_one_whose_annotation_cannot_be_read(tmp_path):
    root = voc(tmp_path / "in", "abcdefgh", {"train": "a\nb\nc\nd\ne\nf\n", "val": "g\nh\n"})
    (root / "Annotations/a.xml").write_text("<annotation>")
    data = opened("voc", root, policy="skip")
    assert left(data) == [("images", 1, "not readable")]
    assert list(data.splits["train"].ids) == list("bcdef")
    assert data.gaps == ()


def test_a_box_without_area_leaves_its_image_where_it_is(tmp_path):
    root = yolo_folder(tmp_path / "in")
    lines_in(root, "t0", f"0 {shares()}", "1 0.5 0.5 0 0.1", "1 1.5 1.5 0.1 0.1")
    data = opened("yolo", root)
    assert left(data) == [("boxes", 1, "without area"), ("boxes", 1, "outside their image")]
    assert "t0" in data.splits["train"].ids


def test_objects_of_images_that_are_not_there_count_as_lost(tmp_path):
    def orphaned(content):
        for row in content["annotations"][: len(content["annotations"]) // 2]:
            row["image_id"] += 1000

    data = opened("coco", coco(tmp_path / "in", orphaned), policy="skip")
    assert left(data) == [("boxes", 9, "the image is not there")]
    assert data.gaps[0] == "6 of 12 boxes of the split train are left out, more than 20%"


def test_images_without_labels_and_splits_that_are_not_used_are_told(tmp_path):
    root = yolo_folder(tmp_path / "in")
    (root / "labels/train/t0.txt").unlink()
    assert [note for note in opened("yolo", root).notes if note.startswith("1 images without a label file")]
    root = coco(tmp_path / "more")
    (root / "annotations/instances_extra.json").write_text((root / "annotations/instances_val.json").read_text())
    (root / "val").rename(root / "images")
    assert any("splits that are not used: extra (3 images)" in note for note in opened("coco", root).notes)


# --- what stops a training ---------------------------------------------------------------------------


def test_gaps_are_counted_by_split_and_class():
    whole = {"train": {"cat": 4, "dog": 1}, "val": {"cat": 2, "dog": 0}}
    tallies = {"train": SplitTally(10, 2, 100, 20), "val": SplitTally(5, 0, 2, 0)}
    assert gaps_of(tallies, whole) == ()
    tallies["train"] = SplitTally(10, 3, 100, 21)
    assert gaps_of(tallies, whole) == (
        "21 of 100 boxes of the split train are left out, more than 20%",
        "3 of 10 images of the split train are left out, more than 20%",
    )
    tallies = {"train": SplitTally(10), "val": SplitTally(5)}
    assert gaps_of(tallies, {"train": {"cat": 4, "dog": 0}, "val": {"cat": 0, "dog": 0}}) == (
        "the split val holds no object",
        "train holds no object of 'dog'",
    )


@pytest.mark.parametrize("policy", ["strict", "skip"])
@pytest.mark.parametrize("named", ["", "data.yaml"])
def test_a_class_without_objects_and_a_split_without_any_stop_a_training(tmp_path, policy, named):
    root = yolo_folder(tmp_path / "in it")
    for number in range(6):
        lines_in(root, f"t{number}", f"0 {shares()}")
    for file in root.glob("labels/val/*.txt"):
        file.write_text("")
    dataset = YoloFolder(root=str(root / named), policy=policy)
    data = dataset.open(tmp_path)
    said = refused(data, dataset)
    root /= named
    assert f"{root}: the split val holds no object" in said
    assert f"{root}: train holds no object of 'dog'" in said
    assert "--set dataset.yolo.allow_missing=true" in said
    (line,) = printed(said)
    assert main(words(line)) == 1  # it finds what hinders
    refuse_gaps(data, dataset.model_copy(update={"allow_missing": True}))
    for allowed in (False, True):
        with checked_dataset(dataset.model_copy(update={"allow_missing": allowed})) as report:
            assert report.counts["allowed-gap" if allowed else "gap"] == 2
            assert report.hinders is not allowed


def test_the_case_of_broken_lines(capsys):
    root = cases("yolo-broken-lines")
    dataset = YoloFolder(root=str(root), policy="skip")
    data = dataset.open(root)
    assert left(data) == [("boxes", 7, "not readable"), ("images", 7, "an object in them is left out")]
    assert list(data.splits["train"].ids) == ["p7"]
    said = refused(data, dataset)
    assert "7 of 10 boxes of the split train are left out, more than 20%" in said
    assert "left out: 7 boxes (not readable" in said
    assert main(["data", "check", str(root)]) == 1


@pytest.mark.parametrize("made", [True, False])
def test_pixels_in_place_of_shares_are_refused_by_every_verb(tmp_path, made, capsys):
    if made:
        root = yolo_folder(tmp_path / "in")
        for number in range(6):
            lines_in(root, f"t{number}", "0 16 18 16 24", "1 45 25 30 30", f"0 {shares()}")
    else:
        root = cases("yolo-in-pixels")
    for policy in ("strict", "skip"):
        with pytest.raises(UserError, match=r"boxes of the split train lie outside.*are these pixels") as caught:
            opened("yolo", root, policy=policy)
        assert ("12 of 18" if made else "24 of 24") in str(caught.value)
    assert main(["data", "check", str(root)]) == 1
    assert "are these pixels?" in capsys.readouterr().out
    assert main(["data", "convert", str(root), str(tmp_path / "out"), "--to", "coco"]) == 2
    assert "are these pixels?" in capsys.readouterr().err


def test_shares_in_place_of_pixels_are_refused(tmp_path):
    root = voc(tmp_path / "in", "abc", {"train": "a\nb\n", "val": "c\n"})
    for stem in "abc":
        (root / f"Annotations/{stem}.xml").write_text(voc_text(("cat", 0.1, 0.2, 0.6, 0.9)))
    with pytest.raises(UserError, match="are these shares"):
        opened("voc", root, policy="skip")


def test_second_corners_in_place_of_width_and_height_are_refused(tmp_path):
    root = yolo_folder(tmp_path / "in")
    for file in root.glob("labels/*/*.txt"):
        file.write_text("0 0.125 0.125 0.375 0.625\n1 0.6 0.5 0.95 0.9\n")
    with pytest.raises(UserError, match="are these second corners"):
        opened("yolo", root, policy="skip")
    assert main(["data", "check", str(root)]) == 1


def test_a_few_boxes_in_pixels_are_left_out_and_counted(tmp_path):
    root = yolo_folder(tmp_path / "in")
    lines_in(root, "t0", f"0 {shares()}", f"1 {shares()}", "1 40 30 5 5")
    assert left(opened("yolo", root)) == [("boxes", 1, "outside their image")]


# --- where it is told and recorded ---------------------------------------------------------------------


def test_what_is_recorded_is_told_again_alike():
    data = Data(("a",), {}, "x", ("a note",), (LeftOut("boxes", 2, "thin", "f"), LeftOut("boxes", 1, "far", "g")))
    assert lines_of(data) == ["a note", "left out: 3 boxes (2 thin, the first f; 1 far, the first g)"]
    assert lines_of_record(json.loads(json.dumps(record_of(data)))) == lines_of(data)
    assert lines_of(Data(("a",), {}, "x")) == lines_of_record({}) == []


def test_convert_and_split_tell_it(tmp_path, capsys):
    root = yolo_folder(tmp_path / "in")
    lines_in(root, "t0", f"0 {shares()}", "1 0.5 0.5 0 0.1", f"1 {shares()} 0.5")
    assert main(["data", "convert", str(root), str(tmp_path / "out"), "--to", "coco"]) == 0
    said = capsys.readouterr().out
    assert "left out: 1 boxes (without area, the first" in said
    assert "1 boxes have numbers behind them" in said
    assert main(["data", "split", str(root), str(tmp_path / "two"), "--to", "voc", "--test", "0", "--val", "0.5"]) == 0
    assert "left out: 1 boxes (without area, the first" in capsys.readouterr().out


def test_a_missing_test_split_is_told_to_who_asks_for_it(tmp_path):
    from paretune.data.splits import split_of

    root = yolo_folder(tmp_path / "in")
    with (root / "data.yaml").open("a") as file:
        file.write("test: lost/images\n")
    data = opened("yolo", root)
    assert len(split_of(data, "val")) == 3
    (root / "lost/images").mkdir(parents=True)  # there, and empty
    assert list(opened("yolo", root).splits) == ["train", "val"]
    with pytest.raises(
        UserError, match=r"no such split; the dataset has train, val\n.*named and not there.*data\.yaml"
    ):
        split_of(data, "test")


def test_a_field_of_the_dataset_lets_gaps_pass():
    assert "allow_missing" in Coco.model_fields
    data = Data(("a",), {}, "x", gaps=("the split val holds no object",))
    refuse_gaps(data, Coco(root="x", allow_missing=True))
    assert refused(data, Coco(root="x")).startswith("x: the split val holds no object\n")
