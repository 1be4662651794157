"""The growth of the hypervolume: against the hypervolume of each prefix, and when it counts as flat."""

from __future__ import annotations

import csv
import io
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paretune.search.hypervolume_series import (
    HypervolumePoint,
    flattened,
    growth_line,
    hypervolume_series,
    series_csv,
    series_tree,
)
from paretune.search.latency_scale import on_one_scale
from paretune.search.pareto_front import FrontRules, Objective, front_object, hypervolume
from paretune.storage.trial_record import Record
from tests_support_records import changed, compared, complete, fake_records, judge, recipe

ALL = judge(allowed=lambda _: True)
MAPS, MILLISECONDS = st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.9]), st.sampled_from([0.5, 1.0, 2.0, 9.0, 20.0, 30.0])


@given(st.lists(st.tuples(MAPS, MILLISECONDS, st.booleans()), max_size=12))
def test_each_value_is_the_hypervolume_of_the_trials_so_far(rows: list[Any]) -> None:
    records = [complete(0, recipe(160, runtime="eager"), 0.5, 20.0)]
    for number, (quality, ms, done) in enumerate(rows, 1):
        record = complete(number, recipe(160), quality, ms)
        broken = Record.failed(number, {}, {}, "sampled", "died", started=record.started, seconds=record.seconds)
        records.append(record if done else broken)
    rules = judge(allowed=lambda record: record.metrics["map"] > 0.2)
    series = hypervolume_series(records, rules)
    assert [point.trial for point in series] == [record.number for record in records]
    for place, point in enumerate(series):
        allowed = [r.metrics for r in records[: place + 1] if r.state == "complete" and rules.feasible(r)]
        assert point.hypervolume == pytest.approx(hypervolume(allowed, rules.objectives, records[0].metrics))
        assert point.seconds == pytest.approx(35.0 * (place + 1))
    published = front_object("demo", "laptop", records, rules)["hypervolume"]
    assert series[-1].hypervolume == pytest.approx(published)


def test_trials_are_in_the_order_in_which_they_ended() -> None:
    late = changed(complete(1, recipe(160), 0.5, 4.0), seconds={"finetune": 500.0})
    records = [complete(0, recipe(160, runtime="eager"), 0.5, 20.0), late, complete(2, recipe(160), 0.4, 3.0)]
    assert [(point.trial, point.seconds) for point in hypervolume_series(records, ALL)] == [
        (0, 35.0),
        (2, 70.0),
        (1, 570.0),
    ]


def test_a_comparison_that_decides_counts_only_what_it_measured() -> None:
    records = fake_records()
    told = compared(records, {0: 2.2, 1: 1.0, 8: 0.45, 5: 0.40})
    scaled = on_one_scale(records, told)
    series = hypervolume_series(scaled, ALL, told)
    assert series[-1].hypervolume == pytest.approx(front_object("d", "t", scaled, ALL, told)["hypervolume"])
    grew = [b.trial for a, b in pairwise(series) if b.hypervolume > a.hypervolume]
    assert set(grew) <= {1, 5, 8}


def test_without_a_hypervolume_there_is_no_series() -> None:
    assert hypervolume_series(fake_records()[1:], ALL) == []
    both = FrontRules([Objective("map", "maximize"), Objective("f1", "maximize")], lambda _: True)
    assert hypervolume_series(fake_records(), both) == []


def series_of(*values: float) -> list[HypervolumePoint]:
    return [HypervolumePoint(number, 10.0 * number, value) for number, value in enumerate(values)]


@pytest.mark.parametrize(
    ("values", "trials", "gain", "since", "flat"),
    [
        ((0, 0.5, 0.8, 0.8, 0.8), 2, 0.01, 0, True),
        ((0, 0.5, 0.8, 0.8, 0.8), 3, 0.01, 0, False),
        ((0, 0.5, 0.8, 0.804, 0.806), 2, 0.01, 0, True),  # grew by 0.7 %
        ((0, 0.5, 0.8, 0.804, 0.809), 2, 0.01, 0, False),  # grew by 1.1 %
        ((0, 0.5, 0.5), 2, 0.01, 0, False),
        ((0.5, 0.5, 0.5), 3, 0.01, 0, False),  # fewer before them than one
        ((0, 0, 0, 0, 0), 2, 0.01, 0, False),  # nothing has been found yet
        ((0, 0.5, 0.8, 0.8, 0.8), 2, 0.01, 4, False),  # one trial since it was extended
        ((0, 0.5, 0.8, 0.8, 0.8), 2, 0.01, 3, True),
        ((), 2, 0.01, 0, False),
    ],
)
def test_a_series_is_flat_if_its_last_trials_added_less_than_a_share(
    values: tuple[float, ...], trials: int, gain: float, since: int, flat: bool
) -> None:
    assert flattened(series_of(*values), trials=trials, gain=gain, since=since) is flat


def test_it_is_written_as_csv_and_in_one_line() -> None:
    tree = series_tree(series_of(0, 0.5, 0.996, 1.0))
    rows = list(csv.DictReader(io.StringIO(series_csv(tree))))
    assert [float(row["hypervolume"]) for row in rows] == [0, 0.5, 0.996, 1.0]
    assert set(rows[0]) == {"trial", "seconds", "hypervolume"}
    assert growth_line(tree).startswith("99 % of the hypervolume after 3 of 4 trials")
    assert growth_line([]) == growth_line(series_tree(series_of(0, 0))) == ""
