"""A log that cannot be written, signals that a sweep gets, and trials that go wrong."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import faults_forked as forked
from faults_checker import check
from faults_kinds import Kind, Outcome
from faults_left import processes
from faults_place import Bench, gone, last
from faults_sweep import NAME, Place

PACE = 0.05
SERVER = "tracking: {uri: 'http://127.0.0.1:9'}\n"
"""A server at a port where nobody listens."""


def no_server(bench: Bench, count: int | None) -> Iterator[Outcome]:
    """Log to a server that is not there: the sweep ends, with one line about it; once there is a log, it has all."""
    for _ in range(bench.skip, min(count or 1, 1)):
        place = bench.fresh()
        job = place.folder / f"{NAME}.yaml"
        job.write_text(job.read_text() + SERVER)
        ended = forked.run(place, "sweep", f"{NAME}.yaml", limit=180)
        wrong = [] if ended.code == 0 else [f"C9: the sweep ended with {ended.code}: {last(ended.text)}"]
        lines = ended.text.count("MLflow cannot be written")
        wrong += [] if lines == 1 else [f"C9: {lines} lines about the log"]
        facts = place.sweep / "sweep.json"
        facts.write_text(facts.read_text().replace('"http://127.0.0.1:9"', "null"))  # the server is there again
        yield Outcome("from the beginning", [*wrong, *bench.ended(place)])


def locked_log(bench: Bench, count: int | None) -> Iterator[Outcome]:
    """Lock the log's database for some seconds of a sweep, or to its end: no trial waits for it."""
    for number in range(bench.skip, min(count or 5, 5)):
        place = bench.fresh()
        seconds = (0.5, 2.0, 5.0, 8.0, 100.0)[number]
        with subprocess.Popen([sys.executable, "-c", HOLD, place.runs / "mlflow.db"], stdout=subprocess.PIPE) as holder:
            assert holder.stdout is not None
            holder.stdout.readline()
            timer = threading.Timer(seconds, holder.kill)
            timer.start()
            ended = forked.run(place, "sweep", f"{NAME}.yaml", pace=PACE, limit=240)
            timer.cancel()
            holder.kill()
        wrong = [] if ended.code == 0 else [f"C9: the sweep ended with {ended.code}: {last(ended.text)}"]
        yield Outcome(f"for {seconds:g} s", [*wrong, *bench.ended(place)])


HOLD = """
import sqlite3, sys, time
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
time.sleep(300)
"""
"""Program that locks a database: SQLite's locks of a thread here would be inherited by the sweep, and never end."""


def stopped_log(bench: Bench, count: int | None) -> Iterator[Outcome]:
    """Stop the process of the log: trials go on, and once it goes on, it logs all."""
    for number in range(bench.skip, min(count or 3, 3)):
        place, moment = bench.fresh(), bench.dice("stopped", number).uniform(0.5, 3.0)
        threads: list[threading.Thread] = []

        def meanwhile(driver: int, place: Place = place, moment: float = moment, threads: list = threads) -> None:
            threads.append(threading.Thread(target=_stop_for, args=(place, driver, moment, 4.0)))
            threads[0].start()

        ended = forked.run(place, "sweep", f"{NAME}.yaml", pace=PACE, meanwhile=meanwhile)
        threads[0].join()
        wrong = [] if ended.code == 0 else [f"C9: the sweep ended with {ended.code}: {last(ended.text)}"]
        yield Outcome(f"after {moment:.1f} s", [*wrong, *bench.ended(place)])


def _stop_for(place: Place, driver: int, moment: float, seconds: float) -> None:
    """Stop the process that leads a session of its own, which is the log's, for a time."""
    time.sleep(moment)
    logs = []
    for pid in processes(place):
        with suppress(OSError):
            parts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            if int(parts[3]) == pid != driver:
                logs.append(pid)
    for pid in logs:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    time.sleep(seconds)
    for pid in logs:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def first_starts(bench: Bench, count: int | None) -> Iterator[Outcome]:
    """Start two sweeps at once where there is no log yet: one makes its database, and both are logged."""
    for _ in range(bench.skip, min(count or 2, 2)):
        place, other = bench.fresh(), list[forked.Result]()
        for file in place.runs.glob("mlflow.db*"):
            file.unlink()

        def another(_: int, place: Place = place, other: list[forked.Result] = other) -> None:
            words = ("sweep", f"{NAME}.yaml", "--name", "other")
            other.append(forked.run(place, *words, out="second.txt", limit=120))

        first = forked.run(place, "sweep", f"{NAME}.yaml", meanwhile=another, limit=120)
        codes = [one.code for one in (first, *other)]
        wrong = [] if codes == [0, 0] else [f"C9: {codes}, {last(first.text)}, {last(other[0].text)}"]
        wrong += ["C9: a traceback" for one in (first, *other) if "Traceback" in one.text]
        forked.run(place, "resume", "other", limit=120)
        yield Outcome(f"exit codes {codes}", [*wrong, *bench.ended(place, others=("other",))])


def signalled(numbers: tuple[int, ...], bench: Bench, count: int | None) -> Iterator[Outcome]:
    """Send signals to a sweep at random moments: it ends with 130 and a line with the command that goes on."""
    for number in range(bench.skip, count or 20):
        place, moment = bench.fresh(), bench.dice("signal", numbers, number).uniform(0.1, 3.0)

        def meanwhile(driver: int, place: Place = place, moment: float = moment) -> None:
            end = time.monotonic() + 30
            while not (place.sweep / "sweep.json").exists() and time.monotonic() < end:
                time.sleep(0.005)
            time.sleep(moment)
            for one in numbers:
                with suppress(ProcessLookupError):
                    os.kill(driver, one)
                time.sleep(0.1)

        ended = forked.run(place, "sweep", f"{NAME}.yaml", pace=PACE, meanwhile=meanwhile)
        wrong = [] if ended.code in (0, 130) else [f"C9: the sweep ended with {ended.code}: {last(ended.text)}"]
        if ended.code == 130 and len(numbers) == 1 and "resume" not in ended.text:
            wrong.append(f"C9: no word on how to go on: {last(ended.text)}")
        yield Outcome(f"{moment:.2f} s after it was made, exit code {ended.code}", [*wrong, *bench.ended(place)])


def odd_clock(bench: Bench, count: int | None) -> Iterator[Outcome]:
    """Let the clock of every other process of a sweep be an hour early or late."""
    for number in range(bench.skip, min(count or 4, 4)):
        place, hours = bench.fresh(), (1, -1, 24, -24)[number]
        ended = forked.run(place, "sweep", f"{NAME}.yaml", prepare=partial(_shift, 3600.0 * hours))
        wrong = [] if ended.code == 0 else [f"C9: the sweep ended with {ended.code}: {last(ended.text)}"]
        yield Outcome(f"by {hours} h", [*wrong, *bench.ended(place)])


def _shift(seconds: float) -> None:
    real = time.time
    time.time = lambda: real() + (seconds if os.getpid() % 2 else 0.0)


def odd_figures(bench: Bench, count: int | None) -> Iterator[Outcome]:
    """Let an evaluation give figures that are no numbers: such a trial is not on the front, and the sweep goes on."""
    for number in range(bench.skip, min(count or 3, 3)):
        place, odd = bench.fresh(), (float("nan"), float("inf"), -float("inf"))[number]
        ended = forked.run(place, "sweep", f"{NAME}.yaml", prepare=partial(_odd, odd))
        wrong = [] if ended.code == 0 else [f"C9: the sweep ended with {ended.code}: {last(ended.text)}"]
        found = [*gone(place), *check(place, trials=bench.trials)]
        found = [line for line in found if not line.startswith("C3: trial 3: no map")]
        right = ("C2: trial 3 is complete, and FAIL in the study", "C2: map of trial 3")
        yield Outcome(f"{odd}", [*wrong, *(line for line in found if not line.startswith(right))])


def _odd(value: float) -> None:
    import faults_sweep

    real = faults_sweep.cheap_evaluate

    def evaluate(context: object, number: int, built: object) -> object:
        parity, accuracy, change, notes = real(context, number, built)
        figures = {"map": value, "map50": value} if number == 3 else accuracy.metrics()
        accuracy.metrics = lambda: figures
        return parity, accuracy, change, notes

    faults_sweep.cheap_evaluate = evaluate  # type: ignore[assignment]


def too_little_memory(bench: Bench, count: int | None) -> Iterator[Outcome]:
    """Let a trial ask for more memory than its process may have: it fails with that reason, and the others do not."""
    for _ in range(bench.skip, min(count or 1, 1)):
        place = bench.fresh()
        ended = forked.run(place, "sweep", f"{NAME}.yaml", prepare=_hungry)
        wrong = [] if ended.code == 0 else [f"C9: the sweep ended with {ended.code}: {last(ended.text)}"]
        record = json.loads((place.sweep / "trials" / "0003" / "record.json").read_text())
        if record["state"] != "failed" or "MemoryError" not in record["failure"]:
            wrong.append(f"C9: {record['state']}, {record['failure']}")
        yield Outcome("trial 3", [*wrong, *bench.ended(place, failed=(3,))])


def _hungry() -> None:
    import faults_sweep

    real = faults_sweep.cheap_evaluate

    def evaluate(context: object, number: int, built: object) -> object:
        if number == 3:
            with Path("/proc/self/statm").open() as file:
                used = int(file.read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, resource.RLIM_INFINITY))
            try:
                bytearray(2**30)
            finally:
                resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        return real(context, number, built)

    faults_sweep.cheap_evaluate = evaluate  # type: ignore[assignment]


def stopped_trial(bench: Bench, count: int | None) -> Iterator[Outcome]:
    """Stop the process of a trial for good: it is killed once a stage's limit is over, and the trial runs again."""
    for number in range(bench.skip, min(count or 3, 3)):
        place = bench.fresh()
        job = place.folder / f"{NAME}.yaml"
        job.write_text(job.read_text().replace("retries: 2", f"retries: 2, stage_hours: {4 / 3600}"))
        stage = ("write", "evaluate", "measure")[number]
        ended = forked.run(place, "sweep", f"{NAME}.yaml", prepare=partial(_stops, stage), limit=120)
        wrong = [] if ended.code == 0 else [f"C9: the sweep ended with {ended.code}: {last(ended.text)}"]
        wrong += [] if "stood still" in ended.text else [f"C9: nothing was said of it: {last(ended.text)}"]
        yield Outcome(f"in stage {stage}", [*wrong, *bench.ended(place)])


def _stops(stage: str) -> None:
    """Stop the process that begins a stage of trial 3 for the first time."""
    from paretune.storage.trial_events import EventLog
    from paretune.workflows import trial_guard

    trial_guard.MARGIN = 1.0
    real = EventLog.add

    def add(log: EventLog, kind: Any, name: str, **fields: Any) -> Any:
        event, mark = real(log, kind, name, **fields), Path("stopped")
        if (kind, name, log.folder.name) == ("begin", stage, "0003") and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGSTOP)
        return event

    EventLog.add = add  # type: ignore[method-assign]


KINDS = [
    Kind("F6", "no server of the log", no_server, 1),
    Kind("F7", "the log's database is locked", locked_log, 5),
    Kind("F7", "the log's process is stopped", stopped_log, 3),
    Kind("F8", "two first starts at once", first_starts, 2),
    Kind("F14", "figures that are no numbers", odd_figures, 3),
    Kind("F15", "too little memory", too_little_memory, 1),
    Kind("F16", "a trial's process is stopped", stopped_trial, 3),
    Kind("F18", "clocks that differ", odd_clock, 4),
    Kind("F26", "Ctrl-C", partial(signalled, (signal.SIGINT,))),
    Kind("F26", "Ctrl-C twice", partial(signalled, (signal.SIGINT, signal.SIGINT))),
    Kind("F26", "SIGTERM", partial(signalled, (signal.SIGTERM,))),
]
