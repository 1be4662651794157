"""``list``, ``show`` and ``compare`` on sweeps that never ran."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from paretune.cli.main import build_parser, main
from paretune.results.front_summary import front_json
from paretune.results.sweep_folder import Sweep
from paretune.results.sweep_list import list_sweeps
from paretune.storage.trial_record import Record, record_file, write_record
from tests_support_documented import printed, words
from tests_support_records import changed, compared, fake_records, finished_sweep

JOB = {"dataset": "shapes", "detector": "yolo", "space": "none.yaml", "input_size": 160}
TRACEBACK = """\
Traceback (most recent call last):
  File "/a/outer.py", line 3, in run
    step()
  File "/b/calibrate.py", line 41, in _seen
    raise RuntimeError("calibration saw nothing")
RuntimeError: calibration saw nothing
"""


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    monkeypatch.setenv("COLUMNS", "200")
    return finished_sweep(tmp_path, JOB)


def another(sweep: Sweep, name: str, created: float, records: list[Record]) -> Sweep:
    """A sweep beside the finished one, which is not finished."""
    made = Sweep(sweep.runs, name)
    made.folder.mkdir()
    facts = {**sweep.facts, "name": name, "created": created}
    (made.folder / "sweep.json").write_text(json.dumps(facts))
    for record in records:
        write_record(made.folder, record)
    return made


def answer(capsys: Any, *given: str) -> Any:
    assert main([*given, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_list_has_the_newest_first_with_state_trials_and_best_point(sweep: Sweep, capsys: Any) -> None:
    eager = fake_records()[0]
    failed = Record.failed(0, eager.recipe, eager.params, "baseline", "RuntimeError: no memory")
    another(sweep, "failed", 20.0, [failed])
    another(sweep, "stopped", 30.0, fake_records()[:3])
    (broken := sweep.runs / "broken").mkdir()
    (broken / "sweep.json").write_text("{")
    found = answer(capsys, "list", "--runs", str(sweep.runs))
    by_name = {one["name"]: one for one in found["sweeps"]}
    assert list(by_name) == ["stopped", "failed", "demo", "broken"]
    states = {name: one["state"] for name, one in by_name.items()}
    assert states == {"stopped": "stopped", "failed": "failed", "demo": "finished", "broken": "failed"}
    demo = by_name["demo"]
    assert (demo["done"], demo["failed"], demo["stopped"], demo["front"]) == (13, 1, 0, 8)
    assert demo["best"]["trial"] == json.loads(front_json(sweep))["best"]["trial"] == 9
    assert demo["best"]["metrics"] == {"map": 0.31, "latency_ms": 1.1}
    assert demo["best"]["speedup"] == pytest.approx(9.1 / 1.1)
    assert "no memory" in by_name["failed"]["reason"]
    assert "damaged" in by_name["broken"]["reason"]
    assert main(["list", "--runs", str(sweep.runs)]) == 0
    text = capsys.readouterr().out
    assert "9: map 0.310, 1.10 ms, 8.3x eager" in text
    assert "no memory" in text


def test_a_sweep_that_another_process_runs_is_running(sweep: Sweep) -> None:
    locked = "from paretune.results.sweep_folder import Sweep; from pathlib import Path\n"
    locked += f"with Sweep(Path({str(sweep.runs)!r}), 'demo').lock():\n    print('up', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", locked], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "up\n"
        assert [one.state for one in list_sweeps(sweep.runs)] == ["running"]
        other.communicate("\n")
    assert [one.state for one in list_sweeps(sweep.runs)] == ["finished"]


def test_there_may_be_no_sweep_and_no_folder(tmp_path: Path, capsys: Any) -> None:
    assert answer(capsys, "list", "--runs", str(tmp_path)) == {"runs": str(tmp_path), "sweeps": []}
    assert main(["list", "--runs", str(tmp_path / "none")]) == 2
    assert "none" in capsys.readouterr().err


def test_a_trial_is_shown_whole(sweep: Sweep, capsys: Any) -> None:
    record = fake_records()[8]
    stages = [
        {"stage": "prune", "key": "ab", "seconds": 0.0, "cpu_seconds": 0.0, "reused": True},
        {"stage": "evaluate", "key": None, "seconds": 4.0, "cpu_seconds": 3.9, "reused": False},
    ]
    facts = {
        "classes": {"square": 0.5, "circle": None},
        "stages": stages,
        "cpu": "Some CPU",
        "libraries": {"torch": "2"},
    }
    ends = {"latency_ms_low": 1.2, "latency_ms_high": 1.3, "map_small": 0.2}
    record_file(sweep.folder, 8).unlink()
    write_record(sweep.folder, changed(record, facts=facts, metrics={**record.metrics, **ends}))
    (sweep.folder / "trials" / "0008" / "events.jsonl").touch()
    found = answer(capsys, "show", "demo", "8", "--runs", str(sweep.runs))
    assert (found["trial"], found["state"], found["front"], found["recommended"]) == (8, "complete", True, False)
    assert found["recipe"] == record.recipe
    assert found["stages"] == stages
    assert found["metrics"]["latency_ms"] == {"value": 1.25, "low": 1.2, "high": 1.3}
    assert found["classes"] == {"square": 0.5, "circle": None}
    assert found["facts"] == {"cpu": "Some CPU", "libraries": {"torch": "2"}}
    assert found["reasons"] == {"latency_ms_p99": "662 samples are needed, there are 300"}
    assert found["artefact"] == str(sweep.folder / "trials/0008/artefact")
    assert found["events"] == str(sweep.folder / "trials/0008/events.jsonl")
    assert main(["show", "demo", "8", "--runs", str(sweep.runs)]) == 0
    text = capsys.readouterr().out
    for told in ("1.25 ms [1.20, 1.30]", "from the store", "Some CPU", "662 samples", "prune.ratio: 0.55", "0.500"):
        assert told in text
    assert "circle" in text


def test_without_a_number_it_is_the_recommended_one(sweep: Sweep, capsys: Any) -> None:
    found = answer(capsys, "show", "demo", "--runs", str(sweep.runs))
    assert (found["trial"], found["recommended"]) == (9, True)


def test_a_failed_trial_names_the_place_of_its_traceback(sweep: Sweep, capsys: Any) -> None:
    file = sweep.folder / "trials" / "0010" / "failure.txt"
    file.write_text(TRACEBACK)
    found = answer(capsys, "show", "demo", "10", "--runs", str(sweep.runs))
    assert found["failure"] == {
        "message": fake_records()[10].failure,
        "place": "/b/calibrate.py:41 in _seen",
        "file": str(file),
    }
    assert main(["show", "demo", "10", "--runs", str(sweep.runs)]) == 0
    assert "/b/calibrate.py:41 in _seen" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("show", "demo", "77"), "0-13"),
        (("show", "demo", "--target", "phone"), "'phone'"),
        (("compare", "demo", "3"), "demo 4 8"),
        (("compare", "demo", "x", "3"), "demo 4 8"),
        (("compare", "demo/3", "other/3", "4"), "demo 4 8"),
        (("compare", "demo", "3", "3"), "two trials"),
        (("compare", "demo", "3", "77"), "0-13"),
    ],
)
def test_what_is_not_there_is_refused(given: tuple[str, ...], told: str, sweep: Sweep, capsys: Any) -> None:
    assert main([*given, "--runs", str(sweep.runs)]) == 2
    assert told in capsys.readouterr().err


def with_comparison(sweep: Sweep, **more: Any) -> None:
    ratios = {0: 2.2, 1: 1.0, 3: 0.8, 4: 0.6, 6: 0.59}
    sweep.comparison.write_text(json.dumps(compared(fake_records(), ratios, **more)))


def test_latencies_of_one_run_are_compared(sweep: Sweep, capsys: Any) -> None:
    with_comparison(sweep, ties=[(4, 6)])
    at = ("--runs", str(sweep.runs))
    found = answer(capsys, "compare", "demo", "4", "3", *at)["latency"]
    assert (found["verdict"], found["difference"]) == ("faster", pytest.approx(0.8 / 0.6))
    assert answer(capsys, "compare", "demo/3", "demo/4", *at)["latency"]["verdict"] == "slower"
    assert answer(capsys, "compare", "demo", "4", "6", *at)["latency"]["verdict"] == "tied"
    eager = answer(capsys, "compare", "demo", "4", "0", *at)["latency"]
    assert eager["difference"] == pytest.approx(2.2 / 0.6)
    assert eager["low"] < eager["difference"] < eager["high"]
    back = answer(capsys, "compare", "demo", "0", "4", *at)["latency"]
    assert [back[end] for end in ("low", "difference", "high")] == [
        pytest.approx(1 / eager[end]) for end in ("high", "difference", "low")
    ]


def test_latencies_of_different_runs_are_not(sweep: Sweep, capsys: Any) -> None:
    with_comparison(sweep)
    for given in (("demo", "4", "7"), ("demo/4", "other/3")):
        another(sweep, "other", 9.0, fake_records()[:4]) if given[1] == "other/3" else None
        tree = answer(capsys, "compare", *given, "--runs", str(sweep.runs))
        found = tree["latency"]
        assert found["verdict"] is found["difference"] is None
        (line,) = printed(found["reason"])
        assert [str(one) for one in build_parser().parse_args(words(line)).artefacts] == [
            one["artefact"] for one in tree["trials"]
        ]


def with_change(sweep: Sweep, number: int, low: float, middle: float, high: float) -> None:
    record = fake_records()[number]
    ends = {"map_delta_low": low, "map_delta": middle, "map_delta_high": high}
    record_file(sweep.folder, number).unlink()
    write_record(sweep.folder, changed(record, metrics={**record.metrics, **ends}))


def test_accuracy_is_compared_by_the_differences_to_the_baseline(sweep: Sweep, capsys: Any) -> None:
    with_change(sweep, 3, -0.01, 0.005, 0.02)
    with_change(sweep, 4, -0.03, -0.014, 0.0)
    with_change(sweep, 5, -0.06, -0.042, -0.03001)

    def verdict(one: int, other: int) -> dict[str, Any]:
        found = answer(capsys, "compare", "demo", str(one), str(other), "--runs", str(sweep.runs))
        return dict(found["accuracy"])

    assert verdict(3, 5)["verdict"] == "more accurate"
    assert verdict(5, 3)["verdict"] == "less accurate"
    unsure = verdict(3, 4)
    assert (unsure["verdict"], unsure["difference"]) == ("not sure", pytest.approx(0.019))
    (line,) = printed(unsure["reason"])
    given = build_parser().parse_args(words(line))
    assert [one.parts[-2] for one in (given.artefact, given.against)] == ["0003", "0004"]
    eager = verdict(5, 0)
    assert (eager["verdict"], eager["low"], eager["high"]) == ("less accurate", -0.06, -0.03001)
    assert verdict(0, 3)["verdict"] == "not sure"
    assert verdict(3, 7)["verdict"] is None


def test_recipes_stages_and_classes_are_side_by_side(sweep: Sweep, capsys: Any) -> None:
    at = ("--runs", str(sweep.runs))
    found = answer(capsys, "compare", "demo", "3", "4", *at)
    assert found["recipe"] == {"prune.ratio": [0.3, 0.5], "finetune.epochs": [6, 8]}
    assert [one["seconds"] for one in found["stages"]["evaluate"]] == [4.0, 4.0]
    assert [one["value"] for one in found["metrics"]["map"]] == [0.517, 0.498]
    assert answer(capsys, "compare", "demo", "3", "10", *at)["metrics"]["map"][1] is None
    assert main(["compare", "demo", "3", "4", *at]) == 0
    text = capsys.readouterr().out
    assert "prune.ratio" in text
    assert "+0.019" in text
    assert main(["compare", "demo", "0", "10", *at]) == 0
    assert "demo/10" in capsys.readouterr().out


@pytest.mark.parametrize("columns", [80, 40])
@pytest.mark.parametrize(
    "given",
    [("list",), ("show", "demo", "8"), ("show", "demo", "10"), ("compare", "demo", "3", "4"), ("front", "demo")],
    ids=" ".join,
)
def test_tables_fit_into_a_narrow_terminal(
    given: tuple[str, ...], columns: int, sweep: Sweep, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_comparison(sweep)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.chdir(sweep.runs)
    assert main([*given, "--runs", "."]) == 0
    text = capsys.readouterr().out
    assert "\x1b" not in text
    if given[0] == "front":  # sentences around its table are broken by the terminal
        text = text.partition("trial ")[2].partition("\npictures")[0].rpartition("left out")[0]
    for line in text.splitlines():
        assert len(line) <= columns or max(map(len, line.split())) > columns - 12, line
