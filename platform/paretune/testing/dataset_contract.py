"""What every dataset must do."""

from __future__ import annotations

import itertools
import pickle
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from paretune.core.errors import UserError
from paretune.core.registry import Registry
from paretune.core.spec import Spec
from paretune.core.types import Data
from paretune.data import DATASETS
from paretune.data.base import Dataset
from paretune.testing.heavy_imports import run_python
from paretune.testing.plugin_contract import PluginContract


class DatasetContract(PluginContract):
    """Tests of one dataset with a few images, none of which is left out.

    A class whose images must be written first overrides the fixture ``subject``.
    """

    plugin: ClassVar[Dataset]
    table: ClassVar[Registry[Any]] = DATASETS
    table_module = "paretune.data"
    table_name = "DATASETS"

    @pytest.fixture
    def data(self, subject: Dataset, tmp_path: Path) -> Data:
        """Return the opened dataset."""
        return subject.open(tmp_path / "cache")

    def test_its_file_imports_no_heavy_library(self, subject: Spec) -> None:
        """`paretune check` imports its file and looks at its folder."""
        code = (
            "import pickle, sys; dataset = pickle.load(sys.stdin.buffer); dataset.problems()\n"
            "print(*{name.partition('.')[0] for name in sys.modules})"
        )
        imported = run_python(code, pickle.dumps(subject)).decode().split()
        assert {"torch", "torchvision", "cv2", "PIL"}.isdisjoint(imported)

    def test_a_good_one_has_no_problems(self, subject: Dataset) -> None:
        """The quick look finds nothing wrong."""
        assert subject.problems() == []

    def test_has_train_and_val_and_perhaps_test(self, data: Data) -> None:
        """No split is empty, and all are of the same classes."""
        assert {"train", "val"} <= set(data.splits) <= {"train", "val", "test"}
        assert len(set(data.classes)) == len(data.classes) > 0
        for split in data.splits.values():
            assert len(split) == len(split.ids) > 0
            assert tuple(split.classes) == data.classes

    def test_images_are_rgb_of_their_size(self, data: Data) -> None:
        """Images are (H, W, 3) uint8, of the size that is known without decoding them."""
        for split in data.splits.values():
            for index in range(len(split)):
                image = split.image(index)
                assert image.dtype == np.uint8
                assert image.shape == (*split.size(index)[::-1], 3)

    def test_annotations_keep_the_conventions(self, data: Data) -> None:
        """Boxes are x1 y1 x2 y2 in pixels, inside the image and not empty; labels are those of the classes."""
        for split in data.splits.values():
            for index in range(len(split)):
                truth, (width, height) = split.annotations(index), split.size(index)
                count = len(truth.labels)
                assert (truth.boxes.shape, truth.ignore.shape) == ((count, 4), (count,))
                assert truth.boxes.dtype == np.float32
                assert truth.labels.dtype == np.int64
                assert truth.ignore.dtype == np.bool_
                assert ((truth.labels >= 0) & (truth.labels < len(data.classes))).all()
                assert (truth.boxes >= 0).all()
                assert (truth.boxes <= [width, height, width, height]).all()
                assert (truth.boxes[:, 2:] > truth.boxes[:, :2]).all()

    def test_no_image_is_in_two_splits_or_twice_in_one(self, data: Data) -> None:
        """An image's id is unique in the dataset."""
        for split in data.splits.values():
            assert len(set(split.ids)) == len(split.ids)
        for one, other in itertools.combinations(data.splits.values(), 2):
            assert set(one.ids).isdisjoint(other.ids)

    def test_opening_again_gives_the_same(self, subject: Dataset, data: Data, tmp_path: Path) -> None:
        """Images and annotations depend neither on the cache nor on the time."""
        for cache in (tmp_path / "cache", tmp_path / "another"):
            assert_same_data(subject.open(cache), data)

    def test_another_process_gives_the_same(self, subject: Dataset, data: Data, tmp_path: Path) -> None:
        """Workers open the dataset by themselves."""
        code = (
            "import pickle, sys; from pathlib import Path; dataset, cache = pickle.load(sys.stdin.buffer)\n"
            "sys.stdout.buffer.write(pickle.dumps(dataset.open(cache)))"
        )
        opened = run_python(code, pickle.dumps((subject, tmp_path / "elsewhere")))
        assert_same_data(pickle.loads(opened), data)  # noqa: S301 - made here

    def test_facts_count_images_and_boxes(self, data: Data) -> None:
        """Counts of images, boxes and boxes of each class are those of the splits; boxes to ignore do not count."""
        for name, split in data.splits.items():
            truth = [split.annotations(index) for index in range(len(split))]
            assert data.facts[f"images_{name}"] == len(split)
            assert data.facts[f"boxes_{name}"] == sum(int((~a.ignore).sum()) for a in truth)
            for label, kind in enumerate(data.classes):
                count = sum(int((a.labels[~a.ignore] == label).sum()) for a in truth)
                assert data.facts[f"boxes_{name}_{kind}"] == count

    def test_files_that_are_not_there_are_a_users_mistake(self, subject: Dataset, tmp_path: Path) -> None:
        """A folder that is lost is named by a line, by the quick look and by opening alike."""
        if "root" not in type(subject).model_fields:
            assert subject.problems() == []
            return
        lost = subject.model_copy(update={"root": str(tmp_path / "lost")})
        assert len(lost.problems()) == 1
        with pytest.raises(UserError, match="lost"):
            lost.open(tmp_path / "cache")


def assert_same_data(one: Data, other: Data) -> None:
    """Assert that two opened datasets hold the same images, annotations and facts."""
    assert (one.fingerprint, one.classes, one.notes) == (other.fingerprint, other.classes, other.notes)
    assert one.facts == other.facts
    assert one.splits.keys() == other.splits.keys()
    for name, split in one.splits.items():
        assert list(split.ids) == list(other.splits[name].ids)
        for index in range(len(split)):
            np.testing.assert_array_equal(split.image(index), other.splits[name].image(index))
            left, right = split.annotations(index), other.splits[name].annotations(index)
            for field in ("boxes", "labels", "ignore"):
                np.testing.assert_array_equal(getattr(left, field), getattr(right, field))
