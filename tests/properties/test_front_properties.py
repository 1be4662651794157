"""What must hold of every front and every hypervolume."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paretune.search.pareto_front import (
    FrontRules,
    Objective,
    front_object,
    hypervolume,
    hypervolume_2d,
    no_hypervolume,
    pareto_front,
)
from paretune.storage.trial_record import Record

quick = settings(deadline=None)  # machines are shared
AIMS = [Objective("map", "maximize"), Objective("latency_ms", "minimize")]
THREE = [*AIMS, Objective("size_mib", "minimize")]
value = st.sampled_from([0.0, 0.1, 0.2, 0.5, 0.9, math.nan, math.inf, -math.inf, None])
points_of = st.lists(st.fixed_dictionaries({objective.metric: value for objective in THREE}), max_size=10)
pairs = st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), max_size=12)


def known(point):
    return all(point[o.metric] is not None and math.isfinite(point[o.metric]) for o in THREE)


@quick
@given(points_of)
def test_a_front_of_three_objectives_is_what_the_definition_says(points):
    found = pareto_front(points, THREE)
    for i, point in enumerate(points):
        better = [
            j
            for j, other in enumerate(points)
            if known(other)
            and known(point)
            and other["map"] >= point["map"]
            and other["latency_ms"] <= point["latency_ms"]
            and other["size_mib"] <= point["size_mib"]
            and (other != point or j < i)
        ]
        assert (i in found) == (known(point) and not better)


@quick
@given(points_of)
def test_the_front_of_a_front_is_itself(points):
    chosen = [points[i] for i in pareto_front(points, THREE)]
    assert pareto_front(chosen, THREE) == list(range(len(chosen)))


@quick
@given(pairs)
def test_hypervolume_is_the_share_of_random_places_that_are_dominated(points):
    reference = (-0.5, -0.25)
    random = np.random.default_rng(0)
    places = random.uniform(reference, (1.0, 1.0), (4000, 2))
    inside = np.zeros(len(places), bool)
    for point in points:
        inside |= np.all(places <= np.array(point), axis=1)
    expected = inside.mean() * 1.5 * 1.25
    assert hypervolume_2d(points, reference) == pytest.approx(expected, abs=5 * 1.875 * 0.5 / math.sqrt(4000))


@quick
@given(pairs, st.tuples(st.floats(-1, 1), st.floats(-1, 1)))
def test_one_more_point_never_takes_hypervolume_away(points, more):
    before, after = hypervolume_2d(points, (0.0, 0.0)), hypervolume_2d([*points, more], (0.0, 0.0))
    assert after >= before - 1e-12
    if any(x >= more[0] and y >= more[1] for x, y in points):
        assert after == pytest.approx(before, abs=1e-12)


@quick
@given(st.lists(st.tuples(st.floats(0.01, 1), st.floats(0.1, 100)), max_size=8), st.floats(0.01, 100))
def test_hypervolume_does_not_depend_on_the_unit_of_time(points, unit):
    def volume(factor):
        rows = [{"map": quality, "latency_ms": cost * factor} for quality, cost in points]
        return hypervolume(rows, AIMS, {"latency_ms": 20.0 * factor})

    assert volume(unit) == pytest.approx(volume(1.0), rel=1e-6, abs=1e-9)


@quick
@given(points_of)
def test_unknown_values_add_no_hypervolume(points):
    base = {"latency_ms": 0.8}
    clean = [p for p in points if all(p[o.metric] is not None and math.isfinite(p[o.metric]) for o in AIMS)]
    assert hypervolume(points, AIMS, base) == hypervolume(clean, AIMS, base)


@pytest.mark.parametrize(
    ("objectives", "baseline", "reason"),
    [
        (AIMS[:1], {"latency_ms": 1.0}, "two objectives"),
        (THREE, {"latency_ms": 1.0}, "two objectives"),
        ([AIMS[0], Objective("f1", "maximize")], {"latency_ms": 1.0}, "two objectives"),
        (AIMS, {}, "eager baseline's latency_ms"),
        (AIMS, {"latency_ms": None}, "eager baseline's latency_ms"),
        (AIMS, {"latency_ms": 0.0}, "eager baseline's latency_ms"),
        (AIMS, {"latency_ms": math.inf}, "eager baseline's latency_ms"),
    ],
)
def test_no_hypervolume_has_a_reason(objectives, baseline, reason):
    assert hypervolume([{"map": 0.5, "latency_ms": 0.5}], objectives, baseline) is None
    assert reason in no_hypervolume(objectives, baseline)


def test_the_order_of_the_objectives_does_not_matter():
    points, base = [{"map": 0.5, "latency_ms": 5.0}], {"latency_ms": 10.0}
    assert hypervolume(points, AIMS[::-1], base) == hypervolume(points, AIMS, base) == pytest.approx(0.5 * math.log(2))


@quick
@given(st.lists(st.tuples(st.sampled_from([0.2, 0.4, 0.6]), st.sampled_from([1.0, 2.0, 3.0])), max_size=9))
def test_infeasible_trials_are_never_printed_and_the_fastest_is_first(rows):
    records = [
        Record(i, "complete", {}, {}, {"map": q, "latency_ms": c}, {}, (), None, None, "sampled", 0.0)
        for i, (q, c) in enumerate(rows)
    ]
    front = front_object("s", "t", records, FrontRules(AIMS, lambda record: record.metrics["map"] > 0.3))["front"]
    costs = [point["metrics"]["latency_ms"] for point in front]
    assert costs == sorted(set(costs))
    assert all(point["metrics"]["map"] > 0.3 for point in front)
    assert bool(front) == any(quality > 0.3 for quality, _ in rows)
