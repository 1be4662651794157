"""The published front is what the comparison says: order, membership, ties, and the point to take."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paretune.search.contenders import contenders
from paretune.search.latency_scale import on_one_scale
from paretune.search.pareto_front import FrontRules, Objective, decides, front_object
from paretune.storage.trial_record import Record
from tests_support_records import changed, compared, complete, fake_records, judge, recipe


def point(number: int, quality: float, low: float, latency: float, high: float, **metrics: float) -> Record:
    ends = {"latency_ms_low": low, "latency_ms_high": high}
    record = complete(number, recipe(160), quality, latency)
    return changed(record, metrics={**record.metrics, **ends, **metrics})


ALL = judge(allowed=lambda _: True)


def test_whatever_may_be_on_the_front_is_compared_and_what_surely_is_not_is_left() -> None:
    records = [
        point(0, 0.50, 9.0, 9.1, 9.2),
        point(1, 0.50, 4.0, 4.0, 4.0),
        point(2, 0.48, 3.0, 3.1, 3.2),
        point(3, 0.47, 2.9, 3.3, 3.7),  # behind trial 2 by its figure, not by its interval
        point(4, 0.47, 3.4, 3.5, 3.6),  # behind trial 2 for sure
        point(5, 0.49, 3.9, 4.1, 4.3),
    ]
    assert set(contenders(records, ALL)) == {1, 2, 3, 5}
    assert contenders(records, ALL)[-1] == 3  # the likeliest first


def test_an_interval_that_reaches_a_constraint_is_compared() -> None:
    records = [point(0, 0.50, 9.0, 9.1, 9.2), point(1, 0.5, 4.9, 5.1, 5.3), point(2, 0.52, 5.2, 5.4, 5.6)]
    at_most = FrontRules(ALL.objectives, lambda record: record.metrics["latency_ms"] <= 5, ("latency_ms",))
    assert contenders(records, at_most) == [1]


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(1, 9), st.floats(0, 0.4), st.floats(0, 0.4)), max_size=9))
@settings(max_examples=200, deadline=None)
def test_the_front_of_any_latencies_within_the_intervals_is_among_the_contenders(rows: list[Any]) -> None:
    """The oracle: fronts by the definition, at random latencies within the intervals."""
    import random

    records = [point(n, q / 10, ms * (1 - low), ms, ms * (1 + high)) for n, (q, ms, low, high) in enumerate(rows)]
    found, drawn = set(contenders(records, ALL)), random.Random(0)
    for _ in range(10):
        at = {r.number: drawn.uniform(r.metrics["latency_ms_low"], r.metrics["latency_ms_high"]) for r in records}
        quality = {r.number: r.metrics["map"] for r in records}
        for one, ms in at.items():
            beaten = any(
                quality[o] >= quality[one] and others <= ms and (quality[o], others) != (quality[one], ms)
                for o, others in at.items()
            )
            assert beaten or one in found


def front_of(records: list[Record], told: dict[str, Any], by: FrontRules = ALL) -> dict[str, Any]:
    return front_object("demo", "laptop", on_one_scale(records, told), by, told)


@pytest.fixture
def records() -> list[Record]:
    return fake_records()


def test_order_and_membership_come_from_the_comparison(records: list[Record]) -> None:
    """By single trials 8 is the fastest; compared, 5 is, and 12 falls behind 6, which is more accurate."""
    told = compared(records, {0: 2.2, 1: 1.0, 8: 0.45, 5: 0.40, 12: 0.60, 6: 0.55, 3: 0.9})
    front = front_of(records, told)
    assert front["decided_by"] == "comparison"
    assert [p["trial"] for p in front["front"]] == [5, 6, 3]
    assert front["best"]["trial"] == 5
    ratios = [p["metrics"]["latency_ms"] / front["baseline"]["metrics"]["latency_ms"] for p in front["front"]]
    assert ratios == pytest.approx([0.40 / 2.2, 0.55 / 2.2, 0.9 / 2.2])


def test_the_onnx_runtime_baseline_takes_part_like_any_other(records: list[Record]) -> None:
    told = compared(records, {0: 2.2, 1: 1.0, 8: 1.2})
    assert [p["trial"] for p in front_of(records, told)["front"]] == [1]


def test_one_row_tells_one_speed_up(records: list[Record]) -> None:
    told = compared(records, {0: 2.2, 1: 1.0, 8: 0.3, 5: 0.40})
    front = front_of(records, told)
    eager = front["baseline"]["metrics"]["latency_ms"]
    for one in front["front"]:
        speedup = told["trials"][str(one["trial"])]["eager"]["speedup"]
        assert eager / one["metrics"]["latency_ms"] == pytest.approx(speedup)


def test_of_tied_points_the_most_accurate_is_taken(records: list[Record]) -> None:
    ratios = {0: 2.2, 1: 1.0, 8: 0.40, 5: 0.405, 12: 0.41, 6: 0.6}
    told = compared(records, ratios, ties=[(8, 5), (8, 12), (5, 12)])
    front = front_of(records, told)
    assert [(p["trial"], p["tied_with"]) for p in front["front"]] == [
        (8, [5, 12]),
        (5, [8, 12]),
        (12, [5, 8]),
        (6, []),
        (1, []),
    ]
    assert front["best"]["trial"] == 12
    chained = compared(records, ratios, ties=[(8, 5), (5, 12)])  # 12 is slower than the fastest
    assert front_of(records, chained)["best"]["trial"] == 5


def test_constraints_hold_for_the_compared_latency(records: list[Record]) -> None:
    told = compared(records, {0: 2.2, 1: 1.0, 8: 0.40, 5: 0.5})
    limit = 0.45 * on_one_scale(records, told)[1].metrics["latency_ms"]
    at_most = FrontRules(ALL.objectives, lambda record: record.metrics["latency_ms"] <= limit, ("latency_ms",))
    front = front_of(records, told, at_most)
    assert [p["trial"] for p in front["front"]] == [8]
    assert front["best"]["claim"] == "fastest that keeps the constraints"


def test_trials_after_a_comparison_are_not_decided_by_it(records: list[Record]) -> None:
    told = compared(records[:-1], {0: 2.2, 1: 1.0, 8: 0.40})
    assert not decides(told, records, ALL)
    assert front_of(records, told)["decided_by"] == "trials"
    sizes = FrontRules([Objective("map", "maximize"), Objective("size_mib", "minimize")], lambda _: True)
    assert not decides(compared(records, {0: 2.2, 1: 1.0}), records, sizes)


@pytest.mark.parametrize(
    ("objectives", "constraints", "claim"),
    [
        ({"map": "maximize", "latency_ms": "minimize"}, ("map50",), "fastest that is accurate enough"),
        ({"map": "maximize", "latency_ms": "minimize"}, (), "fastest of the front"),
        ({"map": "maximize", "size_mib": "minimize"}, ("map",), "smallest size_mib that is accurate enough"),
        (
            {"map": "maximize", "size_mib": "minimize"},
            ("memory_mib_peak",),
            "smallest size_mib that keeps the constraints",
        ),
        ({"map": "maximize", "f1": "maximize"}, (), "largest map of the front"),
    ],
)
def test_what_the_first_point_may_be_called(
    objectives: Any, constraints: Any, claim: str, records: list[Record]
) -> None:
    by = FrontRules([Objective(*pair) for pair in objectives.items()], lambda _: True, constraints)
    assert front_object("demo", "laptop", records, by)["best"]["claim"] == claim
