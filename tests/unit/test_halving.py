"""Successive halving lets the best of a rung go on, by ranks that brute force confirms, and promotes paused trials."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest

from paretune.search.halving import Extrapolation, Halving, RungResult, best_first
from paretune.search.pareto_front import Objective

OBJECTIVES = (Objective("map", "maximize"), Objective("latency_ms", "minimize"))


def point(quality: float, latency: float) -> dict[str, float]:
    return {"map": quality, "latency_ms": latency}


def rank(points: list[Mapping[str, float]], index: int) -> int:
    """Return the length of the longest chain of points that dominate each other and end in this one."""
    mine = points[index]
    above = [
        other
        for other, one in enumerate(points)
        if one["map"] >= mine["map"] and one["latency_ms"] <= mine["latency_ms"] and one != mine
    ]
    return 1 + max((rank(points, other) for other in above), default=-1)


@pytest.mark.parametrize("seed", range(15))
def test_ranks_never_fall_in_the_order(seed: int) -> None:
    random = np.random.default_rng(seed)
    points = [point(float(random.integers(0, 6)), float(random.integers(1, 6))) for _ in range(14)]
    order = best_first(points, OBJECTIVES)
    assert sorted(order) == list(range(14))
    ranks = [rank(points, index) for index in order]
    assert ranks == sorted(ranks)


def test_within_a_rank_the_first_lie_far_apart() -> None:
    points = [point(0.9, 9.0), point(0.89, 8.9), point(0.88, 8.8), point(0.1, 1.0), point(0.5, 5.0)]
    assert best_first(points, OBJECTIVES)[:3] == [0, 3, 4]


def test_unknown_values_come_last() -> None:
    points = [point(math.nan, 1.0), point(0.1, 9.0), {"map": 0.9}, point(0.2, 8.0)]
    assert best_first(points, OBJECTIVES)[:2] == [3, 1]
    assert best_first([], OBJECTIVES) == []
    assert sorted(best_first(points[:1], OBJECTIVES)) == [0]


def reported(halving: Halving, *qualities: float, rung: int = 0, first: int = 0) -> list[str]:
    """Report trials of equal latency, and return the answers."""
    return [
        halving.report(RungResult(first + number, rung, point(quality, 2.0)))
        for number, quality in enumerate(qualities)
    ]


def test_one_in_eta_goes_on() -> None:
    halving = Halving(OBJECTIVES, eta=3)
    assert reported(halving, 0.1, 0.2, 0.3, 0.25, 0.05, 0.9) == [
        "continue",  # nothing to compare with
        "continue",
        "continue",  # the best of three
        "pause",
        "pause",
        "continue",
    ]
    assert halving.paused == {3: 0, 4: 0}


def test_a_paused_trial_is_promoted_when_it_is_among_the_best_by_then() -> None:
    halving = Halving(OBJECTIVES, eta=3)
    reported(halving, 0.3, 0.1, 0.2, 0.25)
    assert halving.paused == {2: 0, 3: 0}
    assert halving.promotable() is None  # the best of four is trial 0
    reported(halving, 0.01, 0.02, first=4)  # of six, two go on
    assert halving.promotable() == 3
    halving.promote(3)
    assert halving.promotable() is None
    assert 3 not in halving.paused
    assert halving.report(RungResult(3, 1, point(0.4, 2.0))) == "continue"


def test_higher_rungs_are_promoted_first_and_what_ended_never_is() -> None:
    halving = Halving(OBJECTIVES, eta=2)
    reported(halving, 0.5, 0.4, 0.1)
    reported(halving, 0.6, 0.5, rung=1)
    assert halving.paused == {1: 1, 2: 0}
    reported(halving, 0.01, 0.02, rung=1, first=7)
    reported(halving, 0.01, 0.02, 0.03, first=10)
    assert halving.promotable() == 1
    halving.forget(1)
    assert halving.promotable() == 2


def test_the_state_is_rebuilt_from_results() -> None:
    results = [
        RungResult(number, 0, point(float(value), 1.0 + value)) for number, value in enumerate((3, 1, 2, 9, 4, 5))
    ]
    one, other = Halving(OBJECTIVES), Halving(OBJECTIVES)
    for result in results:
        one.report(result)
    for result in results:
        other.report(result)
        other.report(result)
    assert one.paused == other.paused
    assert one.promotable() == other.promotable()


def test_a_value_at_the_end_is_expected_from_a_rung() -> None:
    assert Extrapolation.fit([]).at_end(0.4) == 0.4
    assert math.isnan(Extrapolation.fit([(0.1, 0.3)]).deviation)
    assert Extrapolation.fit([(0.1, 0.3)]).at_end(0.2) == pytest.approx(0.4)  # the same gain
    random = np.random.default_rng(0)
    values = random.random(400)
    ends = 0.3 + 0.5 * values + random.normal(0, 0.02, 400)
    learnt = Extrapolation.fit(list(zip(values, ends, strict=True)))
    assert learnt.slope == pytest.approx(0.5, abs=0.02)
    assert learnt.at_end(0.5) == pytest.approx(0.55, abs=0.01)
    assert learnt.deviation == pytest.approx(0.02, rel=0.15)
    assert Extrapolation.fit([(0.5, 0.6)] * 5).at_end(0.5) == pytest.approx(0.6)


@pytest.mark.parametrize("count", [3, 6, 20])
def test_the_deviation_at_the_end_is_that_of_a_line_with_a_prior_of_its_slope(count: int) -> None:
    random = np.random.default_rng(count)
    values = random.random(count)
    ends = 0.2 + 0.7 * values + random.normal(0, 0.05, count)
    learnt = Extrapolation.fit(list(zip(values, ends, strict=True)), prior=4.0)
    matrix = np.stack([np.ones(count), values], axis=1)
    precision = np.diag([0.0, 4.0 * values.var()])
    inverse = np.linalg.inv(matrix.T @ matrix + precision)
    line = inverse @ (matrix.T @ ends + precision @ np.array([0.0, 1.0]))
    spread = np.sum((ends - matrix @ line) ** 2) / (count - 2)
    for value in (0.0, 0.5, 2.0):
        row = np.array([1.0, value])
        assert learnt.at_end(value) == pytest.approx(row @ line)
        assert learnt.deviation_at_end(value) == pytest.approx(np.sqrt(spread * (1 + row @ inverse @ row)))
    assert learnt.deviation_at_end(2.0) > learnt.deviation_at_end(0.5) > learnt.deviation


def test_without_three_trials_the_deviation_at_the_end_is_not_known() -> None:
    assert math.isnan(Extrapolation.fit([]).deviation_at_end(0.5))
    assert math.isnan(Extrapolation.fit([(0.1, 0.3), (0.2, 0.3)]).deviation_at_end(0.5))
