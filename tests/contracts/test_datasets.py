"""What every dataset in the table must do."""

from __future__ import annotations

import itertools
import pickle
import subprocess
import sys
from xml.etree import ElementTree as ET

import cv2
import numpy as np
import pytest

from paretune.core.errors import UserError
from paretune.core.types import Data
from paretune.data import DATASETS
from paretune.data.base import Dataset
from paretune.data.conversion import write_dataset
from tests_support import ROOT
from tests_support_layouts import supervisely


def shapes_fields(folder):
    return {"train": 6, "val": 4, "test": 2, "size": "96x64", "difficulty": 0.8}


def voc_fields(folder):
    """Write a VOC folder of random rectangles."""
    random = np.random.default_rng(0)
    names = [f"p{number}" for number in range(12)]
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    for name in names:
        cv2.imwrite(str(folder / f"JPEGImages/{name}.jpg"), random.integers(0, 256, (48, 64, 3), np.uint8))
        root = ET.Element("annotation")
        for kind in random.choice(["cat", "dog", "eel"], 3):
            node = ET.SubElement(root, "object")
            ET.SubElement(node, "name").text = str(kind)
            ET.SubElement(node, "difficult").text = str(int(random.integers(2)))
            box = ET.SubElement(node, "bndbox")
            left, top = random.integers(1, 40, 2)
            for corner, value in (("xmin", left), ("ymin", top), ("xmax", left + 24), ("ymax", top + 8)):
                ET.SubElement(box, corner).text = str(value)
        ET.ElementTree(root).write(folder / f"Annotations/{name}.xml")
    for part, ids in (("train", names[:6]), ("val", names[6:10]), ("test", names[10:])):
        (folder / f"ImageSets/Main/{part}.txt").write_text("\n".join(ids))
    return {"root": str(folder)}


def written(form):
    """Write the VOC folder in another format."""

    def fields(folder):
        source = DATASETS.load("voc").model_validate(voc_fields(folder / "voc")).open(folder)
        write_dataset(source, folder / form, form)
        return {"root": str(folder / form)}

    return fields


def flat_fields(folder):
    """Put the annotations of the VOC folder beside its images."""
    voc_fields(folder / "voc")
    for split, ids in (("train", range(6)), ("val", range(6, 10)), ("test", range(10, 12))):
        (folder / "flat" / split).mkdir(parents=True)
        for part, end in (("JPEGImages", "jpg"), ("Annotations", "xml")):
            for number in ids:
                name = f"p{number}.{end}"
                (folder / "voc" / part / name).rename(folder / "flat" / split / name)
    return {"root": str(folder / "flat")}


def supervisely_fields(folder):
    supervisely(folder)
    return {"root": str(folder)}


EXAMPLES = {
    "coco": written("coco"),
    "labelme": written("labelme"),
    "labelstudio": written("labelstudio"),
    "shapes": shapes_fields,
    "supervisely": supervisely_fields,
    "via": written("via"),
    "voc": voc_fields,
    "voc_flat": flat_fields,
    "yolo": written("yolo"),
}


def test_every_row_has_an_example_here():
    assert sorted(EXAMPLES) == DATASETS.names


@pytest.fixture(params=DATASETS.names)
def dataset(request, tmp_path) -> Dataset:
    return DATASETS.load(request.param).model_validate(EXAMPLES[request.param](tmp_path / "files"))


@pytest.fixture
def data(dataset, tmp_path) -> Data:
    return dataset.open(tmp_path / "cache")


def test_is_a_documented_plugin(dataset):
    assert DATASETS.load(dataset.name) is type(dataset)
    assert type(dataset).__doc__
    for field, info in type(dataset).model_fields.items():
        assert info.description, f"{field} has no documentation"
    assert type(dataset).model_validate(dataset.tree()) == dataset


def test_a_good_one_has_no_problems(dataset):
    assert dataset.problems() == []


def test_has_train_and_val_and_perhaps_test(data):
    assert {"train", "val"} <= set(data.splits) <= {"train", "val", "test"}
    assert len(set(data.classes)) == len(data.classes) > 0
    for split in data.splits.values():
        assert len(split) == len(split.ids) > 0
        assert tuple(split.classes) == data.classes


def test_images_are_rgb_of_the_size_told(data):
    for split in data.splits.values():
        for index in range(len(split)):
            image = split.image(index)
            assert image.dtype == np.uint8
            assert image.shape == (*split.size(index)[::-1], 3)


def test_annotations_keep_the_conventions(data):
    for split in data.splits.values():
        for index in range(len(split)):
            truth, (width, height) = split.annotations(index), split.size(index)
            count = len(truth.labels)
            assert (truth.boxes.shape, truth.ignore.shape) == ((count, 4), (count,))
            assert (truth.boxes.dtype, truth.labels.dtype, truth.ignore.dtype) == (np.float32, np.int64, np.bool_)
            assert ((truth.labels >= 0) & (truth.labels < len(data.classes))).all()
            assert (truth.boxes >= 0).all()
            assert (truth.boxes <= [width, height, width, height]).all()
            assert (truth.boxes[:, 2:] > truth.boxes[:, :2]).all()


def test_no_image_is_in_two_splits_or_twice_in_one(data):
    for split in data.splits.values():
        assert len(set(split.ids)) == len(split.ids)
    for one, other in itertools.combinations(data.splits.values(), 2):
        assert set(one.ids).isdisjoint(other.ids)


def test_opening_again_gives_the_same(dataset, data, tmp_path):
    for cache in (tmp_path / "cache", tmp_path / "another"):
        assert_same(dataset.open(cache), data)


@pytest.mark.slow
def test_another_process_gives_the_same(dataset, data, tmp_path):
    code = (
        "import pickle, sys; from pathlib import Path; dataset, cache = pickle.load(sys.stdin.buffer)\n"
        "sys.stdout.buffer.write(pickle.dumps(dataset.open(cache)))"
    )
    order = pickle.dumps((dataset, tmp_path / "elsewhere"))
    done = subprocess.run(
        [sys.executable, "-c", code], input=order, capture_output=True, check=True, cwd=ROOT / "platform"
    )
    assert_same(pickle.loads(done.stdout), data)  # noqa: S301 - made here


def assert_same(one: Data, other: Data):
    assert (one.fingerprint, one.classes, one.notes, one.facts) == (
        other.fingerprint,
        other.classes,
        other.notes,
        other.facts,
    )
    assert one.splits.keys() == other.splits.keys()
    for name, split in one.splits.items():
        assert list(split.ids) == list(other.splits[name].ids)
        for index in range(len(split)):
            np.testing.assert_array_equal(split.image(index), other.splits[name].image(index))
            left, right = split.annotations(index), other.splits[name].annotations(index)
            for field in ("boxes", "labels", "ignore"):
                np.testing.assert_array_equal(getattr(left, field), getattr(right, field))


def test_facts_count_images_and_boxes(data):
    for name, split in data.splits.items():
        truth = [split.annotations(index) for index in range(len(split))]
        assert data.facts[f"images_{name}"] == len(split)
        assert data.facts[f"boxes_{name}"] == sum(int((~a.ignore).sum()) for a in truth)
        for label, kind in enumerate(data.classes):
            count = sum(int((a.labels[~a.ignore] == label).sum()) for a in truth)
            assert data.facts[f"boxes_{name}_{kind}"] == count


def test_files_that_are_not_there_are_a_users_mistake(dataset, tmp_path):
    if "root" not in type(dataset).model_fields:
        assert dataset.problems() == []
        return
    lost = dataset.model_copy(update={"root": str(tmp_path / "lost")})
    assert len(lost.problems()) == 1
    with pytest.raises(UserError, match="lost"):
        lost.open(tmp_path / "cache")


def test_checking_imports_nothing_heavy(dataset):
    code = (
        "import pickle, sys; dataset = pickle.load(sys.stdin.buffer); dataset.problems()\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=pickle.dumps(dataset),
        capture_output=True,
        check=True,
        cwd=ROOT / "platform",
    )
    assert {"torch", "torchvision", "cv2", "PIL"}.isdisjoint(done.stdout.decode().split())
