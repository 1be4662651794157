"""The view of a sweep: what its folder says, how that fits a terminal, and that it keeps out of measurements."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from paretune.cli.main import build_parser, main
from paretune.core.console import live_console, plain_console
from paretune.reports.progress_bar import REDRAW, TrainingBar, step_line
from paretune.reports.sweep_snapshot import FailedTrial, RunningStage, RunningTrial, SweepSnapshot, TargetFront, Version
from paretune.reports.sweep_view import sweep_lines, working_line
from paretune.results.sweep_folder import Sweep
from paretune.results.sweep_reader import SweepReader
from paretune.storage.trial_events import EventLog, StageProgress, read_progress
from paretune.storage.trial_record import RECORD, trial_folder
from paretune.training.history import TrainingStep
from paretune.workflows.live_view import BESIDE, SILENCE, LiveView, watch
from tests_support_documented import printed, words
from tests_support_records import fake_records, finished_sweep

JOB = {"dataset": "shapes", "detector": "yolo", "space": "none.yaml", "input_size": 160, "search": {"trials": 20}}
RECIPE = {"input_size": "160x160", "steps": [{"finetune": {"epochs": 7}}], "runtime": {"onnxruntime": {}}}
LONG = "160x160 prune 0.4 l1 → finetune 7 → int8 guarded → openvino bf16"
VERSIONS = tuple(Version(n, LONG, 0.45 + n / 100, 1.2 + n, 9.1 / (1.2 + n)) for n in (2, 4, 8))
TRAINING = RunningStage("finetune", 940.0, StageProgress("finetune", 2.35, 7, "epochs", 999.0))
SNAPSHOT = SweepSnapshot(
    name="quickstart",
    time=1000.0,
    state="running",
    stage=RunningStage("search", 100.0),
    done=11,
    budget=24,
    failed=1,
    stopped_early=2,
    paused=0,
    started=0.0,
    seconds_left=1200.0,
    left_from="from the trials so far",
    running=(
        RunningTrial(12, LONG, 900.0, TRAINING),
        RunningTrial(13, LONG, 900.0, RunningStage("quantize", 990.0)),
        RunningTrial(14, LONG, 900.0, RunningStage("measure", 998.0, StageProgress("measure", 1, 3, "rounds", 998.0))),
        RunningTrial(15, LONG, 900.0, None),
    ),
    failures=(FailedTrial(10, LONG, "RuntimeError: calibration saw <no> [bold]images[/] & gave up" + " again" * 20),),
    fronts=(TargetFront("laptop", "map", "latency_ms", VERSIONS, VERSIONS[:1], 2, "fastest that is accurate enough"),),
    resume="paretune resume quickstart",
)


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("ascii_only", [False, True])
def test_every_line_fits_and_all_that_runs_is_among_them(width: int, ascii_only: bool) -> None:
    lines = [text for text, _ in sweep_lines(SNAPSHOT, width, ascii_only=ascii_only)]
    assert max(map(len, lines)) <= width
    assert not ascii_only or all(line.isascii() for line in lines)
    text = " ".join(" ".join(lines).split())
    for said in ("11 of 24", "about 20 min left", "epoch 3 of 7", "1:00", "quantize", "round 2 of 3", "trial 15"):
        assert said in text
    assert "trial 10 failed: RuntimeError" in text
    assert "fastest that is accurate enough: trial 2" in text
    assert len([line for line in lines if "0.53" in line]) >= 1, "the table and the plot name the best map"


def test_a_low_terminal_gets_no_more_lines_than_it_has() -> None:
    whole = sweep_lines(SNAPSHOT, 80)
    for height in range(1, len(whole) + 1):
        lines = sweep_lines(SNAPSHOT, 80, height)
        assert len(lines) <= height
        assert lines[0] == whole[0]
    assert sweep_lines(SNAPSHOT, 80, len(whole)) == whole


def test_the_plot_has_the_fast_at_the_left_and_the_accurate_at_the_top() -> None:
    lines = [text for text, _ in sweep_lines(SNAPSHOT, 80)]
    rows = [line.split("│", 1)[1] for line in lines if "│" in line]
    places = [(row.index("●"), number) for number, row in enumerate(rows) if "●" in row]
    assert places == sorted(places)[::-1]  # higher rows first: more accurate, slower, further to the right
    assert places[0][1] == 0
    assert places[-1][0] == 0


def test_a_line_says_which_trial_is_in_which_stage() -> None:
    line = working_line(SNAPSHOT)
    assert "trial 12 in finetune, epoch 3 of 7, for 1:00" in line
    assert "trial 13 in quantize, for 0:10" in line
    assert "about 20 min left" in line
    baseline = replace(SNAPSHOT, running=(), stage=replace(TRAINING, name="baseline"), seconds_left=None)
    assert "training the baseline, epoch 3 of 7" in working_line(baseline)
    assert "unknown" in working_line(baseline)


# the reader


class Clock:
    """A clock that is set."""

    def __init__(self, now: float = 2_000_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    """A sweep that has done trials 0 to 9, 11 and 12 of 20, and whose trials 13 to 16 have events only."""
    made = finished_sweep(tmp_path, JOB)
    (made.folder / "finished").unlink()
    shutil.rmtree(trial_folder(made.folder, 13))
    before, now = Clock(1_999_999_000.0), Clock(1_999_999_900.0)
    stale = EventLog(trial_folder(made.folder, 14), before)  # of a run that was killed
    stale.add("started", "", recipe=RECIPE)
    stale.add("begin", "finetune")
    EventLog(made.folder, now).add("started", "")
    EventLog(made.folder, now).add("begin", "search")
    for number in (13, 15, 16):
        log = EventLog(trial_folder(made.folder, number), now)
        log.add("started", "", recipe=RECIPE)
        log.add("begin", "load")
        log.add("end", "load", seconds=1.0)
        log.add("begin", "finetune")
        log.progress("finetune", 2.35, 7, "epochs")
    EventLog(trial_folder(made.folder, 15), now).add("paused", "")
    EventLog(trial_folder(made.folder, 16), now).add("died", "", reason="killed")
    return made


@pytest.fixture
def driven(sweep: Sweep) -> Iterator[Sweep]:
    with sweep.lock():
        yield sweep


def test_what_runs_is_read_from_the_events_of_this_run(driven: Sweep) -> None:
    seen = SweepReader(driven, Clock()).look()
    assert (seen.state, seen.done, seen.budget, seen.failed, seen.paused) == ("running", 13, 20, 1, 1)
    (trial,) = seen.running
    assert (trial.number, trial.recipe) == (13, "160x160 finetune 7 → onnxruntime")
    assert trial.stage is not None
    assert (trial.stage.name, trial.stage.share) == ("finetune", pytest.approx(2.35 / 7))
    assert [one.number for one in seen.failures] == [10]
    json.dumps(seen.tree())


def test_the_front_is_that_of_the_records_whichever_way_they_came(sweep: Sweep) -> None:
    """Oracle: a version is on the front if no other one is both as fast and as accurate."""
    records = [record for record in fake_records() if record.state == "complete" and record.number != 13]
    values = {record.number: (record.metrics["map"], -record.metrics["latency_ms"]) for record in records}
    front = {
        n
        for n, mine in values.items()
        if not any(o != mine and o[0] >= mine[0] and o[1] >= mine[1] for o in values.values())
    }
    reader, kept = SweepReader(sweep), sweep.folder / "kept"
    for number in (8, 12):  # they come later
        trial_folder(sweep.folder, number).rename(kept.with_name(f"kept{number}"))
    reader.look()
    for number in (8, 12):
        kept.with_name(f"kept{number}").rename(trial_folder(sweep.folder, number))
    (shown,) = reader.look().fronts
    assert {version.number for version in shown.versions} == front
    costs = [version.cost or 0.0 for version in shown.versions]
    assert costs == sorted(costs)
    assert shown.best == shown.versions[0].number
    assert {version.number for version in shown.others} == set(values) - front
    assert shown.versions[0].gain == pytest.approx(9.1 / costs[0])


def test_the_time_left_follows_from_the_trials_so_far_and_what_runs_counts(driven: Sweep) -> None:
    clock = Clock(1_999_999_900.0)
    reader = SweepReader(driven, clock)
    first = reader.look().seconds_left
    assert first is not None
    each = first / 7  # 20 trials, 13 done, and the one that runs has just begun
    assert 20 < each < 41  # they began every 40 s and took 35 s
    clock.now += each / 2
    assert reader.look().seconds_left == pytest.approx(first - each / 2)


def test_before_the_first_searched_trial_the_time_left_comes_from_an_earlier_sweep_or_is_unknown(
    driven: Sweep,
) -> None:
    for number in range(1, 13):
        (trial_folder(driven.folder, number) / RECORD).unlink()
    for number in range(13, 17):
        shutil.rmtree(trial_folder(driven.folder, number))
    unknown = SweepReader(driven, Clock()).look()
    assert (unknown.seconds_left, bool(unknown.left_from)) == (None, True)
    other = driven.runs / "other"
    other.mkdir()
    earlier = finished_sweep(other, JOB)
    earlier.folder.rename(driven.runs / "before")
    known = SweepReader(driven, Clock()).look()
    assert known.seconds_left is not None
    assert known.seconds_left > 19 * 20  # 19 trials of some 35 s that overlap by nothing
    assert "before" in known.left_from


def test_a_baseline_that_is_run_again_is_read_again(driven: Sweep) -> None:
    record = json.loads((trial_folder(driven.folder, 1) / RECORD).read_text())
    del record["sha256"]
    (trial_folder(driven.folder, 1) / RECORD).write_text(
        json.dumps({**record, "state": "failed", "failure": "RuntimeError: no"})
    )
    reader = SweepReader(driven, Clock())
    assert [one.number for one in reader.look().failures] == [1, 10]
    shutil.rmtree(trial_folder(driven.folder, 1))
    assert reader.look().done == 12
    trial_folder(driven.folder, 1).mkdir()
    (trial_folder(driven.folder, 1) / RECORD).write_text(json.dumps(record))
    seen = reader.look()
    assert (seen.done, [one.number for one in seen.failures]) == (13, [10])


def test_progress_is_written_once_a_second_and_at_once_for_another_stage(tmp_path: Path) -> None:
    clock = Clock()
    log = EventLog(tmp_path / "trial", clock)
    assert read_progress(tmp_path / "trial") is None
    for done in range(5):
        log.progress("evaluate", done, 150, "images")
        clock.now += 0.3
    told = read_progress(tmp_path / "trial")
    assert told is not None
    assert (told.done, told.of, told.unit, told.time) == (4, 150, "images", pytest.approx(2_000_000_001.2))
    log.progress("measure", 0, 3, "rounds")
    told = read_progress(tmp_path / "trial")
    assert told is not None
    assert told.stage == "measure"


# the verb


def test_a_finished_sweep_is_shown_with_its_front_and_ends_at_once(tmp_path: Path, capsys: Any) -> None:
    finished_sweep(tmp_path, JOB)
    for once in (["--once"], []):
        assert main(["watch", "demo", "--runs", str(tmp_path), *once]) == 0
        out = capsys.readouterr().out
        assert "14 of 20" in out
        assert "finished" in out
        assert "128 prune 0.6 l2" in out  # the fastest of the front
    assert main(["watch", "demo", "--runs", str(tmp_path), "--json"]) == 0
    seen = json.loads(capsys.readouterr().out)
    assert (seen["state"], seen["done"], seen["fronts"][0]["best"]) == ("finished", 14, 9)


def test_a_sweep_that_nothing_runs_says_so_and_names_the_command_that_goes_on(sweep: Sweep, capsys: Any) -> None:
    assert main(["watch", "demo", "--runs", str(sweep.runs), "--once"]) == 1
    out = capsys.readouterr().out
    assert "nothing runs it" in out
    (line,) = printed(out)
    given = build_parser().parse_args(words(line))
    assert (given.sweep, given.runs) == ("demo", sweep.runs)
    assert "trial 13" not in out  # what was under way does not run any more


def test_a_watch_ends_with_the_sweep_and_when_its_driver_dies(sweep: Sweep) -> None:
    out, clock = list[str](), Clock(0.0)

    def passes(seconds: float) -> None:
        clock.now += seconds
        if clock.now == 2:
            sweep.mark_finished()

    reader = SweepReader(sweep, Clock())
    view = LiveView(reader.look, out.append, measured=lambda: False, seconds=clock)
    assert watch(reader.look, view, passes).state == "finished"
    assert clock.now == 2
    (sweep.folder / "finished").unlink()
    assert watch(reader.look, view, passes).state == "stopped"
    assert clock.now == 5


# the loop


def live_on(width: int, look: Callable[[], SweepSnapshot], **more: Any) -> tuple[io.StringIO, LiveView]:
    file = io.StringIO()
    console = Console(file=file, width=width, height=24, force_terminal=True, color_system=None)
    return file, LiveView(look, lambda _: None, console, **more)


def test_the_view_is_not_drawn_beside_a_measurement_more_often_than_every_few_seconds() -> None:
    clock, looks, measuring = Clock(0.0), list[float](), [True]

    def look() -> SweepSnapshot:
        looks.append(clock.now)
        return SNAPSHOT

    file, view = live_on(80, look, measured=lambda: measuring[0], seconds=clock)
    with view.drawn():
        for clock.now in map(float, range(1, 21)):
            view.tick()
        assert len(looks) == 20 / BESIDE
        measuring[0] = False
        for clock.now in map(float, range(21, 31)):
            view.tick()
    assert len(looks) == 20 / BESIDE + 10
    assert "epoch 3 of 7" in file.getvalue()


def test_a_plain_output_is_never_silent_for_long_and_is_left_alone_while_others_print() -> None:
    clock, said = Clock(0.0), list[float]()
    view = LiveView(lambda: SNAPSHOT, lambda _: said.append(clock.now), measured=lambda: True, seconds=clock)
    for clock.now in map(float, range(1, 201)):
        if clock.now == 30:
            view.said()
        view.tick()
    assert said == [30 + SILENCE, 30 + 2 * SILENCE]


class Terminal(io.StringIO):
    """An output that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("around", "live"),
    [
        ({}, True),
        ({"NO_COLOR": "1"}, True),
        ({"CI": "true"}, False),
        ({"CI": "false"}, True),
        ({"TERM": "dumb"}, False),
    ],
)
def test_where_the_view_is_redrawn(around: dict[str, str], live: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CI", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    assert live_console() is None  # the output of a test is no terminal
    for name, value in around.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stdout", Terminal())
    assert (live_console() is not None) == live


# trainings


@pytest.mark.parametrize("width", [30, 40, 80])
def test_the_line_of_a_training_fits(width: int) -> None:
    line = step_line(TrainingStep(3, 12, 20, 40, 4.25), 150.0, width)
    assert len(line) <= width
    assert line.startswith("epoch 3/12")
    assert "20/40" in line
    assert ("2:30 left" in line) == (width == 80)
    shown = line.replace("epoch 3/12", "")
    assert abs(shown.count("━") - shown.count("┈")) <= 1


def test_the_bar_of_a_training_is_drawn_twice_a_second_and_gone_at_the_end() -> None:
    file, clock = io.StringIO(), Clock(0.0)
    console = plain_console(file=file, width=80, force_terminal=True, color_system=None)
    bar = TrainingBar(console, clock)
    drawn = 0
    with bar.live:
        for epoch in (1, 2):
            for step in range(1, 41):
                before = len(file.getvalue())
                bar(TrainingStep(epoch, 2, step, 40, 1.0))
                drawn += len(file.getvalue()) > before
                clock.now += 0.125
    assert drawn == 80 * 0.125 / REDRAW + 1  # and the last one
    assert "0:04 left" in file.getvalue()
