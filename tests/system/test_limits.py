"""A real search that a limit ends: running trials finish, the front is compared, and a larger limit goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests_support_documented import printed


def records_of(place: Any) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted((place.runs / "tiny" / "trials").glob("*/record.json"))}


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(900)
def test_a_limit_ends_the_search_and_a_larger_one_goes_on(place: Any) -> None:
    limits = ("--set", "search.device_hours=0.0001", "--set", "search.concurrent=2")
    begun = place.run("sweep", "tiny.yaml", "--trials", "4", *limits)
    assert begun.returncode == 0, begun.stdout + begun.stderr
    assert "the search ends after" in begun.stdout
    first = records_of(place)
    assert 2 <= len(first) <= 3  # both baselines, and what ran beside the second one
    shown = json.loads(place.run("front", "tiny", "--json").stdout)
    assert shown["search_ended"].startswith("search.device_hours")
    assert shown["decided_by"] == "comparison"
    assert len(shown["hypervolume_series"]) == len(first)
    picked = json.loads(place.run("pick", "tiny", "--json").stdout)
    assert picked["trial"] == shown["best"]["trial"]

    went_on = place.run("resume", "tiny", "--device-hours", "1")
    assert went_on.returncode == 0, went_on.stdout + went_on.stderr
    then = records_of(place)
    assert len(then) == 4
    assert {path: then[path] for path in first} == first
    assert json.loads(place.run("front", "tiny", "--json").stdout)["search_ended"] is None


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_baseline_that_has_not_learned_stops_the_sweep_and_nothing_is_lost(place: Any) -> None:
    quick = ("--set", "search.allow_unlearned=false", "--set", "training.epochs=1", "--set", "training.lr=1e-8")
    begun = place.run("sweep", "tiny.yaml", "--trials", "2", *quick)
    assert begun.returncode == 2, begun.stdout + begun.stderr
    assert len(records_of(place)) == 1
    (line,) = [line for line in printed(begun.stderr) if " resume " in line]
    went_on = place.typed(line)
    said, _ = went_on.communicate(timeout=300)
    assert went_on.returncode == 0, said
    assert len(records_of(place)) == 2
    assert "not learned" in said  # a quick try is told apart from an answer
