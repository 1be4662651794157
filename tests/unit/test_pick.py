"""What is picked from a front, against brute force, and what the bundle holds."""

from __future__ import annotations

import json
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paretune.cli.main import main
from paretune.core.errors import UserError
from paretune.core.target import Target
from paretune.results.locate import target_around
from paretune.results.pick import PickRule, figures_of, knee, lower_bound, milliseconds, pick, pick_text
from paretune.results.sweep_folder import Sweep
from paretune.search.latency_scale import on_one_scale
from paretune.search.pareto_front import FrontRules, Objective, front_object
from paretune.storage.artefact import BUNDLE_FILES, read_artefact
from paretune.workflows.pick import write_bundle
from tests_support import ROOT
from tests_support_records import changed, compared, complete, fake_records, judge, recipe

ALL = judge(allowed=lambda _: True)
ARCHIVE = ROOT / "tests" / "data" / "sweep_of_0.1.0.zip"


def front_of(rows: list[tuple[float, float]], half: float = 0.0, by: FrontRules = ALL) -> dict[str, Any]:
    """The front of (map, latency) rows after an eager baseline of map 0.5 and 20 ms."""
    records = [complete(0, recipe(160, runtime="eager"), 0.5, 20.0)]
    for number, (quality, ms) in enumerate(rows, 1):
        record = complete(number, recipe(160), quality, ms)
        ends = {"latency_ms_low": ms * (1 - half), "latency_ms_high": ms * (1 + half)} if half else {}
        records.append(changed(record, metrics={**record.metrics, **ends}))
    return front_object("demo", "laptop", records, by)


rows_of = st.lists(st.tuples(st.integers(1, 9).map(lambda n: n / 20), st.integers(1, 15)), min_size=1, max_size=9)


@given(rows_of, st.integers(1, 20))
def test_max_latency_is_the_most_accurate_of_all_trials_within_it(rows: list[Any], limit: int) -> None:
    front, rule = front_of(rows), PickRule("max_latency", float(limit))
    within = [(quality, -ms) for quality, ms in [(0.5, 20.0), *rows] if ms <= limit]
    if not within:
        with pytest.raises(UserError, match="no point of the front") as refused:
            pick(front, rule, ALL)
        nearest = min(front["front"], key=lambda point: point["metrics"]["latency_ms"])
        assert f"trial {nearest['trial']} " in str(refused.value)
        return
    found = pick(front, rule, ALL).point["metrics"]
    assert (found["map"], -found["latency_ms"]) == max(within)


@given(rows_of, st.sampled_from([0.0, 0.05, 0.1, 0.25, 0.4]))
def test_max_drop_is_the_fastest_of_all_trials_that_lose_no_more(rows: list[Any], drop: float) -> None:
    found = pick(front_of(rows), PickRule("max_drop", drop), ALL).point["metrics"]
    enough = [(ms, -quality) for quality, ms in [(0.5, 20.0), *rows] if round(0.5 - quality, 6) <= drop]
    assert (found["latency_ms"], -found["map"]) == min(enough)


@given(rows_of, st.sampled_from([0.1, 0.3, 0.45, 0.6]))
def test_min_is_the_fastest_of_all_trials_with_as_much(rows: list[Any], least: float) -> None:
    rule, front = PickRule("min", least, "map"), front_of(rows)
    enough = [(ms, -quality) for quality, ms in [(0.5, 20.0), *rows] if quality >= least]
    if not enough:
        with pytest.raises(UserError, match=r"map at least 0\.6; the nearest is trial"):
            pick(front, rule, ALL)
        return
    found = pick(front, rule, ALL).point["metrics"]
    assert (found["latency_ms"], -found["map"]) == min(enough)


@given(rows_of)
def test_the_knee_is_the_farthest_from_the_line_between_the_ends(rows: list[Any]) -> None:
    """The oracle: the distance of a point from a line by the cross product, in coordinates from 0 to 1."""
    front = front_of(rows)
    places = np.array([[math.log(p["metrics"]["latency_ms"]), p["metrics"]["map"]] for p in front["front"]])
    wide = np.ptp(places, axis=0)
    if len(places) < 3:
        with pytest.raises(UserError, match="three points at least"):
            pick(front, PickRule("knee"), ALL)
        return
    ends = (places - places[0]) / wide
    signed = [float(np.linalg.det(np.array([end, ends[-1] - ends[0]]))) * -1 for end in ends]
    best = max(signed[1:-1]) / math.sqrt(2)
    if best <= 1e-12:
        return
    place, distance = knee(front["front"], ALL)
    assert distance == pytest.approx(best)
    assert signed[place] / math.sqrt(2) == pytest.approx(best)
    assert pick(front, PickRule("knee"), ALL).point["trial"] == front["front"][place]["trial"]


def test_a_front_that_bulges_nowhere_has_no_knee() -> None:
    hollow = front_of([(0.1, 1.0), (0.12, 8.0), (0.2, 15.0)])
    with pytest.raises(UserError, match=r"no knee.*nearest is trial"):
        pick(hollow, PickRule("knee"), ALL)


def test_the_unit_of_time_does_not_move_the_knee() -> None:
    rows = [(0.1, 1.0), (0.35, 2.0), (0.42, 3.0), (0.45, 15.0)]
    front = front_of(rows)["front"]
    seconds = [{**p, "metrics": {**p["metrics"], "latency_ms": p["metrics"]["latency_ms"] / 1000}} for p in front]
    assert knee(seconds, ALL) == (knee(front, ALL)[0], pytest.approx(knee(front, ALL)[1]))


def test_of_tied_points_the_more_accurate_is_taken_and_it_is_printed() -> None:
    records = fake_records()
    ratios = {0: 2.2, 1: 1.0, 8: 0.40, 5: 0.405, 12: 0.41, 6: 0.6}
    told = compared(records, ratios, ties=[(8, 5), (8, 12), (5, 12)])
    front = front_object("demo", "laptop", on_one_scale(records, told), ALL, told)
    found = pick(front, PickRule("max_drop", 0.2), ALL)
    assert found.point["trial"] == 12
    assert any("tied in latency_ms with trial 5, trial 8" in why for why in found.why)
    assert pick(front, PickRule("recommended"), ALL).point["trial"] == front["best"]["trial"] == 12
    strict = pick(front, PickRule("min", 0.475, "map"), ALL)  # 12 is tied with points that do not keep the rule
    assert (strict.point["trial"], len(strict.why)) == (12, 1)


def test_without_a_comparison_overlapping_intervals_are_ties() -> None:
    rows = [(0.30, 5.0), (0.40, 5.3), (0.45, 7.0)]
    assert pick(front_of(rows, half=0.01), PickRule("max_drop", 0.3), ALL).point["trial"] == 1
    wide = pick(front_of(rows, half=0.05), PickRule("max_drop", 0.3), ALL)
    assert wide.point["trial"] == 2
    assert "tied in latency_ms with trial 1" in wide.why[1]


def test_intervals_across_the_limit_are_printed() -> None:
    front = front_of([(0.30, 5.0), (0.40, 5.6), (0.45, 9.0)], half=0.1)
    found = pick(front, PickRule("max_latency", 5.2), ALL)
    assert found.point["trial"] == 1
    assert "may be 5.50 ms" in found.why[1]
    assert "trial 2 may keep the limit too, from 5.04 ms" in found.why[2]


def test_neighbours_are_those_of_the_front() -> None:
    front = front_of([(0.30, 5.0), (0.40, 6.0), (0.45, 9.0)])
    found = pick(front, PickRule("max_latency", 6.5), ALL)
    assert (found.cheaper or {})["trial"] == 1
    assert (found.better or {})["trial"] == 3
    text = pick_text(found, ALL)
    assert "next with less latency_ms: trial 1: " in text
    assert "next with more map: trial 3: " in text
    assert "none, it is the end" in pick_text(pick(front, PickRule("max_latency", 5.0), ALL), ALL)


def test_other_objectives_keep_their_own_costs() -> None:
    by = FrontRules([Objective("map", "maximize"), Objective("size_mib", "minimize")], lambda _: True)
    found = pick(front_of([(0.30, 5.0), (0.40, 6.0)], by=by), PickRule("max_latency", 6.0), by)
    assert found.point["trial"] == 2
    assert "next with less size_mib" in pick_text(found, by)


@pytest.mark.parametrize(("text", "ms"), [("10ms", 10), ("0.01s", 10), ("500us", 0.5), ("2 µs", 0.002), ("1e1ms", 10)])
def test_latencies_are_read_with_their_unit(text: str, ms: float) -> None:
    assert milliseconds(text) == pytest.approx(ms)


@pytest.mark.parametrize("text", ["10", "ms", "-1ms", "0ms", "1.2.3ms", "10 min", "1e999ms", ""])
def test_what_is_no_latency_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UserError, match="such as 10ms"):
        milliseconds(text)


def test_a_lower_bound_is_read() -> None:
    assert lower_bound("map50=0.7") == PickRule("min", 0.7, "map50")
    assert lower_bound("map_delta_low=-0.01").limit == -0.01


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("map50", "METRIC=VALUE"),
        ("map50=much", "METRIC=VALUE"),
        ("map51=0.5", "unknown metric 'map51'"),
        ("size_mib=2", "better when smaller"),
        ("map=inf", "finite"),
    ],
)
def test_a_wrong_lower_bound_is_refused(text: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        lower_bound(text)


def test_figures_have_the_ends_of_their_intervals() -> None:
    found = figures_of({"map": 0.5, "latency_ms": 2.0, "latency_ms_low": 1.9, "latency_ms_high": 2.1})
    assert found == {
        "map": {"value": 0.5, "low": None, "high": None},
        "latency_ms": {"value": 2.0, "low": 1.9, "high": 2.1},
    }


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    """A real sweep on disk, of two baselines and one trial."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(tmp_path)
    return Sweep(tmp_path / "runs", "before")


def test_a_bundle_is_the_artefact_with_its_reason(sweep: Sweep, tmp_path: Path, capsys: Any) -> None:
    words = ["pick", "before", "--runs", str(sweep.runs), "--max-latency", "10ms", "--json"]
    assert main([*words, "--out", str(tmp_path / "mine")]) == 0
    told = json.loads(capsys.readouterr().out)
    source, bundle = sweep.folder / "trials/0001/artefact", tmp_path / "mine"
    assert told.pop("folder") == str(bundle)
    assert json.loads((bundle / "bundle.json").read_text()) == told
    assert (told["sweep"], told["trial"]) == ("before", 1)
    assert told["rule"] == {"kind": "max_latency", "metric": "latency_ms", "limit": 10.0}
    ends = told["figures"]["latency_ms"]
    assert ends["low"] <= ends["value"] <= ends["high"]
    copied = {path.relative_to(bundle) for path in bundle.rglob("*")} - set(map(Path, BUNDLE_FILES))
    assert copied == {path.relative_to(source) for path in source.rglob("*")}
    assert read_artefact(bundle).size_mib == read_artefact(source).size_mib
    assert target_around(bundle) == Target()


def test_a_bundle_predicts(sweep: Sweep) -> None:
    from paretune.results.front_summary import checked_front, judge_of
    from paretune.runtimes.predictor import load_predictor

    chosen = pick(checked_front(sweep, None), PickRule("recommended"), judge_of(sweep))
    for _ in range(2):  # a second bundle of the same rule takes the place of the first
        folder, _facts = write_bundle(sweep, chosen)
    assert folder == sweep.folder / "picked/recommended"
    found = load_predictor(folder, Target())(np.zeros((64, 96, 3), np.uint8))
    assert len(found.boxes) == len(found.scores)
    assert [path.name for path in folder.parent.iterdir()] == ["recommended"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--max-latency", "1us"], "no point of the front of sweep 'before' has latency_ms at most 0.001 ms"),
        (["--max-latency", "10"], "such as 10ms"),
        (["--max-drop", "-1"], "from 0"),
        (["--knee"], "three points at least"),
        (["--target", "phone"], "no target 'phone'"),
        (["--min", "map=0.9"], "the nearest is trial 1 with map 0.000"),
    ],
)
def test_what_keeps_no_rule_ends_with_2_and_writes_nothing(
    words: list[str], reason: str, sweep: Sweep, capsys: Any
) -> None:
    assert main(["pick", "before", "--runs", str(sweep.runs), *words]) == 2
    assert reason in capsys.readouterr().err
    assert not (sweep.folder / "picked").exists()


def test_a_damaged_artefact_makes_no_bundle(sweep: Sweep, tmp_path: Path, capsys: Any) -> None:
    (sweep.folder / "trials/0001/artefact/model.onnx").write_bytes(b"damaged")
    assert main(["pick", "before", "--runs", str(sweep.runs), "--out", str(tmp_path / "mine")]) == 2
    assert "damaged" in capsys.readouterr().err
    assert not list(tmp_path.glob("*mine*"))


def test_a_folder_that_is_there_is_not_replaced(sweep: Sweep, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "own.txt").write_text("kept")
    assert main(["pick", "before", "--runs", str(sweep.runs), "--out", str(tmp_path / "mine")]) == 2
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "mine" / "own.txt").read_text() == "kept"
