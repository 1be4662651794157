"""Mean average precision: known values, and pycocotools' own summary as the oracle."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from paretune.core.types import Detections
from paretune.evaluation import accuracy_of, evaluate
from paretune.evaluation.coco_metrics import average_precisions
from tests_support_accuracy import Numbered
from tests_support_evaluation import none_found, perfect, random_case, truth_of


def test_perfect_detections_give_one():
    _, annotations = random_case(3, images=8, classes=4, crowds=False)
    found = accuracy_of([perfect(a) for a in annotations], annotations, "abcd")
    crowded = {"ar1", "ar10"}  # more objects of a class in an image than detections that count
    figures = {name: value for name, value in found.metrics().items() if value is not None and name not in crowded}
    assert figures == pytest.approx({**dict.fromkeys(figures, 1.0), "confidence": 0.9})
    assert all(value == pytest.approx(1) for value in found.per_class.values())
    assert set(found.reasons) == {name for name, value in found.metrics().items() if value is None}
    assert set(found.reasons) <= {"map_large", "ar_large", "map_small", "ar_small"}


def test_nothing_detected_is_nought_and_says_what_is_unknown():
    _, annotations = random_case(3, images=4, classes=2)
    annotations[0] = truth_of([[0, 0, 9, 9], [0, 0, 60, 60], [0, 0, 99, 99]], [0, 0, 0])  # one of each size
    found = accuracy_of([none_found()] * 4, annotations, "ab")
    assert (found.map, found.map50, found.recall, found.f1) == (0, 0, 0, 0)
    assert found.precision is None
    assert found.confidence is None
    assert found.reasons == {"precision": "nothing was detected", "confidence": "nothing was detected"}


def test_no_objects_is_unknown_not_nought():
    detections, _ = random_case(0, images=3, classes=2)
    found = accuracy_of(detections, [truth_of([], [])] * 3, "ab")
    assert set(found.metrics().values()) == {None}
    assert set(found.reasons) == set(found.metrics())
    assert "no objects" in found.reasons["map"]
    assert found.per_class == {"a": None, "b": None}


def test_only_objects_to_ignore_is_unknown_too():
    truth = truth_of([[0, 0, 10, 10]], [0], ignore=[True])
    found = accuracy_of([perfect(truth)], [truth], "a")
    assert found.map is None
    assert found.f1 is None


def test_a_class_without_objects_is_unknown_and_not_in_the_mean():
    truth = truth_of([[0, 0, 10, 10]], [1])
    found = average_precisions([perfect(truth)], [truth], 3)
    assert found.map == pytest.approx(1)
    assert found.per_class == (None, pytest.approx(1), None)


def test_average_precision_by_hand():
    # hit, miss, hit of two objects: precision 1 up to recall 1/2, then 2/3: (51 x 1 + 50 x 2/3) / 101
    truth = truth_of([[0, 0, 10, 10], [50, 50, 60, 60]], [0, 0])
    boxes = np.array([[0, 0, 10, 10], [80, 80, 90, 90], [50, 50, 60, 60]], np.float32)
    found = Detections(boxes, np.array([0.9, 0.8, 0.7], np.float32), np.zeros(3, np.int64))
    assert average_precisions([found], [truth], 1).map == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_detections_on_a_crowd_are_no_misses():
    truth = truth_of([[0, 0, 100, 100], [200, 200, 220, 220]], [0, 0], ignore=[True, False])
    boxes = np.array([[5, 5, 30, 30], [40, 40, 90, 90], [200, 200, 220, 220]], np.float32)
    found = Detections(boxes, np.array([0.9, 0.8, 0.7], np.float32), np.zeros(3, np.int64))
    assert average_precisions([found], [truth], 1).map == pytest.approx(1)


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10**6), order=st.permutations(range(5)))
def test_order_of_images_does_not_matter(seed, order):
    detections, annotations = random_case(seed, images=5, classes=2, score_steps=2**24)
    scores = np.concatenate([found.scores for found in detections])
    assume(len(np.unique(scores)) == len(scores))  # of equal ones pycocotools takes those of the earlier image first
    one = accuracy_of(detections, annotations, "ab")
    other = accuracy_of([detections[i] for i in order], [annotations[i] for i in order], "ab")
    assert other.metrics() == pytest.approx(one.metrics(), abs=1e-12)


def test_lists_of_other_lengths_are_refused():
    detections, annotations = random_case(1, images=3, classes=2)
    with pytest.raises(ValueError, match="2 images with detections, 3 with annotations"):
        average_precisions(detections[:2], annotations, 2)


@pytest.mark.parametrize(("limit", "count"), [(None, 6), (4, 4), (99, 6)])
def test_evaluate_goes_through_the_images_in_order(limit, count):
    detections, annotations = random_case(5, images=6, classes=2)
    told, seen = [], []

    def predictor(image):
        seen.append(int(image[0, 0, 0]))
        return detections[seen[-1]]

    found = evaluate(
        predictor, Numbered(annotations, ("a", "b")), progress=lambda done, of: told.append((done, of)), images=limit
    )
    assert seen == list(range(count))
    assert told == [(i + 1, count) for i in range(count)]
    assert found == accuracy_of(detections[:count], annotations[:count], ("a", "b"))
    assert found.images == count
