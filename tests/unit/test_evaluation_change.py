"""What a version has more than the baseline: pycocotools is the oracle."""

from __future__ import annotations

import numpy as np
import pytest

from paretune.evaluation.baseline_difference import (
    CHANGES,
    change_from,
    evaluate_beside,
    keep_detections,
    kept_detections,
)
from tests_support_accuracy import Numbered, thinned
from tests_support_coco import coco_oracle
from tests_support_evaluation import none_found, random_case, truth_of


def test_a_change_is_pycocotools_own_difference_and_lies_in_its_interval(tmp_path):
    detections, annotations = random_case(5, images=50, classes=3, score_steps=2**20)
    fewer = thinned(detections, 3)
    split, file = Numbered(annotations), tmp_path / "trials" / "0000" / "detections.npz"
    before, nothing = evaluate_beside(detections, split, file, first=True)
    after, change = evaluate_beside(fewer, split, file)
    oracle = [coco_oracle(found, annotations, 3) for found in (detections, fewer)]
    assert (before.map, after.map) == pytest.approx([one.map for one in oracle], abs=1e-9)
    assert nothing.figures == dict.fromkeys(CHANGES, 0)
    assert not change.reasons
    for metric in ("map", "map50"):
        low, middle, high = (change.figures[f"{metric}_delta{end}"] for end in ("_low", "", "_high"))
        assert middle == pytest.approx(getattr(oracle[1], metric) - getattr(oracle[0], metric), abs=1e-9)
        assert low < middle < high < 0


def test_detections_are_read_as_they_were_kept(tmp_path):
    found, _ = random_case(2, images=6, classes=2)
    found = [found[0], none_found(), *found[1:], none_found()]
    keep_detections(tmp_path / "kept.npz", found)
    again = kept_detections(tmp_path / "kept.npz")
    assert len(again) == len(found)
    for one, other in zip(found, again, strict=True):
        for name in ("boxes", "scores", "labels"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
            assert getattr(one, name).dtype == getattr(other, name).dtype


@pytest.mark.parametrize("harm", ["gone", "cut", "empty", "other", "text"])
def test_without_what_the_baseline_found_the_change_is_unknown(tmp_path, harm):
    detections, annotations = random_case(1, images=4, classes=2)
    file = tmp_path / "kept.npz"
    keep_detections(file, detections)
    whole = file.read_bytes()
    match harm:
        case "gone":
            file.unlink()
        case "cut":
            file.write_bytes(whole[: len(whole) // 2])
        case "empty":
            file.write_bytes(b"")
        case "other":
            np.savez(file, samples=np.zeros(3))
        case "text":
            file.write_text("detections")
    change = change_from(file, detections, annotations, 2)
    assert change.figures == {}
    assert change.reasons == dict.fromkeys(CHANGES, "what the baseline found in each image was not kept")


def test_other_images_and_none_with_objects_are_reasons(tmp_path):
    detections, annotations = random_case(1, images=4, classes=2)
    keep_detections(tmp_path / "kept.npz", detections[:3])
    told = change_from(tmp_path / "kept.npz", detections, annotations, 2).reasons
    assert told["map_delta_low"] == "the baseline was evaluated on 3 images, this on 4"
    keep_detections(tmp_path / "kept.npz", [none_found()])
    told = change_from(tmp_path / "kept.npz", [none_found()], [truth_of([], [])], 2).reasons
    assert told == dict.fromkeys(CHANGES, "the images hold no objects to find")
