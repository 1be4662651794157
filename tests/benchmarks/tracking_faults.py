"""Sweeps whose log is on a server that fails: what is lost or twice after `sync`, and how long anybody waits."""

from __future__ import annotations

import functools
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faults_forked as forked
import faults_sweep
from faults_checker import check, damaged, records_of
from faults_place import Bench, last
from faults_sweep import NAME, Place
from figures import Figures
from tracking_servers import WELL, FaultyServer, mlflow_server

STAGE, END = 1.0, 75.0
"""Seconds that a stage, and the end of a sweep, may be delayed."""
RESTARTS = 10
PACE = {"killed": 0.7}
"""Seconds of each stage of a trial, where they are not ``USUAL``."""
USUAL = 0.25
FAULTS = ("500", "429", "silent", "reset", "slow")
SOMETIMES = ("unanswered", "500")
"""Faults of every fourth request."""


@dataclass
class Waits:
    """Seconds that the driver and the trials of one sweep have waited for the log."""

    call: float = 0.0
    """Longest of a trial's calls of the log's process."""
    device: float = 0.0
    """Longest wait of a measurement for the device."""
    end: float = 0.0
    """Wait at the end of the sweep."""


def noting(place: Place, uri: str | None, more: dict[str, str]) -> None:
    """Have the process of a sweep note how long it waits for the log, and log to a server."""
    from paretune.system.device_lock import exclusive_device
    from paretune.tracking import sweep_tracker
    from paretune.workflows.sweep_log_client import SweepLogProcess

    os.environ |= {"MLFLOW_TRACKING_URI": uri or "", **more}
    sweep_tracker.PAUSE = 1.0  # so that a sweep of seconds meets the fault often

    def note(what: str, seconds: float) -> None:
        with (place.folder / "waits.txt").open("a") as file:
            file.write(f"{what} {seconds}\n")

    def timed(what: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def noted(*given: Any, **named: Any) -> Any:
            start = time.monotonic()
            try:
                return call(*given, **named)
            finally:
                note(what, time.monotonic() - start)

        return noted

    for what, name in {"call": "trial_done", "end": "finish"}.items():
        setattr(SweepLogProcess, name, timed(what, getattr(SweepLogProcess, name)))
    duet = faults_sweep.cheap_duet

    def locked(*given: Any, **named: Any) -> Any:
        with exclusive_device("cpu") as waited:
            note("device", waited)
            return duet(*given, **named)

    faults_sweep.cheap_duet = locked


def waits_of(place: Place) -> Waits:
    """Return what a sweep has noted."""
    found = Waits()
    for line in (place.folder / "waits.txt").read_text().splitlines():
        what, seconds = line.split()
        setattr(found, what, max(getattr(found, what), float(seconds)))
    return found


def swept(place: Place, uri: str, *, pace: float = USUAL, meanwhile: Any = lambda _: None, **more: str) -> Waits:
    """Run a sweep in a place, and return how long it has waited.

    Raises:
        RuntimeError: it did not end well.
    """
    prepare = functools.partial(noting, place, uri, more)
    done = forked.run(place, "sweep", f"{NAME}.yaml", prepare=prepare, pace=pace, meanwhile=meanwhile, limit=400)
    if done.code:
        raise RuntimeError(f"the sweep ended with {done.code}: {last(done.text)}")
    return waits_of(place)


def synced(place: Place, uri: str | None) -> list[str]:
    """Bring the log up to date, and return what is wrong then."""
    words = {"MLFLOW_TRACKING_URI": uri or ""}
    done = forked.run(place, "sync", NAME, prepare=lambda: os.environ.update(words), limit=300)
    return [] if done.code == 0 else [f"sync ended with {done.code}: {last(done.text)}"]


def wrong_in(bench: Bench) -> list[str]:
    """Return what the log of a sweep lacks or has twice, by the checker, and its artefacts on the server."""
    place, wrong = bench.place, list[str]()
    with closing(sqlite3.connect(place.runs / "mlflow.db")) as database:
        rows = database.execute(
            "SELECT r.artifact_uri, t.value FROM runs r JOIN tags t ON t.run_uuid = r.run_uuid "
            "WHERE r.lifecycle_stage = 'active' AND t.key = 'paretune.trial'"
        ).fetchall()
    records = records_of(place.sweep)
    for where, number in rows:
        if where.startswith("mlflow-artifacts:"):
            folder = place.runs / "mlartifacts" / where.removeprefix("mlflow-artifacts:").lstrip("/")
            if number == "all":
                files = ("front.html", "front.png", "front.svg", "report.md", "trials.csv")
                wrong += [f"the log lacks {name}" for name in files if not (folder / "front" / name).is_file()]
            elif records[int(number)]["artefact"]:
                wrong += damaged(folder / "artefact", f"trial {number} on the server")
    return [*wrong, *check(place, trials=bench.trials)]


def add_row(figures: Figures, name: str, waits: Waits, well: Waits, wrong: list[str]) -> None:
    """Add the figures of one fault."""
    for line in wrong:
        print(f"    {line}", flush=True)
    figures.add(f"{name}: lost or twice after sync", len(wrong), at_most=0)
    figures.add(f"{name}: longest call in a trial", waits.call, "s", at_most=STAGE)
    figures.add(
        f"{name}: a measurement's wait, beyond a healthy server's", waits.device - well.device, "s", at_most=STAGE
    )
    figures.add(f"{name}: the sweep's end, beyond a healthy server's", waits.end - well.end, "s", at_most=END)


def short(figures: Figures, bench: Bench) -> None:
    """Log to a server that answers 500, or nothing, and then to a database."""
    well = Waits()
    for fault in ("500", "silent"):
        with FaultyServer(None).listening() as server:
            server.fault = fault
            waits = swept(bench.fresh(), server.uri, pace=0.02, MLFLOW_HTTP_REQUEST_TIMEOUT="2")
            asked = server.asked
        figures.add(f"{fault}: requests", asked, at_least=1)
        add_row(figures, fault, waits, well, [*synced(bench.place, None), *wrong_in(bench)])


def whole(figures: Figures, folder: Path) -> None:
    """Try every fault before a real server, and a server that is killed."""
    bench = Bench(folder / "faults", trials=14)
    well, wrong = behind(bench, WELL)
    add_row(figures, "a healthy server", well, well, wrong)
    for fault in FAULTS:
        waits, wrong = behind(bench, fault)
        add_row(figures, fault, waits, well, wrong)
    for fault in SOMETIMES:
        waits, wrong = behind(bench, fault, share=0.25)
        add_row(figures, f"{fault} for every fourth request", waits, well, wrong)
    waits, wrong = killed(Bench(folder / "killed", trials=40))
    add_row(figures, f"killed and started {RESTARTS} times", waits, well, wrong)


def behind(bench: Bench, fault: str, share: float = 1.0) -> tuple[Waits, list[str]]:
    """Run a sweep that logs to a real server through one that fails until the sweep has ended."""
    place = bench.fresh()
    with mlflow_server(place.runs) as real, FaultyServer(real.uri, share).listening() as server:
        server.fault = fault
        waits = swept(place, server.uri)
        server.fault = WELL
        wrong = synced(place, server.uri)
    return waits, [*wrong, *wrong_in(bench)]


def killed(bench: Bench) -> tuple[Waits, list[str]]:
    """Run a sweep that logs to a server that is killed and started again and again."""
    done, kills, place = threading.Event(), list[float](), bench.fresh()

    def again() -> None:
        while not done.wait(3.0) and len(kills) < RESTARTS:
            server.kill()
            kills.append(time.monotonic())
            done.wait(0.5)
            server.start()

    thread = threading.Thread(target=again)
    with mlflow_server(place.runs) as server:
        try:
            waits = swept(place, server.uri, pace=PACE["killed"], meanwhile=lambda _: thread.start())
        finally:
            done.set()
            thread.join(120)
        wrong = synced(place, server.uri)
    wrong += [] if len(kills) == RESTARTS else [f"only {len(kills)} kills within the sweep"]
    return waits, [*wrong, *wrong_in(bench)]
