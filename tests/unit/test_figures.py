"""The front as picture and as tables."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg

from paretune.reports.front_csv import front_csv, trials_csv
from paretune.reports.front_plot import axes_of, drawn_front, frame_of, front_pictures, log_ticks, marks_of, ticks
from paretune.results.page_data import SweepState, page_data
from paretune.storage.trial_record import Record
from tests_support_page import detailed, simulated_records, target_results
from tests_support_records import FLOOR, OBJECTIVES, changed, comparison, fake_records, front_of


def data_of(records: Sequence[Record], **more: Any) -> dict[str, Any]:
    return page_data(SweepState("demo", 0.0, finished=True), [target_results(records, **more)], written=1.0)


def marks_in(data: dict[str, Any]) -> list[Any]:
    return marks_of(data, data["targets"][0])


def draw(data: dict[str, Any], folder: Path) -> np.ndarray[Any, Any]:
    files = {form: folder / f"front.{form}" for form in ("png", "svg")}
    front_pictures(data, data["targets"][0], files)
    image = cv2.imread(str(files["png"]))
    assert image is not None
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(int)


def test_marks_lie_where_their_figures_say() -> None:
    records = fake_records()
    marks = {mark.trial: mark for mark in marks_in(data_of(records))}
    assert set(marks) == {record.number for record in records if record.state == "complete"}
    for record in records:
        if record.number in marks:
            mark = marks[record.number]
            assert (mark.x, mark.y) == (record.metrics["latency_ms"], record.metrics["map"])
    assert {trial for trial, mark in marks.items() if mark.chosen} == {8, 5, 12, 6, 4, 2, 3}
    kinds = {trial: marks[trial].kind for trial in (0, 1, 9, 7, 8)}
    assert kinds == {0: "eager", 1: "onnxruntime", 9: "broken", 7: "other", 8: "front"}
    assert axes_of({objective.metric: objective.direction for objective in OBJECTIVES}) == ("latency_ms", "map")


def test_intervals_are_drawn_around_the_marks(tmp_path: Path) -> None:
    sure = [detailed(record) for record in fake_records()]
    data = data_of(sure)
    (mark,) = [one for one in marks_in(data) if one.trial == 8]
    assert mark.spread == pytest.approx((1.25 * 0.97, 1.25 * 1.03))
    assert mark.rise == pytest.approx((0.439, 0.459))
    (tmp_path / "a").mkdir()
    assert (draw(data, tmp_path) != draw(data_of(fake_records()), tmp_path / "a")).any()


def test_a_collapsed_trial_does_not_press_the_front_together() -> None:
    marks = marks_in(data_of(fake_records()))
    low, high = frame_of(marks, ("latency_ms", "map"), None).y
    assert low > 0.31  # trial 9, which breaks a constraint
    chosen = [mark.y for mark in marks if mark.chosen]
    assert (max(chosen) - min(chosen)) / (high - low) > 0.7


@pytest.mark.parametrize(
    "records", [[], fake_records()[10:11], fake_records()[:1], [changed(fake_records()[3], metrics={})]]
)
def test_little_or_nothing_to_show(records: list[Record], tmp_path: Path) -> None:
    data = data_of(records)
    assert draw(data, tmp_path).shape == (650, 1170, 3)
    assert ("no complete trial yet" in (tmp_path / "front.svg").read_text()) == (not marks_in(data))
    assert trials_csv(data["trials"]).startswith("number,target,state")


def test_the_picture_shows_front_baselines_and_floor(tmp_path: Path) -> None:
    image = draw(data_of(fake_records(), floors={"map": 0.46, "map50": FLOOR}), tmp_path)
    # the thin line of the floor is blended with the paper
    for colour, blend in (("#1a73e8", 8), ("#b06000", 8), ("#137333", 8), ("#a8adb4", 8), ("#d93025", 60)):
        wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert (np.abs(image - wanted).max(axis=2) < blend).sum() > 40, colour


def test_baselines_lie_on_top_of_thousands_of_trials_and_the_picture_stays_small(tmp_path: Path) -> None:
    data = data_of(simulated_records(3000), floors={}, violations={})
    image = draw(data, tmp_path)
    for colour in ("#b06000", "#137333"):
        wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert (np.abs(image[:500] - wanted).max(axis=2) < 8).sum() > 60  # without the legend
    assert (tmp_path / "front.svg").stat().st_size < 400_000
    assert (tmp_path / "front.svg").read_text().count("<svg ") == 1


def test_numbers_of_trials_do_not_lie_on_one_another() -> None:
    data = data_of(simulated_records(3000), floors={}, violations={})
    marks = marks_in(data)
    figure = drawn_front("demo", marks, frame_of(marks, axes_of(data["objectives"]), None))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = [text.get_window_extent(canvas.get_renderer()) for text in figure.axes[0].texts]
    assert len(boxes) > 3
    for one, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:one])


def test_the_same_trials_make_the_same_picture(tmp_path: Path) -> None:
    made = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        draw(data_of(fake_records()), tmp_path / name)
        made.append((tmp_path / name / "front.svg").read_bytes())
    assert made[0] == made[1]


def test_the_table_for_spreadsheets_has_every_point_and_metric() -> None:
    front = front_of(fake_records())
    rows = list(csv.DictReader(io.StringIO(front_csv(front))))
    assert [int(row["trial"]) for row in rows] == [point["trial"] for point in front["front"]]
    for row, point in zip(rows, front["front"], strict=True):
        assert {name: float(row[name]) if row[name] else None for name in point["metrics"]} == point["metrics"]
    assert {row["energy_mj_image"] for row in rows} == {""}  # unknown
    assert "" not in {row["map50"] for row in rows}


def test_the_table_of_all_trials_has_every_parameter_metric_and_stage() -> None:
    records = fake_records()
    rows = list(csv.DictReader(io.StringIO(trials_csv(data_of(records, comparison=comparison())["trials"]))))
    assert [int(row["number"]) for row in rows] == [record.number for record in records]
    for row, record in zip(rows, records, strict=True):
        assert {name: float(row[name]) for name in record.metrics} == dict(record.metrics)
        assert {name: row[name] for name in record.params} == {n: str(v) for n, v in record.params.items()}
        assert {name: float(row[f"seconds.{name}"]) for name in record.seconds} == dict(record.seconds)
        assert row["state"] == record.state
    assert rows[10]["failure"] == "RuntimeError: calibration saw <no> images & gave up"


def test_no_cell_is_a_formula() -> None:
    trials = data_of([changed(fake_records()[3], params={"a": "=1+1", "b": -1.5, "c": "+x"})])["trials"]
    (row,) = csv.DictReader(io.StringIO(trials_csv(trials)))
    assert (row["a"], row["b"], row["c"]) == ("'=1+1", "-1.5", "'+x")


@settings(deadline=None)
@given(st.floats(1e-3, 1e3), st.floats(1.01, 1e4))
def test_ticks_of_a_logarithmic_axis_are_some_round_numbers_inside_it(low: float, factor: float) -> None:
    found = log_ticks(low, low * factor)
    assert 2 <= len(found) <= 20
    assert all(low * (1 - 1e-9) <= tick <= low * factor * (1 + 1e-9) for tick in found)
    assert found == sorted(set(found))


@settings(deadline=None)
@given(st.floats(-10, 10), st.floats(1e-3, 100))
def test_ticks_are_some_round_numbers_inside_the_range(low: float, span: float) -> None:
    found = ticks(low, low + span)
    assert 2 <= len(found) <= 7
    assert all(low - 1e-9 <= tick <= low + span + 1e-9 for tick in found)
    steps = np.diff(found)
    assert steps == pytest.approx([steps[0]] * len(steps), rel=1e-6)
    assert min(abs(steps[0] / 10 ** math.floor(math.log10(steps[0] * 1.0001)) - m) for m in (1, 2, 2.5, 5, 10)) < 1e-3
