"""A log that cannot be written, and signals that a sweep gets."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import faults_forked as forked
from faults_checker import check
from faults_kinds import Kind, Outcome
from faults_left import processes
from faults_place import Bench, last
from faults_sweep import NAME, Place

PACE = 0.05
SERVER = "tracking: {uri: 'http://127.0.0.1:9'}\n"
"""A server at a port where nobody listens."""


def no_server(bench: Bench, count: int | None) -> Iterator[Outcome]:
    """Log to a server that is not there: the sweep ends, with one line about it; once there is a log, it has all."""
    for _ in range(min(count or 1, 1)):
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
    for number in range(min(count or 5, 5)):
        place = bench.fresh()
        seconds = (0.5, 2.0, 5.0, 8.0, 100.0)[number]
        done = threading.Event()
        holder = threading.Thread(target=_hold, args=(place.runs / "mlflow.db", seconds, done))
        holder.start()
        ended = forked.run(place, "sweep", f"{NAME}.yaml", pace=PACE, limit=240)
        done.set()
        holder.join()
        wrong = [] if ended.code == 0 else [f"C9: the sweep ended with {ended.code}: {last(ended.text)}"]
        yield Outcome(f"for {seconds:g} s", [*wrong, *bench.ended(place)])


def _hold(file: Path, seconds: float, done: threading.Event) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as database:
        database.execute("BEGIN EXCLUSIVE")
        done.wait(seconds)
        database.execute("ROLLBACK")


def stopped_log(bench: Bench, count: int | None) -> Iterator[Outcome]:
    """Stop the process of the log: trials go on, and once it goes on, it logs all."""
    for number in range(min(count or 3, 3)):
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
    """Stop the child of the driver that leads a session of its own, which is the log's process, for a time."""
    time.sleep(moment)
    logs = []
    for pid in processes(place):
        with suppress(OSError):
            parts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            if int(parts[1]) == driver and int(parts[3]) == pid:
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
    for _ in range(min(count or 2, 2)):
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
    for number in range(count or 20):
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
    for number in range(min(count or 4, 4)):
        place, hours = bench.fresh(), (1, -1, 24, -24)[number]
        ended = forked.run(place, "sweep", f"{NAME}.yaml", prepare=partial(_shift, 3600.0 * hours))
        wrong = [] if ended.code == 0 else [f"C9: the sweep ended with {ended.code}: {last(ended.text)}"]
        yield Outcome(f"by {hours} h", [*wrong, *bench.ended(place)])


def _shift(seconds: float) -> None:
    real = time.time
    time.time = lambda: real() + (seconds if os.getpid() % 2 else 0.0)


def odd_figures(bench: Bench, count: int | None) -> Iterator[Outcome]:
    """Let an evaluation give figures that are no numbers: such a trial is not on the front, and the sweep goes on."""
    for number in range(min(count or 3, 3)):
        place, odd = bench.fresh(), (float("nan"), float("inf"), -float("inf"))[number]
        ended = forked.run(place, "sweep", f"{NAME}.yaml", prepare=partial(_odd, odd))
        wrong = [] if ended.code == 0 else [f"C9: the sweep ended with {ended.code}: {last(ended.text)}"]
        found = [line for line in check(place, trials=bench.trials) if not line.startswith("C3: trial 3: no map")]
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


KINDS = [
    Kind("F6", "no server of the log", no_server, 1),
    Kind("F7", "the log's database is locked", locked_log, 5),
    Kind("F7", "the log's process is stopped", stopped_log, 3),
    Kind("F8", "two first starts at once", first_starts, 2),
    Kind("F14", "figures that are no numbers", odd_figures, 3),
    Kind("F18", "clocks that differ", odd_clock, 4),
    Kind("F26", "Ctrl-C", partial(signalled, (signal.SIGINT,))),
    Kind("F26", "Ctrl-C twice", partial(signalled, (signal.SIGINT, signal.SIGINT))),
    Kind("F26", "SIGTERM", partial(signalled, (signal.SIGTERM,))),
]
