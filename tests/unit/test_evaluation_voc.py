"""Pascal VOC's average precision, against the challenge's rules written out plainly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from paretune.core.types import Detections
from paretune.evaluation.voc_metrics import voc_aps
from tests_support_evaluation import none_found, perfect, random_case, truth_of


def plainly(detections, annotations, label, rule):
    """The development kit's VOCevaldet, step by step, box by box."""
    found = [
        (float(score), image, box)
        for image, entry in enumerate(detections)
        for score, box, kind in zip(entry.scores, entry.boxes, entry.labels, strict=True)
        if kind == label
    ]
    found.sort(key=lambda row: -row[0])
    seen: dict[int, set[int]] = {image: set() for image in range(len(annotations))}
    hits, misses = [], []
    for _, image, box in found:
        truth = annotations[image]
        theirs = np.flatnonzero(truth.labels == label)
        best, place = -1.0, -1
        for index in theirs:
            overlap = float(box_iou(torch.tensor(box)[None].double(), torch.tensor(truth.boxes[index])[None].double()))
            if overlap > best:
                best, place = overlap, int(index)
        if best >= 0.5:
            if truth.ignore[place]:
                hit, miss = 0, 0
            elif place not in seen[image]:
                seen[image].add(place)
                hit, miss = 1, 0
            else:
                hit, miss = 0, 1
        else:
            hit, miss = 0, 1
        hits.append(hit)
        misses.append(miss)
    objects = sum(int(((a.labels == label) & ~a.ignore).sum()) for a in annotations)
    tp, fp = np.cumsum(hits), np.cumsum(misses)
    recall, precision = tp / objects, tp / np.maximum(tp + fp, 1e-300)
    if rule == "07":
        return sum(max(precision[recall >= t - 1e-12], default=0.0) for t in np.arange(11) / 10) / 11
    recall, precision = [0.0, *recall, 1.0], [0.0, *precision, 0.0]
    for i in range(len(precision) - 2, -1, -1):
        precision[i] = max(precision[i], precision[i + 1])
    return sum((recall[i] - recall[i - 1]) * precision[i] for i in range(1, len(recall)))


@pytest.mark.parametrize("rule", ["07", "10"])
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_the_rules_written_out(seed, rule):
    detections, annotations = random_case(seed, images=9, classes=3, score_steps=2**24)
    found = voc_aps(detections, annotations, 3)[rule]
    assert found == pytest.approx([plainly(detections, annotations, label, rule) for label in range(3)], abs=1e-12)


def test_by_hand():
    # hit, miss, hit of two: precision 1 up to recall 1/2, then 2/3
    truth = truth_of([[0, 0, 10, 10], [50, 50, 60, 60]], [0, 0])
    boxes = np.array([[0, 0, 10, 10], [80, 80, 90, 90], [50, 50, 60, 60]], np.float32)
    found = Detections(boxes, np.array([0.9, 0.8, 0.7], np.float32), np.zeros(3, np.int64))
    assert voc_aps([found], [truth], 1)["10"] == [pytest.approx(1 / 2 + 2 / 3 / 2)]
    assert voc_aps([found], [truth], 1)["07"] == [pytest.approx((6 * 1 + 5 * 2 / 3) / 11)]


def test_a_difficult_object_is_neither_found_nor_missed():
    truth = truth_of([[0, 0, 10, 10], [50, 50, 60, 60]], [0, 0], [True, False])
    assert voc_aps([perfect(truth)], [truth], 1)["10"] == [pytest.approx(1)]
    assert voc_aps([none_found()], [truth], 1)["10"] == [0.0]


def test_a_class_without_objects_is_unknown():
    truth = truth_of([[0, 0, 10, 10]], [1])
    assert voc_aps([perfect(truth)], [truth], 2)["10"] == [None, pytest.approx(1)]
