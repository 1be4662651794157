"""Precision, recall and F1: pycocotools' own matching as the oracle, and what must hold for any numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou

from paretune.core.types import Detections
from paretune.evaluation.matching import best_of, match, match_by_class, overlap, point_of, together
from tests_support_coco import evaluated
from tests_support_evaluation import none_found, perfect, random_case, truth_of

CLASSES = 3


def best_f1(detections, annotations):
    return best_of(match(detections, annotations))


def at_confidence(detections, annotations, confidence):
    return point_of(match(detections, annotations), confidence)


def counted_by_pycocotools(detections, annotations):
    """Scores and hits of all detections that count at IoU 0.5, and the number of objects."""
    scores, hits, objects = [], [], 0
    for entry in evaluated(detections, annotations, CLASSES).evalImgs:
        if entry is None or entry["aRng"] != [0, 1e10]:  # objects of all sizes
            continue
        counts = ~entry["dtIgnore"][0].astype(bool)
        scores += list(np.asarray(entry["dtScores"])[counts])
        hits += list((entry["dtMatches"][0] > 0)[counts])
        objects += int((np.asarray(entry["gtIgnore"]) == 0).sum())
    return np.array(scores), np.array(hits, bool), objects


@pytest.mark.parametrize("seed", range(6))
def test_agrees_with_pycocotools_at_every_confidence(seed):
    detections, annotations = random_case(seed, images=6, classes=CLASSES)
    scores, hits, objects = counted_by_pycocotools(detections, annotations)
    best = 0.0
    for confidence in np.unique(scores):
        kept = scores >= confidence
        point = at_confidence(detections, annotations, float(confidence))
        precision, recall = hits[kept].mean(), hits[kept].sum() / objects
        assert (point.precision, point.recall) == pytest.approx((precision, recall))
        best = max(best, 2 * precision * recall / (precision + recall) if hits[kept].any() else 0.0)
    assert best_f1(detections, annotations).f1 == pytest.approx(best)


@pytest.mark.parametrize("seed", range(2))
def test_each_class_is_matched_as_if_it_were_alone(seed):
    detections, annotations = random_case(seed, images=6, classes=CLASSES)
    found = match_by_class(detections, annotations, CLASSES)
    for label, entry in enumerate(found):
        mine = [
            Detections(*(column[d.labels == label] for column in (d.boxes, d.scores, d.labels))) for d in detections
        ]
        theirs = [
            truth_of(*(column[a.labels == label] for column in (a.boxes, a.labels, a.ignore))) for a in annotations
        ]
        scores, hits, objects = counted_by_pycocotools(mine, theirs)
        assert (sorted(entry.scores), entry.objects) == (sorted(scores.astype(np.float32)), objects)
        for score in np.unique(entry.scores):
            assert entry.hits[entry.scores == score].sum() == hits[scores.astype(np.float32) == score].sum()
    whole, joined = match(detections, annotations), together(found)
    np.testing.assert_array_equal(whole.scores, joined.scores)
    assert whole.objects == joined.objects


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), confidence=st.floats(0, 1))
def test_f1_is_the_harmonic_mean_and_lies_between_precision_and_recall(seed, confidence):
    detections, annotations = random_case(seed, images=3, classes=2)
    for point in (best_f1(detections, annotations), at_confidence(detections, annotations, confidence)):
        if point.precision is None or point.recall is None:
            continue
        low, high = sorted((point.precision, point.recall))
        assert low - 1e-12 <= point.f1 <= high + 1e-12
        if low > 0:
            assert point.f1 == pytest.approx(2 / (1 / point.precision + 1 / point.recall))


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), confidence=st.floats(0, 1))
def test_no_confidence_beats_the_best(seed, confidence):
    detections, annotations = random_case(seed, images=3, classes=2, crowds=False)
    best = best_f1(detections, annotations)
    assert at_confidence(detections, annotations, confidence).f1 <= best.f1 + 1e-12
    assert at_confidence(detections, annotations, best.confidence) == best


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6), low=st.floats(0, 1), high=st.floats(0, 1))
def test_recall_falls_with_confidence(seed, low, high):
    detections, annotations = random_case(seed, images=3, classes=2, crowds=False)
    low, high = sorted((low, high))
    assert at_confidence(detections, annotations, low).recall >= at_confidence(detections, annotations, high).recall


def test_the_second_detection_of_an_object_is_a_miss():
    truth = truth_of([[0, 0, 10, 10]], [0])
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9.5]], np.float32)
    found = Detections(boxes, np.array([0.9, 0.8], np.float32), np.zeros(2, np.int64))
    assert match([found], [truth]).hits.tolist() == [True, False]
    assert best_f1([found], [truth]).confidence == pytest.approx(0.9)


def test_another_class_is_a_miss():
    truth = truth_of([[0, 0, 10, 10]], [0])
    found = Detections(truth.boxes, np.array([0.9], np.float32), np.array([1]))
    point = best_f1([found], [truth])
    assert (point.precision, point.recall, point.f1) == (0, 0, 0)


def test_a_half_overlap_is_a_hit():
    truth = truth_of([[0, 0, 10, 10]], [0])
    found = Detections(np.array([[0, 0, 10, 5]], np.float32), np.array([0.9], np.float32), np.array([0]))
    assert match([found], [truth]).hits.tolist() == [True]


def test_equal_scores_are_kept_or_dropped_together():
    truth = truth_of([[0, 0, 10, 10]], [0])
    boxes = np.array([[0, 0, 10, 10], [50, 50, 60, 60]], np.float32)
    found = Detections(boxes, np.array([0.5, 0.5], np.float32), np.zeros(2, np.int64))
    assert best_f1([found], [truth]).precision == 0.5


def test_a_score_that_is_the_confidence_is_kept_in_any_precision():
    """float32 holds 0.3 as a little more, and 0.7 as a little less."""
    truth = truth_of([[20 * i, 0, 20 * i + 10, 10] for i in range(4)], [0] * 4)
    for kind in (np.float32, np.float64):
        found = Detections(truth.boxes, np.array([0.9, 0.8, 0.7, 0.3], kind), np.zeros(4, np.int64))
        recalls = [at_confidence([found], [truth], score).recall for score in (0.9, 0.8, 0.7, 0.3)]
        assert recalls == [0.25, 0.5, 0.75, 1]
    assert at_confidence([found], [truth], 0.3) == best_f1([found], [truth])


def test_unknown_is_none():
    truth = truth_of([[0, 0, 10, 10]], [0])
    nothing = best_f1([none_found()], [truth])
    assert (nothing.confidence, nothing.precision, nothing.recall, nothing.f1) == (None, None, 0, 0)
    empty = best_f1([perfect(truth)], [truth_of([], [])])
    assert (empty.precision, empty.recall, empty.f1, empty.objects) == (None, None, None, 0)
    assert at_confidence([perfect(truth, 0.4)], [truth], 0.5).precision is None


def test_overlap_against_torchvision():
    random = np.random.default_rng(0)
    ones, others = (np.sort(random.uniform(0, 50, (n, 2, 2)), axis=1).reshape(n, 4) for n in (9, 7))
    ones, others = ones.astype(np.float32), others.astype(np.float32)
    expected = box_iou(torch.from_numpy(ones).double(), torch.from_numpy(others).double()).numpy()
    np.testing.assert_allclose(overlap(ones, others, np.zeros(7, bool)), expected, atol=1e-9)


def test_overlap_with_a_crowd_is_the_share_inside_it():
    ones = np.array([[0, 0, 10, 10], [95, 0, 105, 10], [0, 0, 0, 0]], np.float32)
    crowd = np.array([[0, 0, 100, 100]], np.float32)
    np.testing.assert_allclose(overlap(ones, crowd, np.array([True]))[:, 0], [1, 0.5, 0])
