"""hotcoco serves in sweeps; pycocotools is the oracle it must equal, on every odd case COCO's rules have."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paretune.core.types import Annotations, Detections
from paretune.evaluation import weighted_map as weighing
from paretune.evaluation.coco_metrics import average_precisions
from paretune.evaluation.detection_outcomes import outcomes_by_class
from paretune.evaluation.map_bootstrap import (
    MapOfHalves,
    differences_of,
    draw,
    interval_of,
    map_interval,
)
from paretune.evaluation.weighted_map import ranked, weighted_maps
from tests_support_coco import coco_oracle
from tests_support_evaluation import none_found, perfect, random_case, truth_of

CLASSES = 4


def difference_intervals(first, second, annotations, classes, draws=1000):
    return differences_of(*(draw(found, annotations, classes, draws=draws) for found in (first, second)))


def both(detections, annotations, classes=CLASSES):
    one, other = (compute(detections, annotations, classes) for compute in (average_precisions, coco_oracle))
    assert list(one.numbers().values()) == pytest.approx(list(other.numbers().values()), abs=1e-9)
    assert one.per_class == pytest.approx(other.per_class, abs=1e-9)
    return one


def odd_case(seed):
    """Images without objects, without detections, with crowds alone, with hundreds of detections, with ties."""
    random = np.random.default_rng(seed)
    detections, annotations = random_case(seed, images=8, classes=CLASSES, score_steps=int(random.integers(2, 30)))
    for index in range(8):
        kind = random.integers(0, 7)
        truth, found = annotations[index], detections[index]
        if kind == 0:
            annotations[index] = truth_of([], [])
        elif kind == 1:
            detections[index] = none_found()
        elif kind == 2:
            annotations[index] = Annotations(truth.boxes, truth.labels, np.ones_like(truth.ignore))
        elif kind == 3:  # more than a hundred detections of one class
            order = np.repeat(np.arange(len(found.scores)), 60)
            detections[index] = Detections(found.boxes[order], found.scores[order], np.zeros(len(order), np.int64))
        elif kind == 4:  # areas of outlines, not of boxes
            areas = random.uniform(10, 20_000, len(truth.labels)).astype(np.float32)
            annotations[index] = Annotations(truth.boxes, truth.labels, truth.ignore, areas)
        elif kind == 5:  # boxes in whole pixels: overlaps of exactly 0.5, 0.75 ...
            detections[index] = Detections(np.round(found.boxes), found.scores, found.labels)
            annotations[index] = Annotations(np.round(truth.boxes), truth.labels, truth.ignore)
    return detections, annotations


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6))
def test_both_engines_give_the_same_numbers(seed):
    both(*odd_case(seed))


@pytest.mark.parametrize(
    ("detections", "annotations"),
    [
        ([none_found()], [truth_of([], [])]),
        ([none_found()], [truth_of([[0, 0, 9, 9]], [1])]),
        ([perfect(truth_of([[0, 0, 9, 9]], [1]))], [truth_of([], [])]),
        ([perfect(truth_of([[0, 0, 9, 9]], [1]))], [truth_of([[0, 0, 9, 9]], [1], [True])]),
        ([], []),
    ],
    ids=["nothing at all", "nothing found", "nothing to find", "a crowd alone", "no images"],
)
def test_both_engines_agree_where_there_is_little(detections, annotations):
    both(detections, annotations)


def test_objects_are_sized_by_their_own_areas():
    truth = truth_of([[0, 0, 100, 100]], [0])
    outlined = Annotations(truth.boxes, truth.labels, truth.ignore, np.array([500], np.float32))
    found = both([perfect(truth)], [outlined], 1)
    assert (found.map_small, found.map_large) == (pytest.approx(1), None)
    assert both([perfect(truth)], [truth], 1).map_large == pytest.approx(1)


@pytest.mark.parametrize("seed", range(3))
def test_unweighted_bootstrap_is_the_engines_map(seed):
    detections, annotations = odd_case(seed)
    low, middle, high = map_interval(detections, annotations, CLASSES, draws=40)
    assert middle == pytest.approx(coco_oracle(detections, annotations, CLASSES).map, abs=1e-9)
    assert low <= high


@pytest.mark.parametrize("seed", range(3))
def test_a_weighed_image_counts_as_one_that_stands_there_so_often(seed, monkeypatch):
    """Crowds, images without objects, more than a hundred detections: pycocotools on the images repeated."""
    detections, annotations = distinct(*odd_case(seed), seed)
    random = np.random.default_rng(seed)
    chosen = [np.sort(random.integers(0, 8, count)) for count in (1, 5, 8, 20)]
    weights = np.stack([np.bincount(images, minlength=8) for images in chosen], axis=1)
    classes = ranked(outcomes_by_class(detections, annotations, CLASSES))
    found = weighted_maps(classes, weights.astype(np.float64))
    for images, got in zip(chosen, found.T, strict=True):
        oracle = coco_oracle([detections[i] for i in images], [annotations[i] for i in images], CLASSES)
        if oracle.map is None:
            assert np.isnan(got).all()
        else:
            assert (got.mean(), got[0], got[5]) == pytest.approx((oracle.map, oracle.map50, oracle.map75), abs=1e-9)
    np.testing.assert_allclose(weighted_maps(classes, weights.astype(np.float32)), found, atol=1e-6)
    monkeypatch.setattr(weighing, "_CELLS", 1)  # in the smallest parts
    many = np.tile(weights, 10).astype(np.float64)
    np.testing.assert_array_equal(weighted_maps(classes, many), np.tile(found, 10))


def distinct(detections, annotations, seed):
    """No two detections of a class in an image with one score: which of them comes first would decide."""
    random = np.random.default_rng(seed)
    scores = [np.sort(random.random(len(found.scores)))[::-1] for found in detections]
    return [Detections(d.boxes, own, d.labels) for d, own in zip(detections, scores, strict=True)], annotations


def test_each_draw_is_half_of_the_images_and_the_next_the_other_half():
    detections, annotations = distinct(*random_case(2, images=9, classes=2), 0)
    drawn = draw(detections, annotations, 2, draws=4, seed=7)
    random = np.random.default_rng(7)
    for pair in (0, 2):
        order = random.permutation(9)
        for place, images in ((pair, order[:4]), (pair + 1, order[4:])):
            some = [detections[i] for i in sorted(images)], [annotations[i] for i in sorted(images)]
            oracle = coco_oracle(*some, 2)
            got = drawn.drawn[:, place]
            assert (got.mean(), got[0]) == pytest.approx((oracle.map, oracle.map50), abs=1e-6)


def test_what_few_images_show_too_high_is_taken_off_the_ends():
    """A map of 0.5 whose halves have 0.52: 0.04 too high; of a difference nothing is taken off."""
    halves = 0.52 + 0.1 * np.tile([-1.0, 1.0], (10, 500))
    drawn, none = MapOfHalves(np.full(10, 0.5), halves, 1000), MapOfHalves(np.zeros(10), np.zeros((10, 1000)), 1000)
    low, middle, high = interval_of(drawn)
    assert middle == 0.5
    assert (low + high) / 2 == pytest.approx(0.46)
    assert high - low == pytest.approx(2 * 1.96 * 0.105, rel=0.01)
    change = differences_of(drawn, none)["map"]
    assert (change[0] + change[2]) / 2 == pytest.approx(0.5)
    assert change[2] - change[0] == pytest.approx(high - low)
    few = interval_of(MapOfHalves(np.full(10, 0.5), 0.5 + 0.1 * np.tile([-1.0, 1.0], (10, 500)), 20))
    assert few[2] - few[0] == pytest.approx(2 * 2.571 * 0.105, rel=0.01)  # Student's quantile of five


@pytest.mark.slow
def test_the_interval_holds_the_map_of_other_images():
    """Of 40 data sets from one world, about 95 % of the intervals hold the world's own map."""
    whole = random_case(0, images=4000, classes=1, score_steps=2**20)
    world = average_precisions(*whole, 1).map
    hits = 0
    for part in range(40):
        chosen = slice(part * 100, part * 100 + 100)
        low, _, high = map_interval(whole[0][chosen], whole[1][chosen], 1, draws=200, seed=part)
        hits += low <= world <= high
    assert hits >= 35


def test_a_difference_is_that_of_the_maps_and_surer_than_either():
    """What is lost here is lost on every image, however hard: far less in doubt than the maps themselves."""
    detections, annotations = random_case(3, images=60, classes=2, score_steps=2**20)
    fewer = [Detections(found.boxes[::3], found.scores[::3], found.labels[::3]) for found in detections]
    low, middle, high = difference_intervals(detections, fewer, annotations, 2)["map"]
    maps = [coco_oracle(found, annotations, 2).map for found in (detections, fewer)]
    assert middle == pytest.approx(maps[0] - maps[1], abs=1e-9)
    assert 0 < low < middle < high
    alone = [map_interval(found, annotations, 2) for found in (detections, fewer)]
    assert (high - low) ** 2 < sum((top - bottom) ** 2 for bottom, _, top in alone)


def test_an_artefact_differs_in_nothing_from_itself():
    detections, annotations = odd_case(1)
    found = difference_intervals(detections, detections, annotations, CLASSES, draws=20)
    assert found == {"map": (0, 0, 0), "map50": (0, 0, 0)}


def test_no_objects_have_no_interval():
    assert map_interval([none_found()], [truth_of([], [])], 2) is None
    found = difference_intervals([none_found()], [none_found()], [truth_of([], [])], 2)
    assert found == {"map": None, "map50": None}
