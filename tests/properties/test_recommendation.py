"""No recommended version is beaten by the unchanged network, against a brute-force search."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paretune.results.pick import PickRule, pick
from paretune.search.pareto_front import best_point, front_object
from tests_support_records import changed, compared, complete, fake_records, finetune, judge, prune, recipe

ALL = judge(allowed=lambda _: True)
RUNTIMES = ("eager", "onnxruntime", "openvino")
version = st.tuples(st.sampled_from([0.3, 0.4, 0.5, 0.6]), st.integers(2, 12), st.booleans(), st.sampled_from(RUNTIMES))


def record_of(number: int, row: tuple[float, int, bool, str]) -> Any:
    quality, ms, is_unchanged, runtime = row
    steps = () if is_unchanged else (prune(0.3), finetune(2))
    quality = 0.5 if is_unchanged else quality
    made = complete(number, recipe(160, *steps, runtime=runtime), quality, float(ms))
    change = {"map_delta_low": quality - 0.55, "map_delta": quality - 0.5, "map_delta_high": quality - 0.45}
    ends = {"latency_ms_low": 0.95 * ms, "latency_ms_high": 1.05 * ms}
    return changed(made, metrics={**made.metrics, **change, **ends})


@given(st.lists(version, max_size=8))
def test_what_is_recommended_is_not_beaten_by_the_unchanged_network(rows: list[Any]) -> None:
    whole = [(0.5, 12, True, "eager"), (0.5, 6, True, "onnxruntime"), *rows]
    records = [record_of(number, row) for number, row in enumerate(whole)]
    front = front_object("demo", "laptop", records, ALL)
    best = best_point(front)
    mine, steps = best["metrics"], best["recipe"]["steps"]
    fastest = min(row[1] for row in whole if row[2])
    if steps:
        assert not (mine["map"] < 0.5 and mine["latency_ms"] > fastest)
        overlap = 1.05 * mine["latency_ms"] >= 0.95 * fastest
        assert not overlap or mine["map"] - 0.05 > 0.5, "tied with it, and not surely more accurate"
    else:
        assert mine["latency_ms"] == fastest
        compressed = any(not row[2] for row in whole)
        assert (front["best"]["note"] is not None) == compressed
        least = min(row[1] for row in whole)
        overlapped = [row for row in whole if not row[2] and row[1] == least and 1.05 * least < 0.95 * fastest]
        assert not overlapped, "a version is surely faster, and the job allows it"
    assert pick(front, PickRule("recommended"), ALL).point["trial"] == front["best"]["trial"]


def test_a_version_tied_with_the_unchanged_network_is_said_to_gain_nothing() -> None:
    records = [one for one in fake_records() if one.number in (0, 1, 3)]
    told = compared(records, {0: 2.2, 1: 1.0, 3: 0.98}, ties=[(1, 3)])
    surely = [
        changed(one, metrics={**one.metrics, "map_delta_low": 0.002, "map_delta": 0.005, "map_delta_high": 0.008})
        if one.number == 3
        else one
        for one in records
    ]
    unsure = [
        changed(one, metrics={**one.metrics, "map_delta_low": -0.004, "map_delta": 0.005, "map_delta_high": 0.01})
        if one.number == 3
        else one
        for one in records
    ]
    assert front_object("demo", "laptop", surely, ALL, told)["best"]["trial"] == 3
    best = front_object("demo", "laptop", unsure, ALL, told)["best"]
    assert best["trial"] == 1
    assert "ONNX Runtime" in best["note"]
    front = front_object("demo", "laptop", unsure, ALL, told)
    within = pick(front, PickRule("max_latency", 100.0), ALL)
    assert within.point["trial"] == 1
    assert any("gained nothing" in why for why in within.why)


@pytest.mark.parametrize(("quality", "worth"), [(0.004, False), (0.3, True)])
def test_of_a_network_that_has_not_learned_nothing_is_called_good(quality: float, worth: bool) -> None:
    records = [complete(0, recipe(160, runtime="eager"), quality, 9.0), complete(1, recipe(160), quality, 4.0)]
    records.append(complete(2, recipe(160, prune(0.3)), quality, 2.0))
    note = front_object("demo", "laptop", records, ALL)["best"]["note"]
    assert (note is None) == worth
