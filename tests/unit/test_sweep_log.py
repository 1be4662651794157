"""The process that draws and logs a sweep: in batches, in turns on the device, and never in the way of a trial."""

from __future__ import annotations

import queue
import shlex
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from paretune.cli.main import build_parser
from paretune.core.errors import UserError
from paretune.results.sweep_folder import Sweep
from paretune.storage.trial_record import read_records, record_file, write_record
from paretune.system.device_lock import exclusive_device
from paretune.system.device_turns import device_turn
from paretune.tracking.mlflow_client import database_uri
from paretune.workflows import sweep_log_client as client
from paretune.workflows import sweep_log_worker as worker
from paretune.workflows.front_files import NAMES, refresh_front
from paretune.workflows.sweep_reporter import SweepReporter
from tests_support_records import changed, finished_sweep

JOB = {"dataset": "shapes", "detector": "yolo", "space": "none.yaml", "input_size": 160}


class Noting:
    """A log that notes what is asked of it; ``busy`` is while a server takes its time."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.busy = False

    @property
    def writing(self) -> bool:
        return self.busy

    def wait(self) -> None:
        self.done.append("wait")

    def start(self) -> None:
        self.done.append("start")

    def update(self, *, draw: bool, write: bool = True) -> None:
        self.done.append("draw" if draw else "log")
        self.done += [] if write else ["not written"]

    def finish(self, drawn: Callable[[], None]) -> None:
        drawn()
        self.done.append("finish")


def followed(*words: str, at_once: bool = True) -> tuple[list[str], list[str]]:
    """What a log is asked for by words, and the answers."""
    waiting: queue.Queue[str] = queue.Queue()
    for word in words:
        waiting.put(word)
    log, answers = Noting(), list[str]()
    worker.follow(log, waiting, lambda text: (answers.append(text), log.done.append(text)), at_once=at_once)  # type: ignore[arg-type, func-returns-value]
    return log.done, answers


def test_many_trials_are_one_update(monkeypatch: pytest.MonkeyPatch) -> None:
    done, answers = followed("start", *["trial"] * 50, "finish")
    assert answers == ["ready", "drawn", "done"]
    assert done[0] == "start"
    assert done.count("log") + done.count("draw") <= 1
    assert done[-3:] == ["drawn", "finish", "done"]


def test_a_server_may_keep_the_log_waiting_but_not_the_sweep() -> None:
    assert followed("start", "", at_once=False)[0][:2] == ["start", "ready"]
    assert followed("start", "", at_once=True)[0][:3] == ["start", "wait", "ready"]


def test_a_parent_that_has_gone_ends_it_without_another_word() -> None:
    assert followed("") == ([], [])
    assert followed("stop") == (["draw", "wait", "done"], ["done"])


def test_pictures_are_drawn_less_often_than_the_log_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "LOG_PAUSE", 0.02)
    waiting: queue.Queue[str] = queue.Queue()
    log = Noting()
    running = threading.Thread(target=worker.follow, args=(log, waiting, print), kwargs={"at_once": True})
    running.start()
    end = time.monotonic() + 20
    while log.done.count("log") < 5 and time.monotonic() < end:
        waiting.put("trial")
        time.sleep(0.01)
    waiting.put("stop")
    running.join(20)
    assert log.done.count("log") >= 5
    assert log.done.count("draw") == 2  # the first update and the last


def test_a_slow_server_keeps_no_picture_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "LOG_PAUSE", 0.02)
    monkeypatch.setattr(worker, "DRAW_PAUSE", 0.05)
    waiting: queue.Queue[str] = queue.Queue()
    log = Noting()
    log.busy = True
    running = threading.Thread(target=worker.follow, args=(log, waiting, print), kwargs={"at_once": False})
    running.start()
    end = time.monotonic() + 20
    while log.done.count("draw") < 3 and time.monotonic() < end:
        waiting.put("trial")
        time.sleep(0.01)
    logged = log.done.count("log")
    assert log.done.count("not written") >= 2
    assert logged == 0
    log.busy = False
    while not log.done.count("log") and time.monotonic() < end:
        time.sleep(0.01)
    waiting.put("")
    running.join(20)
    assert log.done.count("log")  # once it can be written again, without another trial


def test_a_turn_ends_though_its_block_goes_on() -> None:
    with device_turn("turns-test", longest=0.05), exclusive_device("turns-test") as waited:
        assert waited >= 0
    with exclusive_device("turns-test"):
        pass


def test_a_turn_waits_for_a_measurement() -> None:
    order: list[str] = []

    def work() -> None:
        with device_turn("turns-test"):
            order.append("work")

    with exclusive_device("turns-test"):
        other = threading.Thread(target=work)
        other.start()
        other.join(0.2)
        order.append("measured")
    other.join(20)
    assert order == ["measured", "work"]


def process(monkeypatch: pytest.MonkeyPatch, script: str, folder: Path) -> tuple[client.SweepLogProcess, list[str]]:
    """The client of a process that runs a script."""
    said: list[str] = []
    monkeypatch.setattr(client, "COMMAND", (sys.executable, "-c", script))
    monkeypatch.setattr(client, "STOPPING", 0.3)
    monkeypatch.setattr(client, "QUIET", 0.1)
    return client.SweepLogProcess(Sweep(folder, "demo"), said.append), said


def test_a_process_that_hangs_keeps_no_trial_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, _ = process(monkeypatch, "print('ready', flush=True); import time; time.sleep(600)", tmp_path)
    log.start()
    for _ in range(40_000):  # more than a pipe holds
        log.trial_done()
    hung = log._process
    assert hung is not None
    log.stop()
    assert hung.returncode == -9


def test_a_process_that_died_is_started_again_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = tmp_path / "mark"
    script = f"import pathlib, sys; mark = pathlib.Path({str(mark)!r})\n"
    script += "if not mark.exists(): mark.touch(); sys.exit(1)\n"
    log, _ = process(
        monkeypatch, script + "[print('done', flush=True) for line in sys.stdin if 'fin' in line]", tmp_path
    )
    log.start()
    log.trial_done()
    log.finish()
    assert mark.exists()
    dead, _ = process(monkeypatch, "import sys; sys.exit(1)", tmp_path)
    with pytest.raises(RuntimeError, match="could not be drawn and logged"):
        dead.finish()


def test_the_end_of_a_sweep_waits_for_a_server_no_longer_than_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "LOGGING", 0.3)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:canary@127.0.0.1:9")
    sweep = finished_sweep(tmp_path, JOB)
    log, said = process(monkeypatch, "print('drawn', flush=True); import time; time.sleep(600)", tmp_path)
    monkeypatch.setattr(client, "QUIET", 60.0)
    log.launch()
    hung = log._process
    log.finish()
    assert hung is not None
    assert hung.returncode == -9
    (line,) = said
    assert "canary" not in line
    typed = line[line.rindex("`paretune ") :].strip("`").partition("`")[0]
    given = build_parser().parse_args(shlex.split(typed)[1:])
    assert (given.sweep, given.runs) == ("demo", sweep.runs)


def test_a_mistake_of_the_user_is_one_here_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, _ = process(monkeypatch, r"print('error a\vb', flush=True); input()", tmp_path)
    with pytest.raises(UserError, match=r"^a\nb$"):
        log.finish()


@pytest.mark.parametrize("count", [50, 500])
def test_the_driver_reads_no_file_after_a_trial_however_many_there_are(
    count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Its caller has read the record; the log's process reads for itself."""
    sweep = finished_sweep(tmp_path, {**JOB, "search": {"trials": count + 14}})
    first, *_, last = read_records(sweep.folder)
    for number in range(14, count):
        write_record(sweep.folder, changed(last, number=number))
    reporter, read = SweepReporter(sweep), list[Path]()
    reporter.trial_done(first)
    real = Path.read_text
    monkeypatch.setattr(
        Path, "read_text", lambda file, *more, **named: [read.append(file), real(file, *more, **named)][1]
    )
    for number in range(count, count + 5):
        reporter.trial_done(changed(last, number=number))
    assert read == []
    assert f"trial {count + 4} ({count + 5}/{count + 14} done" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_finished_sweep_is_drawn_and_logged_whole(tmp_path: Path, capsys: Any) -> None:
    from mlflow import MlflowClient

    sweep = finished_sweep(tmp_path, JOB)
    reporter = SweepReporter(sweep)
    reporter.prepare()
    reporter.started()
    reporter.finished()
    reporter.stop()
    assert "front of demo" in capsys.readouterr().out
    assert {file.name for file in (sweep.folder / "front").iterdir()} == set(NAMES)
    logged = MlflowClient(tracking_uri=database_uri(tmp_path))
    runs = logged.search_runs(
        [logged.get_experiment_by_name(sweep.job.tracking.experiment or "paretune").experiment_id]
    )
    assert len(runs) == 1 + 14
    assert {run.info.status for run in runs} == {"FINISHED", "FAILED"}
    (sweep.folder / "front" / "front.csv").write_text("old")
    refresh_front(sweep)
    assert (sweep.folder / "front" / "front.csv").read_text() == "old"  # no record is newer
    record_file(sweep.folder, 3).touch()
    refresh_front(sweep)
    assert (sweep.folder / "front" / "front.csv").read_text().startswith("trial,recipe")
