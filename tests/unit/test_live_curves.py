"""The computing parts of the benchmarks `live` and `honest`: hypervolume over wall time, ranks, pairs."""

from __future__ import annotations

import csv
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import honest
import live_curves
from figures import Figures
from live import Version, points_of
from live_curves import OURS, SCRIPT, Clock, CurvePoint, Point, add_times, curve_of, reached

from paretune.config.job import Job

CELLS = 40
"""Cells of the brute-force grid in each direction; the values below lie on its lines."""
QUALITY = st.integers(0, CELLS).map(lambda cell: cell / CELLS)
SAVED = st.integers(-5, CELLS).map(lambda cell: cell / CELLS)


def brute_force(points: list[tuple[float, float]]) -> float:
    """Return the area that points dominate, counted in the cells of a grid over the unit square."""
    middles = (np.arange(CELLS) + 0.5) / CELLS
    x, y = np.meshgrid(middles, middles)
    covered = np.zeros_like(x, bool)
    for quality, saved in points:
        covered |= (x < quality) & (y < saved)
    return float(covered.mean())


@given(st.lists(st.tuples(QUALITY, SAVED), max_size=8))
def test_the_hypervolume_after_each_version_is_that_of_brute_force(rows: list[tuple[float, float]]) -> None:
    points = [Point(str(n), 10.0 * n, quality, 3 / math.exp(saved)) for n, (quality, saved) in enumerate(rows)]
    curve = curve_of(points[::-1], 3.0)
    assert [point.seconds for point in curve] == [point.seconds for point in points]
    for count, point in enumerate(curve, 1):
        assert point.hypervolume == pytest.approx(brute_force(rows[:count]), abs=1e-9)


def curve(*rows: tuple[float, float]) -> list[CurvePoint]:
    return [CurvePoint("any", seconds, volume) for seconds, volume in rows]


def test_a_curve_reaches_a_value_at_the_first_version_that_has_it() -> None:
    ours = curve((10, 0.2), (20, 0.5), (30, 0.5), (40, 0.9))
    assert reached(ours, 0.5) == 20
    assert reached(ours, 0.51) == 40
    assert reached(ours, 0.9) == 40
    assert reached(ours, 0.91) is None
    assert reached([], 0.1) is None


def test_the_share_is_of_the_wall_time_of_the_script_and_unknown_if_it_is_never_reached() -> None:
    script, seconds = curve((100, 0.3), (300, 0.8), (500, 0.8)), {SCRIPT: 600, OURS: 400}
    figures = Figures("any")
    add_times({SCRIPT: script, OURS: curve((50, 0.4), (120, 0.795), (150, 0.85))}, seconds, figures)
    assert [row.value for row in figures.rows] == [5.0, 2.5, 0.25, 0.2]
    assert figures.rows[2].met
    assert figures.more["never_reached"] is None
    figures = Figures("any")
    add_times({SCRIPT: script, OURS: curve((50, 0.4))}, seconds, figures)
    assert [row.value for row in figures.rows] == [5.0, None, None, None]
    assert not figures.rows[2].met
    assert figures.more["never_reached"] == "Paretune ends at hypervolume 0.4000, the script at 0.8000"
    figures = Figures("any")
    add_times({SCRIPT: script, OURS: []}, seconds, figures)
    assert figures.more["never_reached"] == "Paretune ends at hypervolume 0.0000, the script at 0.8000"


def test_versions_of_the_final_run_have_its_figures_and_the_others_their_own() -> None:
    job = Job.model_validate({"dataset": "shapes", "detector": {"yolo": {"variant": "nano"}}, "space": "space.yaml",
                              "input_size": 160, "constraints": {"map50": {"max_drop": 0.1}}})  # fmt: skip
    final = {
        "paretune 0": {"ratio": 2.0, "val": {"map": 0.5, "map50": 0.8}},
        "paretune 1": {"ratio": 1.0, "val": {"map": 0.5, "map50": 0.8}},
        "script a": {"ratio": 0.6, "val": {"map": 0.45, "map50": 0.75}},
    }

    def version(name: str, ratio: float, map50: float, baseline: str | None = None) -> Version:
        return Version(name, Path(name), 7.0, ratio, {"map": 0.4, "map50": map50}, True, baseline)

    versions = [
        version("script eager", 1.9, 0.8, "eager"),
        version("script onnxruntime", 1.0, 0.8, "onnxruntime"),
        version("script a", 0.3, 0.2),
        version("script b", 0.4, 0.71),
        version("script c", 0.4, 0.69),
    ]
    assert [(point.name, point.quality, point.cost) for point in points_of(versions, final, job)] == [
        ("script eager", 0.5, 2.0),
        ("script onnxruntime", 0.5, 1.0),
        ("script a", 0.45, 0.6),
        ("script b", 0.4, 0.4),
    ]


def test_a_clock_counts_only_the_time_in_which_its_run_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "clock.json"
    file.write_text(json.dumps([[100.0, 160.0], [1000.0, 1030.0]]))
    clock = Clock(file)
    assert [clock.until(moment) for moment in (50, 100, 130, 500, 1010, 5000)] == [0, 0, 30, 60, 70, 90]
    assert clock.seconds == 90
    monkeypatch.setattr(live_curves, "BEAT", 0.01)
    with clock.running():
        time.sleep(0.1)
        seen = json.loads(file.read_text())  # what a killed run leaves
    assert len(seen) == len(Clock(file).attempts) == 3
    assert 0 < seen[2][1] - seen[2][0] < 0.2
    assert 90.1 <= Clock(file).seconds < 91


def test_curves_are_written_and_drawn(tmp_path: Path) -> None:
    curves = {SCRIPT: curve((100, 0.3), (300, 0.8)), OURS: []}
    live_curves.write_csv(tmp_path / "curves.csv", curves)
    with (tmp_path / "curves.csv").open() as opened:
        rows = list(csv.DictReader(opened))
    assert [(row["run"], float(row["seconds"]), float(row["hypervolume"])) for row in rows] == [
        ("script", 100, 0.3),
        ("script", 300, 0.8),
    ]
    live_curves.draw(tmp_path / "curves.png", curves, {SCRIPT: 400, OURS: 200}, "any")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_ranks_and_their_correlation_are_those_computed_by_hand() -> None:
    assert list(honest.ranks([30, 10, 20])) == [3, 1, 2]
    assert list(honest.ranks([5, 1, 5, 5])) == [3, 1, 3, 3]
    by_hand = 1 - 6 * (1 + 1 + 0 + 0 + 0) / (5 * 24)
    assert honest.rank_correlation([1, 2, 3, 4, 5], [20, 10, 30, 40, 50]) == pytest.approx(by_hand)
    assert honest.rank_correlation([1, 2, 3], [9, 8, 7]) == pytest.approx(-1)
    # ranks 1, 2.5, 2.5, 4 beside 1, 2, 3, 4: 4.5 / sqrt(4.5 * 5)
    assert honest.rank_correlation([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(4.5 / math.sqrt(22.5))
    assert honest.rank_correlation([1, 1, 1], [1, 2, 3]) is None


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=2, max_size=12))
def test_the_rank_correlation_is_that_of_scipy(rows: list[tuple[int, int]]) -> None:
    from scipy.stats import spearmanr

    one, other = zip(*rows, strict=True)
    if len(set(one)) > 1 and len(set(other)) > 1:
        assert honest.rank_correlation(one, other) == pytest.approx(spearmanr(one, other).statistic)


def test_versions_and_pairs_apart_are_counted() -> None:
    alone = [1.0, 1.05, 1.16, 2.0, 1.1]
    assert honest.versions_apart(alone) == 3  # 1.0, 1.1, 2.0
    pairs = honest.pairs_apart(alone)
    assert pairs == [(0, 2), (0, 3), (0, 4), (1, 2), (1, 3), (2, 3), (3, 4)]
    assert honest.ordered_alike(alone, alone, pairs) == 7
    assert honest.ordered_alike([1.0, 1.2, 1.16, 2.0, 1.0], alone, pairs) == 5  # not (1, 2), nor the equal ones (0, 4)
    assert honest.versions_apart([]) == 0
