"""Pascal VOC folders: boxes, splits, and a clear line for everything that can be wrong."""

from __future__ import annotations

import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import cv2
import numpy as np
import pytest
import torchvision

from paretune.core.errors import UserError
from paretune.core.types import LeftOut
from paretune.data.formats.voc import Voc

OBJECT = (
    "<object><name>{name}</name><difficult>{difficult}</difficult>"
    "<bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"
)
SIZE = "<size><width>{0}</width><height>{1}</height><depth>3</depth></size>"


def annotate(root: Path, stem: str, objects=(("cat", (11, 21, 30, 40)),), size=(64, 48), suffix=".png"):
    """Write one image and its annotation; an object is (name, box[, difficult])."""
    for part in ("Annotations", "JPEGImages"):
        (root / part).mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(root / "JPEGImages" / f"{stem}{suffix}"), np.full((size[1], size[0], 3), (10, 100, 200), np.uint8))
    rows = "".join(OBJECT.format(name=o[0], box=o[1], difficult=int(len(o) > 2)) for o in objects)
    (root / "Annotations" / f"{stem}.xml").write_text(f"<annotation>{SIZE.format(*size)}{rows}</annotation>")


def listed(root: Path, **lists: str):
    folder = root / "ImageSets" / "Main"
    folder.mkdir(parents=True, exist_ok=True)
    for name, ids in lists.items():
        (folder / f"{name}.txt").write_text("\n".join(ids.split()) + "\n")


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "voc"
    annotate(root, "a", [("cat", (1, 1, 64, 48)), ("dog", (5, 6, 20, 21), "difficult")])
    annotate(root, "b", [("dog", (11, 21, 30, 40))])
    annotate(root, "c", [])
    listed(root, train="a", val="b c")
    return root


def opened(root, **fields):
    return Voc(root=str(root), **fields).open(root.parent / "cache")


def mistake(root, **fields):
    with pytest.raises(UserError) as caught:
        opened(root, **fields)
    first, *more = str(caught.value).splitlines()
    assert all(line.startswith((f"{root}/", "`policy: skip` leaves such entries out; ")) for line in more)
    return first


def test_boxes_cover_both_of_their_corner_pixels(root):
    train = opened(root).splits["train"].annotations(0)
    # counted from 1: pixels 1 to 64 are the whole width, 0 to 64 in continuous coordinates
    np.testing.assert_array_equal(train.boxes, [[0, 0, 64, 48], [4, 5, 20, 21]])
    assert train.boxes.dtype == np.float32
    assert train.labels.tolist() == [0, 1]
    assert train.ignore.tolist() == [False, True]


def test_facts_count_what_can_be_found(root):
    data = opened(root)
    assert data.classes == ("cat", "dog")
    assert data.facts["images_train"] == 1
    assert (data.facts["boxes_train"], data.facts["boxes_train_cat"], data.facts["boxes_train_dog"]) == (1, 1, 0)
    assert data.facts["boxes_val_dog"] == 1


def test_classes_given_fix_the_order(root):
    data = opened(root, classes=["dog", "horse", "cat"])
    assert data.classes == ("dog", "horse", "cat")
    assert data.splits["train"].annotations(0).labels.tolist() == [2, 0]


@pytest.mark.parametrize(
    ("box", "why"),
    [((5, 5, 5, 9), "without area"), ((5, 9, 9, 9), "without area"), ((70, 5, 90, 9), "outside their image")],
)
def test_boxes_without_area_are_left_out_and_counted(root, box, why):
    annotate(root, "a", [("cat", box), ("dog", (1, 1, 9, 9))])
    data = opened(root)
    assert data.splits["train"].annotations(0).labels.tolist() == [data.classes.index("dog")]
    assert data.left_out == (LeftOut("boxes", 1, why, f"{root}/Annotations/a.xml: object 1"),)
    assert data.notes == ()


def test_boxes_are_cut_off_at_the_edges(root):
    annotate(root, "a", [("cat", (0, -3, 80, 20))])
    np.testing.assert_array_equal(opened(root).splits["train"].annotations(0).boxes, [[0, 0, 64, 20]])


def test_without_lists_a_hash_of_the_name_decides(tmp_path):
    root = tmp_path / "voc"
    for number in range(60):
        annotate(root, f"image{number}", size=(8, 8), objects=[("cat", (1, 1, 8, 8))])
    first = opened(root, val_share=0.3, test_share=0.2)
    sizes = {name: len(split) for name, split in first.splits.items()}
    assert sum(sizes.values()) == 60
    assert 10 <= sizes["val"] <= 26
    assert 5 <= sizes["test"] <= 20
    assert "shared out by a hash" in first.notes[0]
    annotate(root, "one_more", size=(8, 8), objects=[("cat", (1, 1, 8, 8))])
    second = opened(root, val_share=0.3, test_share=0.2)
    for name, split in first.splits.items():
        assert set(split.ids) <= set(second.splits[name].ids)
    assert second.fingerprint != first.fingerprint


@pytest.mark.parametrize("held_out", [True, False])
def test_without_a_list_of_val_images_of_train_are_shared_out(tmp_path, held_out):
    root = tmp_path / "voc"
    for number in range(40):
        annotate(root, f"image{number}", size=(8, 8), objects=[("cat", (1, 1, 8, 8))])
    ids = [f"image{number}" for number in range(40)]
    listed(root, train=" ".join(ids[:30]), **({"test": " ".join(ids[30:35])} if held_out else {}))
    data = opened(root, val_share=0.3, test_share=0.2)
    assert list(data.splits) == ["train", "val", "test"]
    assert 3 <= len(data.splits["val"]) <= 16
    shared = ("train", "val") if held_out else ("train", "val", "test")
    assert sorted(name for split in shared for name in data.splits[split].ids) == sorted(ids[:30])
    assert (list(data.splits["test"].ids) == ids[30:35]) == held_out
    assert data.notes[0].startswith(f"no val.txt in {root}/ImageSets/Main: images of train were shared out by a hash")


def test_voc_2007s_protocol_chooses_by_test(root):
    listed(root, trainval="a b", test="c")
    for fields in ({}, {"test": None}):
        data = opened(root, train="trainval", val="test", **fields)
        assert {name: list(split.ids) for name, split in data.splits.items()} == {"train": ["a", "b"], "val": ["c"]}
    listed(root, holdout="c")
    assert "1 images are in val and in test" in mistake(root, train="trainval", val="holdout", test="holdout")


def test_a_list_of_test_can_be_left_alone(root):
    listed(root, val="b", test="c")
    assert list(opened(root).splits) == ["train", "val", "test"]
    assert list(opened(root, test=None).splits) == ["train", "val"]


def test_a_variable_and_a_tilde_in_the_root_are_filled_in(root, monkeypatch):
    monkeypatch.setenv("PHOTOS", str(root.parent))
    monkeypatch.setenv("HOME", str(root.parent))
    assert Voc(root="$PHOTOS/voc").problems() == []
    assert Voc(root="~/voc").problems() == []
    (line,) = Voc(root="$UNSET_PHOTOS/voc").problems()
    assert "$UNSET_PHOTOS" in line
    assert "not set" in line


def test_a_relative_folder_is_told_with_where_it_was_looked_for(root, monkeypatch):
    monkeypatch.chdir(root.parent)
    assert Voc(root="voc").problems() == []
    monkeypatch.chdir(root)
    (line,) = Voc(root="voc").problems()
    assert line.startswith(f"no such folder: voc in {root} (expected ")


def test_the_fingerprint_changes_with_what_matters_and_only_then(root):
    first = opened(root).fingerprint
    assert opened(root).fingerprint == first
    for path in root.rglob("*"):
        path.touch()
    assert opened(root).fingerprint == first
    listed(root, train="c", val="b a")
    second = opened(root).fingerprint
    annotate(root, "a", [("cat", (1, 1, 63, 48))])
    third = opened(root).fingerprint
    annotate(root, "b", [("dog", (11, 21, 30, 40))], size=(65, 48))
    assert len({first, second, third, opened(root).fingerprint, opened(root, classes=["dog", "cat"]).fingerprint}) == 5


def test_what_stands_beside_the_data_does_no_harm(root):
    (root / "JPEGImages/a.txt").write_text("0 0.5 0.5 1 1")
    (root / "JPEGImages/Thumbs.db").write_bytes(b"\0")
    (root / "Annotations/._a.xml").write_bytes(b"\0\5\26\7")
    annotate(root, "unwanted")
    (root / "Annotations/unwanted.xml").unlink()
    data = opened(root)
    assert data.splits["train"].image(0).shape == (48, 64, 3)
    (entry,) = data.left_out
    assert (entry.what, entry.count, entry.why) == ("images", 1, "no annotation belongs to them")


# --- mistakes ---------------------------------------------------------------------------------------


def test_a_missing_image_is_found_without_opening(root):
    (root / "JPEGImages/b.png").unlink()
    (line,) = Voc(root=str(root)).problems()
    assert line.startswith(f"{root}/Annotations/b.xml: no image b.jpg")
    assert mistake(root) == line


def test_many_missing_images_are_summed_up(root):
    for number in range(30):
        shutil.copy(root / "Annotations/a.xml", root / f"Annotations/lost{number:02d}.xml")
    lines = Voc(root=str(root)).problems()
    assert len(lines) == 21
    assert "10 more" in lines[-1]


# --- real photographs -------------------------------------------------------------------------------


@pytest.mark.photos
def test_blood_cells_against_torchvision_and_the_coco_file(photographs, tmp_path):
    root = photographs / "bccd" / "BCCD"
    data = Voc(root=str(root)).open(tmp_path)
    assert data.classes == ("Platelets", "RBC", "WBC")
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 205, "val": 87, "test": 72}
    assert [(entry.what, entry.count, entry.why) for entry in data.left_out] == [("boxes", 2, "without area")]
    assert (data.notes, data.gaps) == ((), ())
    assert sum(data.facts[f"boxes_{name}"] for name in data.splits) == 4886

    annotations = root / "Annotations"
    val = data.splits["val"]
    parse = torchvision.datasets.VOCDetection.parse_voc_xml
    for index in range(0, len(val), 9):
        tree = parse(ET.parse(annotations / f"{val.ids[index]}.xml").getroot())["annotation"]  # noqa: S314 - our own files
        corners = [[int(o["bndbox"][k]) for k in ("xmin", "ymin", "xmax", "ymax")] for o in tree["object"]]
        expected = [(max(x1 - 1, 0), max(y1 - 1, 0), x2, y2) for x1, y1, x2, y2 in corners if x2 > x1 and y2 > y1]
        np.testing.assert_array_equal(val.annotations(index).boxes, expected)
        names = [o["name"] for o in tree["object"]]
        assert [data.classes[label] for label in val.annotations(index).labels] == names
        assert val.image(index).shape == (480, 640, 3)
