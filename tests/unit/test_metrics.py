"""The table of metrics, and what follows it: objectives, constraints, tables, pages, texts, rows of other packages."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from paretune.config.job import Job
from paretune.core import metrics
from paretune.core.metrics import METRICS, OTHERS, PRINTED, Metric, computed, in_order, metric_of
from paretune.reports.terminal import front_table, trial_line
from paretune.search.pareto_front import FrontRules, Objective, front_object
from paretune.search.progress import SweepProgress
from paretune.workflows.check import plugin_tables
from tests_support_records import fake_records

JOB = {"dataset": "shapes", "detector": "yolo", "input_size": 160, "space": "none.yaml"}


def _speed(known: Mapping[str, float], _facts: Mapping[str, Any]) -> float:
    return 1000 / known["latency_ms"]


SPEED = Metric("speed", "images/s", "maximize", "images a second", head="images/s", digits=1, value=_speed)
NOTHING = Metric("nothing", "", "minimize", "not known anywhere", value=lambda _known, _facts: math.nan)
NO_FUNCTION = Metric("no_function", "", "minimize", "lacks its function")


@pytest.fixture
def speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OTHERS.rows, "speed", f"{__name__}:SPEED")


def rules(**objectives: Any) -> FrontRules:
    return FrontRules([Objective(metric, direction) for metric, direction in objectives.items()], lambda _: True)


def test_each_row_describes_itself_and_is_in_the_reference() -> None:
    text = Path("platform/reference.md").read_text(encoding="utf-8")
    for name, row in METRICS.items():
        assert row.name == name
        assert row.about
        assert f"`{name}`" in text, name
    assert set(PRINTED) - set(METRICS) == {f"{m}_delta{end}" for m in metrics.CHANGED for end in ("", "_high")}
    assert plugin_tables("metrics")["metric"]["size_mib"]["about"] == "model files on disk (MiB, minimize)"


def test_columns_follow_the_objectives() -> None:
    records, judge = fake_records(), rules(f1="maximize", flops="minimize")
    front = front_object("demo", "laptop", records, judge)
    head = front_table(front, None).splitlines()[2]
    usual = ["trial", "recipe", "map", "Δ", "map", "map50", "ms", "x", "eager", "x", "ONNX", "RT", "MiB", "params"]
    assert head.split() == [*usual[:6], "f1", *usual[6:], "flops"]
    assert ", f1 0." in trial_line(2, SweepProgress(judge, records), 20)
    both = in_order(["size_mib", "map", "map"])
    assert [row.name for row in both] == ["map", "size_mib"]


def test_a_row_of_another_package_is_objective_constraint_column_and_value(speed: None) -> None:
    objectives = {"map": "maximize", "speed": "maximize"}
    job = Job.model_validate({**JOB, "objectives": objectives, "constraints": {"speed": {"max_drop": 5}}})
    assert dict(job.objectives) == objectives
    assert computed({"latency_ms": 4.0}, {})[0]["speed"] == 250
    assert computed({}, {})[1]["speed"] == "KeyError: 'latency_ms'"
    records = [record for record in fake_records() if record.state == "complete"]
    for record in records:
        record.metrics["speed"] = 1000 / record.metrics["latency_ms"]
    front = front_object("demo", "laptop", records, rules(**objectives))
    assert "images/s" in front_table(front, None).splitlines()[2]
    assert "800.0 images/s" in trial_line(8, SweepProgress(rules(**objectives), records), 20)
    assert plugin_tables()["metric"]["speed"]["about"] == "images a second (images/s, maximize)"


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("nowhere", "none:ROW", "metric 'nowhere' cannot be loaded: No module named 'none'"),
        ("other", "SPEED", "is no Metric of that name with a function as value"),
        ("no_function", "NO_FUNCTION", "is no Metric of that name with a function as value"),
        ("no_metric", "JOB", "is no Metric of that name with a function as value"),
    ],
)
def test_a_row_that_is_no_metric_is_refused(
    speed: None, name: str, row: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(OTHERS.rows, name, row if ":" in row else f"{__name__}:{row}")
    with pytest.raises(ValueError, match=message):
        metric_of(name)
    with pytest.raises(ValidationError, match=message):
        Job.model_validate({**JOB, "constraints": {name: {"max": 1}}})
    assert name in computed({"latency_ms": 4.0}, {})[1]


def test_a_value_that_is_not_finite_is_a_reason(speed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OTHERS.rows, "nothing", f"{__name__}:NOTHING")
    assert computed({"latency_ms": 4.0}, {})[1]["nothing"] == "its function gave nan"


def test_a_row_of_ours_may_be_computed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "METRICS", {**METRICS, "speed": SPEED})
    assert computed({"latency_ms": 4.0}, {})[0]["speed"] == 250
