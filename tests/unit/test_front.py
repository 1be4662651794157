"""Front and hypervolume against brute force and known values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna._hypervolume import compute_hypervolume

from paretune.search.pareto_front import FrontRules, Objective, front_object, hypervolume, hypervolume_2d, pareto_front
from paretune.storage.trial_record import Record

MAP, MS = Objective("map", "maximize"), Objective("latency_ms", "minimize")
AIMS = [MAP, MS]
coarse = st.integers(0, 6).map(lambda n: n / 6)  # many ties
points_of = st.lists(st.tuples(coarse, coarse.map(lambda v: v + 0.1)), max_size=14)


def as_metrics(points):
    return [{"map": quality, "latency_ms": cost} for quality, cost in points]


@settings(deadline=None)  # the first example imports, and machines are shared
@given(points_of, st.randoms())
def test_the_front_does_not_depend_on_the_order(points, random):
    shuffled = random.sample(points, len(points))
    one, other = pareto_front(as_metrics(points), AIMS), pareto_front(as_metrics(shuffled), AIMS)
    assert {points[i] for i in one} == {shuffled[i] for i in other}


@pytest.mark.parametrize("bad", [math.nan, math.inf, None])
def test_unknown_values_never_enter(bad):
    points = [{"map": 0.9, "latency_ms": bad}, {"map": bad, "latency_ms": 0.1}, {"latency_ms": 1.0}]
    assert pareto_front([*points, {"map": 0.5, "latency_ms": 2.0}], AIMS) == [3]


@settings(deadline=None)  # the first example imports, and machines are shared
@given(points_of)
def test_hypervolume_agrees_with_optuna(points):
    mine = hypervolume_2d(points, (0.0, 0.0))
    above = [p for p in points if p[0] > 0 and p[1] > 0]
    losses = -np.array(above, float).reshape(-1, 2)
    theirs = compute_hypervolume(losses, np.zeros(2)) if above else 0.0
    assert mine == pytest.approx(theirs, abs=1e-12)


def test_hypervolume_of_latencies_by_hand():
    base = {"map": 0.6, "latency_ms": 10.0}
    points = [base, {"map": 0.5, "latency_ms": 5.0}, {"map": 0.3, "latency_ms": 1.0}]
    slower = {"map": 0.9, "latency_ms": 20.0}
    expected = 0.5 * math.log(2) + 0.3 * (math.log(10) - math.log(2))
    assert hypervolume([*points, slower], AIMS, base) == pytest.approx(expected)
    assert hypervolume(points, [MAP, Objective("f1", "maximize")], base) is None
    assert hypervolume(points, AIMS, {}) is None


def made(number, quality, cost, state="complete"):
    metrics = {"map": quality, "latency_ms": cost} if state == "complete" else {}
    return Record(
        number=number,
        state=state,
        recipe={"input_size": "160", "steps": [], "runtime": {"eager": {}}},
        params={},
        metrics=metrics,
        reasons={},
        notes=(),
        failure=None,
        artefact=f"trials/{number:04d}/artefact",
        origin="sampled",
        started=0.0,
    )


def test_the_printed_front():
    records = [made(0, 0.6, 10), made(1, 0.6, 5), made(2, 0.5, 2), made(3, 0.1, 1), made(4, 0, 0, "failed")]
    front = front_object("s", "local", records, FrontRules(AIMS, lambda r: r.metrics["map"] >= 0.3))
    assert [p["trial"] for p in front["front"]] == [2, 1]
    assert front["baseline"]["trial"] == 0
    assert front["front"][0]["metrics"]["f1"] is None
    assert front["reference"] == {"map": 0, "latency_ms": 10}
    assert front_object("s", "local", [made(0, 0, 0, "failed")], FrontRules(AIMS, lambda _: True))["baseline"] is None
