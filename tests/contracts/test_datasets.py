"""Every row of the table of datasets keeps the contract."""

from __future__ import annotations

import pickle
from pathlib import Path
from xml.etree import ElementTree as ET

import cv2
import numpy as np
import pytest

from paretune.data import DATASETS
from paretune.data.base import Dataset
from paretune.data.conversion import write_dataset
from paretune.testing import DatasetContract
from paretune.testing.heavy_imports import run_python
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


class TestDatasets(DatasetContract):
    @pytest.fixture(params=DATASETS.names)
    def subject(self, request: pytest.FixtureRequest, tmp_path: Path) -> Dataset:
        return DATASETS.load(request.param).model_validate(EXAMPLES[request.param](tmp_path / "files"))

    test_its_file_imports_no_heavy_library = None  # of all rows at once, below
    test_another_process_gives_the_same = pytest.mark.slow(DatasetContract.test_another_process_gives_the_same)


LOOKED_AT = """\
import pickle, sys
for dataset in pickle.load(sys.stdin.buffer):
    dataset.problems()
    print(dataset.name, *{"torch", "torchvision", "cv2", "PIL"}.intersection(sys.modules))
"""


def test_importing_their_files_and_looking_at_their_folders_imports_no_heavy_library(tmp_path: Path) -> None:
    rows = [
        DATASETS.load(name).model_validate(example(tmp_path / name / "files")) for name, example in EXAMPLES.items()
    ]
    assert run_python(LOOKED_AT, pickle.dumps(rows)).decode().split() == list(EXAMPLES)
