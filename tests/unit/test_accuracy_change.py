"""Accuracy before and after a recipe: pycocotools is the oracle of the figures, the verdicts are those of a reader."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from paretune.core.errors import UserError
from paretune.core.metrics import change_names
from paretune.core.types import Detections
from paretune.evaluation.baseline_difference import AccuracyDifference
from paretune.workflows.accuracy_change import (
    Drop,
    Reference,
    SplitChange,
    accuracy_change,
    check_judgeable,
    map_change,
    map_words,
)
from tests_support_accuracy import Numbered, blind, changed, finding, thinned
from tests_support_coco import coco_oracle
from tests_support_evaluation import none_found, perfect, random_case, truth_of


def shifted(detections: list[Detections]) -> list[Detections]:
    """Boxes beside every object."""
    return [Detections(one.boxes + 1000, one.scores, one.labels) for one in detections]


def rarely(detections: list[Detections]) -> list[Detections]:
    """Found in one of forty images."""
    return [one if index == 8 else none_found() for index, one in enumerate(detections)]


def same(detections: list[Detections]) -> list[Detections]:
    return detections


def test_figures_of_both_splits_are_pycocotools_own(tmp_path: Path) -> None:
    detections, annotations = random_case(5, images=240, classes=3, score_steps=2**20)
    fewer = thinned(detections, 3)
    splits: Any = {"train": None, "val": Numbered(annotations[:160]), "test": Numbered(annotations[160:], first=160)}
    lines: list[str] = []
    reference = Reference(lambda: ("dense in eager", finding(detections)), tmp_path)
    found = accuracy_change(finding(fewer), reference, splits, lines.append)
    assert found.against == "dense in eager"
    assert list(found.splits) == ["val", "test"]
    assert len(lines) == 2
    for name, part in (("val", slice(0, 160)), ("test", slice(160, 240))):
        before, after = (coco_oracle(some[part], annotations[part], 3) for some in (detections, fewer))
        split = found.splits[name]
        assert (split.before.map, split.after.map) == pytest.approx((before.map, after.map), abs=1e-9)
        low, middle, high = split.delta
        assert middle == pytest.approx(after.map - before.map, abs=1e-9)
        assert low < middle < high < 0
        assert split.low < split.after.map < split.high
        told = found.tree()["splits"][name]
        assert (told["before"]["map"], told["after"]["map50"]) == pytest.approx((before.map, after.map50), abs=1e-9)
        assert told["images"] == len(annotations[part])
        assert told["change"]["map_delta_low"] == low
    said = "\n".join(found.lines())
    assert f"{found.splits['val'].before.map:.3f} → {found.splits['val'].after.map:.3f}" in said
    assert f"{found.splits['test'].delta[1]:+.3f} [{found.splits['test'].delta[0]:+.3f}, " in said
    assert max(map(len, found.lines())) <= 80


def test_what_is_compared_with_is_loaded_and_evaluated_once(tmp_path: Path) -> None:
    detections, annotations = random_case(1, images=10, classes=3)
    loads, seen = [], []

    def load() -> tuple[str, Any]:
        loads.append(1)
        return "dense", lambda image: (seen.append(1), detections[image[0, 0, 0]])[1]

    reference, splits = Reference(load, tmp_path), {"val": Numbered(annotations)}
    first, second = (accuracy_change(finding(some), reference, splits) for some in (detections, blind(detections)))
    assert (len(loads), len(seen)) == (1, 10)
    assert first.splits["val"].delta == (0, 0, 0)
    assert second.splits["val"].delta[1] < 0


@pytest.mark.parametrize(
    ("worse", "words"),
    [
        (same, None),
        (blind, "it finds nothing: no box in 40 images"),
        (shifted, "it finds nothing: map 0.000"),
        (rarely, "its map is within noise of 0"),
        (lambda found: thinned(found, 8), "it has lost 62% of its map"),
    ],
)
def test_a_result_that_nobody_could_use_is_called_so(worse: Any, words: str | None, tmp_path: Path) -> None:
    found = changed(tmp_path, worse)
    split = found.splits["val"]
    assert found.unknown is None
    assert found.tree()["unusable"] == found.unusable
    if words is None:
        assert found.unusable is None
        assert "NOT USABLE" not in map_words(split)
        return
    assert words in found.unusable
    assert f"{split.before.map:.3f}" in found.unusable
    assert map_words(split).endswith("NOT USABLE")
    assert map_change(split)["unusable"] == found.unusable


def test_a_small_loss_is_no_reason_and_half_of_the_map_is_the_limit(tmp_path: Path) -> None:
    found = changed(tmp_path, same).splits["val"]
    for share, usable in ((0.9, True), (0.51, True), (0.49, False)):
        after = replace(found.after, map=share * found.before.map)
        assert (replace(found, after=after, low=0.01).unusable is None) == usable


def test_a_start_that_finds_nothing_is_said(tmp_path: Path) -> None:
    _, annotations = random_case(1, images=4, classes=3)
    nothing = finding(blind(annotations))
    found = accuracy_change(nothing, Reference(lambda: ("x", nothing), tmp_path), {"val": Numbered(annotations)})
    assert "what it began with finds nothing either" in found.unusable


def test_without_objects_the_accuracy_is_not_known_and_cannot_be_held_to_a_limit(tmp_path: Path) -> None:
    crowd = truth_of([[0, 0, 9, 9]], [0], [True])
    annotations = [truth_of([], []), crowd]
    splits = {"val": Numbered(annotations)}
    found = accuracy_change(
        finding(blind(annotations)), Reference(lambda: ("x", finding(blind(annotations))), tmp_path), splits
    )
    assert found.unknown == "the images hold no objects to find"
    assert found.unusable is None
    assert found.lines() == [f"accuracy on val was not evaluated: {found.unknown}"]
    assert found.tree()["splits"] == {"val": None}
    assert found.tree()["unknown"] == {"val": found.unknown}
    assert map_change(found.decisive) == {"map_change": None, "map_change_unknown": found.unknown, "unusable": None}
    with pytest.raises(UserError, match=r"--max-drop 0\.01: accuracy cannot be evaluated on val: the images hold no"):
        check_judgeable(splits, 0.01)
    check_judgeable({"val": Numbered([*annotations, truth_of([[0, 0, 9, 9]], [0])])}, 0.01)


@pytest.mark.parametrize("who", ["result", "reference", "load"])
def test_an_evaluation_that_fails_is_a_reason_and_hinders_no_other_split(who: str, tmp_path: Path) -> None:
    _, annotations = random_case(1, images=6, classes=3)
    right = [perfect(truth) for truth in annotations]

    def broken(image: Any) -> Detections:
        if image[0, 0, 0] == 4:
            raise RuntimeError("image 4\nis truncated")
        return right[image[0, 0, 0]]

    def load() -> tuple[str, Any]:
        if who == "load":
            raise UserError("damaged")
        return "dense", broken if who == "reference" else finding(right)

    splits = {"val": Numbered(annotations[:3]), "test": Numbered(annotations[3:], first=3)}
    found = accuracy_change(broken if who == "result" else finding(right), Reference(load, tmp_path), splits)
    if who == "load":
        assert found.tree()["unknown"] == {"val": "damaged", "test": "damaged"}
        return
    assert found.splits["val"].after.map == pytest.approx(1)
    assert found.splits["test"] == "image 4 is truncated"
    assert found.lines()[-1] == "accuracy on test was not evaluated: image 4 is truncated"


def split_of(low: float, middle: float, high: float) -> SplitChange:
    figures = dict(zip(change_names("map"), (low, middle, high), strict=True))
    return SplitChange(9, None, None, AccuracyDifference(figures), 0.1, 0.2, 9)


@pytest.mark.parametrize(
    ("change", "allowed", "holds", "sure"),
    [
        ((-0.05, -0.03, -0.02), 0.1, True, True),
        ((-0.05, -0.03, -0.02), 0.04, True, False),
        ((-0.05, -0.03, -0.02), 0.03, True, False),
        ((-0.05, -0.03, -0.02), 0.025, False, False),
        ((-0.05, -0.03, -0.02), 0.01, False, True),
        ((0.0, 0.0, 0.0), 0.0, True, True),
        ((0.01, 0.02, 0.03), 0.0, True, True),
        ((-0.01, 0.02, 0.03), 0.0, True, False),
    ],
)
def test_a_loss_is_held_to_what_is_allowed(change: Any, allowed: float, holds: bool, sure: bool) -> None:
    drop = Drop(allowed, split_of(*change))
    assert (drop.holds, drop.sure) == (holds, sure)
    assert drop.tree() == {"allowed": allowed, "holds": holds, "sure": sure}
    said = str(drop)
    assert ("holds" in said.partition("(")[0].split(",")[0]) == holds
    assert ("not for sure" in said) == (not sure)
    assert f"{change[1]:+.3f}" in said


def test_a_loss_that_is_not_known_is_neither_held_nor_exceeded() -> None:
    drop = Drop(0.1, "no images")
    assert (drop.holds, drop.sure) == (None, None)
    assert "no images" in str(drop)
