"""A trial is stopped before its training exactly where an independent reading of the rule says so."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from paretune.search.early_stop import AS_GOOD, LEAST, MARGIN, stop_reason
from paretune.search.pareto_front import FrontRules, Objective
from paretune.storage.trial_record import Record
from tests_support_records import complete, recipe

RULES = FrontRules([Objective("map", "maximize"), Objective("latency_ms", "minimize")], lambda _: True)


def trials(*points: tuple[float, float]) -> list[Record]:
    """Return complete trials from the space with (map, latency)."""
    return [
        complete(number, recipe(64), quality, latency, origin="sampled")
        for number, (quality, latency) in enumerate(points, start=2)
    ]


def test_over_a_ceiling() -> None:
    reason = stop_reason({"latency_ms": 5.0}, [], RULES, {"latency_ms": 4.0})
    assert reason is not None
    assert stop_reason({"latency_ms": 4.0 * (1 + MARGIN) - 1e-6}, [], RULES, {"latency_ms": 4.0}) is None
    assert stop_reason({}, [], RULES, {"latency_ms": 4.0}) is None
    assert stop_reason({"network_ms": 9.0}, [], RULES, {"network_ms": 4.0}) is not None


def test_a_faster_version_as_good_as_any_stops_it() -> None:
    others = trials((0.6, 2.0), *((0.3, 1.0) for _ in range(LEAST)))
    assert "trial 2" in str(stop_reason({"latency_ms": 3.0}, others, RULES, {}))
    assert stop_reason({"latency_ms": 2.1}, others, RULES, {}) is None  # within the margin
    assert stop_reason({"latency_ms": 3.0}, others[: LEAST - 1], RULES, {}) is None  # too few to say
    assert stop_reason({"latency_ms": 3.0}, trials(*((0.3, 5.0) for _ in range(9))), RULES, {}) is None


def test_a_version_that_breaks_a_constraint_stops_nothing() -> None:
    rules = dataclasses.replace(RULES, feasible=lambda one: one.number != 2)
    others = trials((0.6, 2.0), *((0.3, 1.0) for _ in range(LEAST)))
    assert stop_reason({"latency_ms": 3.0}, others, rules, {}) is None


def test_objectives_without_a_latency_stop_nothing() -> None:
    rules = FrontRules([Objective("map", "maximize"), Objective("size_mib", "minimize")], lambda _: True)
    others = trials(*((0.6, 1.0) for _ in range(LEAST)))
    assert stop_reason({"latency_ms": 9.0}, others, rules, {}) is None


@pytest.mark.parametrize("seed", range(20))
def test_as_brute_force_says(seed: int) -> None:
    random = np.random.default_rng(seed)
    points = [(float(q), float(ms)) for q, ms in zip(random.random(12) / 20, 1 + random.random(12), strict=True)]
    expected = float(1 + random.random())
    best = max(quality for quality, _ in points)
    stops = any(ms * (1 + MARGIN) < expected and quality >= best - AS_GOOD for quality, ms in points)
    orders = itertools.islice(itertools.permutations(trials(*points)), 3)
    for order in orders:
        assert (stop_reason({"latency_ms": expected}, list(order), RULES, {}) is not None) == stops
