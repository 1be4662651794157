"""Latencies of all trials on one scale: ratios from duets, the reference's latency from all of them."""

from __future__ import annotations

import random
from typing import Any

import pytest

from paretune.search.latency_scale import on_one_scale, reference_of
from paretune.storage.trial_record import Record
from tests_support_records import changed, compared, complete, recipe

TRUE = {0: 9.0, 1: 4.0, 2: 3.0, 3: 2.0, 4: 4.2}
"""Milliseconds of each trial where nobody disturbs it."""


def duet(number: int, reference: int, slow: float = 1.0, *, calm: bool = True, error: float = 1.0) -> Record:
    """A record of a trial measured beside a reference, in seconds in which everything is slower by a factor."""
    ratio = TRUE[number] / TRUE[reference] * error
    facts: dict[str, Any] = {
        "reference": reference,
        "ratio": ratio,
        "low": ratio * 0.98,
        "high": ratio * 1.02,
        "network_ratio": ratio,
        "network_low": ratio * 0.98,
        "network_high": ratio * 1.02,
        "mode": "clean",
        "reference_ms": TRUE[reference] * slow,
        "reference_network_ms": TRUE[reference] * slow * 0.8,
        "calm": calm,
        "rounds": 3,
        "unstable": False,
    }
    if number == reference:
        facts |= {f"{part}{end}": 1.0 for part in ("", "network_") for end in ("ratio", "low", "high")}
    record = complete(number, recipe(160), 0.5, TRUE[number] * slow)
    kept = {name: value for name, value in record.metrics.items() if name not in ("latency_ms", "network_ms")}
    return changed(record, metrics=kept, facts={"duet": facts})


def latencies(records: list[Record], **more: Any) -> dict[int, float]:
    return {record.number: record.metrics["latency_ms"] for record in on_one_scale(records, **more)}


def test_a_slow_minute_changes_no_order_and_hardly_the_scale() -> None:
    slow = [1.0, 1.05, 1.9, 0.97, 1.0]
    records = [duet(n, 0 if n < 2 else 1, slow[n]) for n in TRUE]
    found = latencies(records)
    for one, ms in found.items():
        for other, others_ms in found.items():
            assert ms / others_ms == pytest.approx(TRUE[one] / TRUE[other])
    assert found == pytest.approx(TRUE, rel=0.01)


def test_disturbed_duets_say_nothing_of_the_scale_where_others_were_calm() -> None:
    records = [duet(0, 0), duet(1, 0), *(duet(n, 1, 3.0, calm=False) for n in (2, 3, 4))]
    assert latencies(records) == pytest.approx(TRUE)
    disturbed = [duet(n, 0 if n < 2 else 1, 3.0, calm=False) for n in TRUE]
    assert latencies(disturbed) == pytest.approx({n: 3 * ms for n, ms in TRUE.items()})


def test_the_order_in_which_records_are_read_does_not_matter() -> None:
    records = [duet(n, 0 if n < 3 else 1, 1 + n / 50) for n in TRUE]
    shuffled = random.Random(1).sample(records, len(records))
    assert latencies(shuffled) == pytest.approx(latencies(records))


def test_the_reference_becomes_known_better_with_each_trial() -> None:
    drawn = random.Random(3)
    slow = [drawn.lognormvariate(0, 0.1) for _ in range(200)]
    few = [duet(0, 0), duet(1, 0, 1.25), duet(2, 1, 1.25)]
    many = [*few, *(changed(duet(3, 1, factor), number=n) for n, factor in enumerate(slow, start=10))]
    few[0] = duet(0, 0, 1.25)
    assert latencies(few)[1] == pytest.approx(5.0)
    assert latencies(many)[1] == pytest.approx(4.0, rel=0.03)


def test_intervals_are_those_of_the_ratio() -> None:
    found = {record.number: record.metrics for record in on_one_scale([duet(n, 0 if n < 2 else 1) for n in TRUE])}
    assert found[3]["latency_ms_low"] == pytest.approx(2.0 * 0.98)
    assert found[3]["latency_ms_high"] == pytest.approx(2.0 * 1.02)
    assert found[3]["network_ms"] == pytest.approx(2.0 * 0.8)
    assert found[1]["latency_ms_low"] == found[1]["latency_ms"] == found[1]["latency_ms_high"]  # the reference itself
    assert found[0]["latency_ms_low"] == pytest.approx(9.0 / 1.02)  # known from the duet of trial 1


def test_without_trial_1_all_is_against_eager() -> None:
    records = [duet(n, 0) for n in (0, 2, 3)]
    assert reference_of(records) == 0
    assert latencies(records) == pytest.approx({n: TRUE[n] for n in (0, 2, 3)})


def test_a_comparison_replaces_the_ratios_of_its_trials_and_leaves_the_others() -> None:
    records = [duet(0, 0), duet(1, 0), duet(2, 1, error=1.3), duet(3, 1), duet(4, 1)]
    told = compared(records, {0: 9 / 4, 1: 1.0, 2: 3 / 4})
    assert latencies(records)[2] == pytest.approx(3.9)
    assert latencies(records, comparison=told) == pytest.approx(TRUE)
    assert reference_of(records, told) == 1


def test_records_of_before_stand_in_with_their_wall_time() -> None:
    old = complete(2, recipe(160), 0.5, 3.0)
    kept = {n: v for n, v in old.metrics.items() if n not in ("latency_ms", "network_ms")}
    (found,) = on_one_scale([changed(old, metrics={**kept, "latency_ms_p50_low": 2.9, "latency_ms_p50_high": 3.1})])
    assert (found.metrics["latency_ms"], found.metrics["network_ms"]) == (3.0, 2.4000000000000004)
    assert (found.metrics["latency_ms_low"], found.metrics["latency_ms_high"]) == (2.9, 3.1)


def test_a_failed_trial_has_no_latency() -> None:
    failed = Record.failed(2, recipe(160), {}, "sampled", "boom", started=0.0)
    found = on_one_scale([duet(0, 0), duet(1, 0), failed])
    assert found[2].metrics == {}
