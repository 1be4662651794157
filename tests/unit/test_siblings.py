"""The network of a trial on the front is tried on the other runtimes, the cheapest of them first, once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from paretune.core.baselines import BASELINES
from paretune.search.pareto_front import Objective
from paretune.search.samplers import Random
from paretune.search.siblings import Siblings
from paretune.search.space import Choices, Fields, Fixed, Range, Space
from paretune.search.study import SIBLING, Study
from paretune.search.study_database import StudyDatabase
from paretune.search.study_settings import StudySettings
from paretune.storage.trial_record import Record
from tests_support_records import complete, prune, recipe

OBJECTIVES = (Objective("map", "maximize"), Objective("latency_ms", "minimize"))
RUNTIMES = ("eager", "onnxruntime", "openvino")
SPACE = Space(
    Fields(
        {
            "input_size": Fixed(64, 1),
            "steps": Fields({"ratio": Range("ratio", 0.1, 0.9, None, False, 1)}, 1),
            "runtime": Choices("runtime", {name: Fixed(name, 1) for name in RUNTIMES}, 1),
        },
        1,
    ),
    "space.yaml",
)


def siblings(most: int, *records: Record) -> Siblings:
    """Return siblings of trials 0 to 3 on three runtimes, of which records are known."""
    made = Siblings(SPACE, OBJECTIVES, most)
    for number, runtime in enumerate(("eager", "onnxruntime", "openvino", "eager")):
        made.note(number, {"ratio": 0.5, "runtime": runtime})
    for record in records:
        made.add(record)
    return made


def trial(number: int, quality: float, latency: float) -> Record:
    return complete(number, recipe(64), quality, latency)


PARAMS = {"ratio": 0.5, "runtime": "eager", "runtime.eager.precision": "fp32"}


def test_a_trial_on_the_front_has_siblings_the_cheapest_first() -> None:
    records = [trial(0, 0.5, 5.0), trial(1, 0.5, 3.0), trial(2, 0.5, 2.0), trial(3, 0.6, 4.0)]
    assert siblings(2, *records).of(records[3], PARAMS) == [
        {"ratio": 0.5, "runtime": "openvino"},
        {"ratio": 0.5, "runtime": "onnxruntime"},
    ]
    assert siblings(1, *records).of(records[3], PARAMS) == [{"ratio": 0.5, "runtime": "openvino"}]
    assert siblings(0, *records).of(records[3], PARAMS) == []


def test_a_runtime_that_was_never_tried_comes_first() -> None:
    records = [trial(2, 0.5, 0.1), trial(3, 0.6, 4.0)]
    assert siblings(1, *records).of(records[1], PARAMS)[0]["runtime"] == "onnxruntime"


def test_a_dominated_trial_and_one_that_was_not_added_have_none() -> None:
    worse = trial(3, 0.4, 6.0)
    assert siblings(2, trial(0, 0.5, 5.0), worse).of(worse, PARAMS) == []
    assert siblings(2, trial(0, 0.3, 9.0)).of(worse, PARAMS) == []


def test_a_fixed_runtime_has_no_siblings() -> None:
    fixed = Space(Fields({"input_size": Fixed(64, 1), "runtime": Fixed("eager", 1)}, 1), "space.yaml")
    made = Siblings(fixed, OBJECTIVES, 2)
    made.add(trial(3, 0.6, 4.0))
    assert made.of(trial(3, 0.6, 4.0), {}) == []


def normal(raw: Mapping[str, Any]) -> dict[str, Any]:
    return recipe(64, prune(round(raw["steps"]["ratio"], 6)), runtime=raw["runtime"])


def study_in(folder: Path, records: list[Record], *, trains: bool = True) -> Study:
    fixed = [(recipe(64, runtime=runtime), "baseline") for runtime in BASELINES]
    objectives: dict[str, Any] = {"map": "maximize", "latency_ms": "minimize"}
    settings = StudySettings(
        SPACE, objectives, lambda _: {}, Random(), 0, normal, fixed, siblings=2, trains=lambda _: trains
    )
    return Study(StudyDatabase(folder / "study.db", "one"), settings, records)


def told(study: Study, quality: float, latency: float) -> Record:
    """Run the next proposal of a study, and return its record."""
    proposal = study.propose()
    assert proposal is not None
    record = complete(proposal.number, dict(proposal.recipe), quality, latency, origin=proposal.origin)
    study.tell(record)
    return record


@pytest.mark.parametrize("trains", [True, False])
def test_a_study_proposes_the_siblings_of_a_network_that_was_trained(tmp_path: Path, trains: bool) -> None:
    study = study_in(tmp_path, [], trains=trains)
    records = [told(study, 0.5, 5.0), told(study, 0.5, 3.0)]
    parent = told(study, 0.6, 2.0)
    records.append(parent)
    following = [told(study, 0.1, 9.0) for _ in range(3)]
    origins = [record.origin for record in following]
    if not trains:
        assert origins == ["sampled"] * 3
        return
    assert origins == [SIBLING, SIBLING, "sampled"]
    for sibling in following[:2]:
        assert sibling.recipe["steps"] == parent.recipe["steps"]
    runtimes = {next(iter(record.recipe["runtime"])) for record in (parent, *following[:2])}
    assert runtimes == set(RUNTIMES)


def test_siblings_that_were_not_run_are_proposed_after_a_restart(tmp_path: Path) -> None:
    study = study_in(tmp_path, [])
    records = [told(study, 0.5, 5.0), told(study, 0.5, 3.0), told(study, 0.6, 2.0), told(study, 0.1, 9.0)]
    study.close()
    again = study_in(tmp_path, records)
    assert told(again, 0.1, 9.0).origin == SIBLING
    assert told(again, 0.1, 9.0).origin == "sampled"


def test_a_point_that_was_tried_or_returned_is_not_tried_again() -> None:
    known = siblings(2, trial(2, 0.5, 2.0))
    points = [{"ratio": 0.5, "runtime": "openvino"}, {"ratio": 0.7, "runtime": "onnxruntime"}]
    known.note(9, points[0])
    assert known.untried([*points, points[1]]) == [points[1]]
    assert known.untried(points) == []
