"""``data annotate --with``: what a detector finds becomes annotations that training reads."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from paretune.cli.main import main
from paretune.core.target import Target
from paretune.data.formats.coco import Coco
from paretune.data.image_io import read_image
from paretune.runtimes.predictor import load_predictor
from paretune.workflows.annotate import annotate
from tests_support_yolo import yolo_artefact

CLASSES = ("ant", "bee")
SCORE = 0.6


@pytest.fixture
def artefact(tmp_path):
    return yolo_artefact(tmp_path / "artefact", CLASSES)


def test_what_is_found_is_written_and_read_again(artefact, tmp_path, capsys):
    images, made = tmp_path / "images", tmp_path / "made"
    images.mkdir()
    for number in range(4):
        picture = np.random.default_rng(number).integers(0, 256, (60, 80, 3), np.uint8)
        cv2.imwrite(str(images / f"{number}.png"), picture)
    words = ["data", "annotate", images, made, "--to", "coco", "--with", artefact, "--score", SCORE]
    assert main(list(map(str, words))) == 0
    capsys.readouterr()
    predictor, written = load_predictor(artefact, Target()), {}
    opened = Coco(root=str(made), val_share=0.5).open(tmp_path)
    for split in opened.splits.values():
        written |= {name: split.annotations(index) for index, name in enumerate(split.ids)}
    assert set(opened.classes) <= set(CLASSES)
    assert sorted(written) == ["0", "1", "2", "3"]
    boxes = 0
    for name, truth in written.items():
        found = predictor(read_image(images / f"{name}.png"))
        sides = found.boxes[:, 2:] - found.boxes[:, :2]
        kept = (found.scores >= SCORE) & (sides > 0).all(axis=1)
        np.testing.assert_allclose(truth.boxes, found.boxes[kept], atol=1e-3)
        np.testing.assert_array_equal(truth.labels, found.labels[kept])
        boxes += int(kept.sum())
    assert boxes > 8


def test_images_whose_names_differ_in_the_ending_alone_are_told_apart(artefact, tmp_path):
    for name in ("a.png", "a.jpg", "b.jpg"):
        cv2.imwrite(str(tmp_path / name), np.zeros((60, 80, 3), np.uint8))
    (split,) = annotate(tmp_path, artefact, SCORE).splits.values()
    assert {name: split.file(index).name for index, name in enumerate(split.ids)} == {
        "a_jpg": "a.jpg",
        "a_png": "a.png",
        "b": "b.jpg",
    }


def test_no_images_and_no_artefact_are_refused(artefact, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for images, detector in ((tmp_path / "empty", artefact), (tmp_path, tmp_path / "nowhere")):
        words = ["data", "annotate", images, tmp_path / "made", "--to", "coco", "--with", detector]
        assert main(list(map(str, words))) == 2
        assert capsys.readouterr().err.count("\n") == 1
    words = ["data", "annotate", tmp_path, tmp_path / "made", "--to", "coco", "--with", artefact, "--score", 50]
    assert main(list(map(str, words))) == 2
    assert "--score 50.0: expected 0 to 1" in capsys.readouterr().err
    assert not (tmp_path / "made").exists()
