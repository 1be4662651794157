"""CPU of a sweep's log by the number of trials, in a real sweep, and the time of MLflow's list of runs."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from figures import Figures
from overhead import _without_waiting
from own_time import REAL, REAL_SPACE
from sqlalchemy import Engine, event
from tracking_servers import mlflow_server

from paretune.config.job import Job
from paretune.results.sweep_folder import Sweep
from paretune.storage.trial_record import Record, write_record
from paretune.tracking.mlflow_client import PARENT, SWEEP, TRIAL, LogPlace
from paretune.workflows.sweep_log_worker import SweepLog
from paretune.workflows.sweep_reporter import SweepReporter
from tests_support_page import simulated_records

POINTS = (50, 500, 2000)
LISTED = 5000
"""Trials of the longest list."""
MORE = 10
"""Trials one by one at each point."""
JOB = {"dataset": "shapes", "detector": "yolo", "space": "none.yaml", "input_size": 160}
SHARE = 0.02
"""Most of a sweep's time on one core that its log may take."""


def cpu_of(call: Callable[[], object]) -> float:
    """Return the CPU seconds of this process in a call."""
    start = time.process_time()
    call()
    return time.process_time() - start


def by_number(figures: Figures, folder: Path) -> None:
    """Measure the log of one more trial after each number of them, and the list of runs."""
    shutil.rmtree(folder, ignore_errors=True)
    sweep = Sweep(folder / "runs", "demo")
    sweep.folder.mkdir(parents=True)
    job = Job.model_validate({**JOB, "search": {"trials": LISTED + 100}}).tree()
    facts = {"paretune": "0", "name": "demo", "created": 1_790_000_000.0, "job": job, "promises": []}
    (sweep.folder / "sweep.json").write_text(json.dumps(facts))
    records = [replace(record, artefact=None) for record in simulated_records(LISTED + MORE)]
    each: dict[int, float] = {}
    done = 0
    for count in (*POINTS, LISTED):
        begun = time.monotonic()
        for record in records[done:count]:
            write_record(sweep.folder, record)
        done, log = count, SweepLog(sweep)
        event.listen(Engine, "connect", _without_waiting)
        log.start()
        log.update(draw=False)
        log.wait()
        event.remove(Engine, "connect", _without_waiting)
        print(f"{count} trials: logged in {time.monotonic() - begun:.0f} s", flush=True)
        if count in POINTS:
            each[count] = one_more(figures, log, sweep, records[count : count + MORE])
            done += MORE
        listed(figures, sweep, done)
    figures.add(
        "log: CPU for a trial at the most trials, of that at the fewest", each[POINTS[-1]] / each[POINTS[0]], "x"
    )


def one_more(figures: Figures, log: SweepLog, sweep: Sweep, records: list[Record]) -> float:
    """Measure the log of further trials one by one, and return its CPU seconds for each."""
    count, spent, driver = records[0].number, list[float](), list[float]()
    reporter = SweepReporter(sweep)
    reporter._log.trial_done = lambda: None  # type: ignore[method-assign]
    reporter.say = lambda _: None  # type: ignore[method-assign]
    reporter._progress  # noqa: B018 - read before the first trial

    def write() -> None:
        log.update(draw=False)
        log.wait()

    for record in records:
        write_record(sweep.folder, record)
        spent.append(cpu_of(write))
        driver.append(cpu_of(lambda record=record: reporter.trial_done(record)))
    each = statistics.median(spent)
    figures.add(f"{count} trials: CPU of the log for a trial", each, "s")
    figures.add(f"{count} trials: CPU of the driver for a trial", statistics.median(driver), "s")
    figures.add(f"{count} trials: CPU of the pictures", cpu_of(lambda: log._logs(draw=True)), "s")
    return each


def listed(figures: Figures, sweep: Sweep, count: int) -> None:
    """Measure how long MLflow takes for the trials of a sweep, by its client and as its page asks for them."""
    place = LogPlace.of(sweep.runs, sweep.name, None, None)
    client = place.connect()
    experiment = place.experiment_id(client)
    (parent,) = client.search_runs([experiment], f"tags.`{SWEEP}` = 'demo' and tags.`{TRIAL}` = 'all'")
    chosen = f"tags.`{PARENT}` = '{parent.info.run_id}'"
    start = time.monotonic()
    found = client.search_runs([experiment], chosen, max_results=50_000)
    figures.add(f"{count} trials: search_runs of all", time.monotonic() - start, "s")
    assert len(found) == count
    body = {
        "experiment_ids": [experiment],
        "filter": chosen,
        "max_results": 100,
        "order_by": ["metrics.`latency/ms` ASC"],
    }
    with mlflow_server(sweep.runs) as server:
        asked = urllib.request.Request(  # noqa: S310 - ours
            f"{server.uri}/ajax-api/2.0/mlflow/runs/search",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        times = []
        for _ in range(4):
            start = time.monotonic()
            with urllib.request.urlopen(asked, timeout=60) as answer:  # noqa: S310 - ours
                assert len(json.load(answer)["runs"]) == min(100, count)
            times.append(time.monotonic() - start)
    figures.add(f"{count} trials: the page's list of 100", min(times[1:]), "s", at_most=2.0)


def in_a_sweep(figures: Figures, folder: Path) -> None:
    """Run a small real sweep, and measure the CPU of its log's process beside its time."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "real.job.yaml").write_text(REAL.format(output=folder / "runs"))
    (folder / "real.yaml").write_text(REAL_SPACE)
    words = ["-m", "paretune", "sweep", str(folder / "real.job.yaml"), "--name", "real"]
    start, spent, first = time.monotonic(), 0.0, None
    sweep = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL)
    trials = folder / "runs" / "real" / "trials"
    while sweep.poll() is None:
        spent = max(spent, log_cpu(sweep.pid))
        if first is None and trials.is_dir():
            first = spent  # its libraries are loaded
        time.sleep(0.1)
    wall = time.monotonic() - start
    count = len(list(trials.glob("*/record.json")))
    loaded = first or 0.0
    figures.add(f"a real sweep of {count} trials and {wall:.0f} s: CPU of the log, libraries", loaded, "s")
    figures.add("its CPU of the log, the rest", spent - loaded, "s")
    figures.add("its share of the time on one core, without libraries", (spent - loaded) / wall, "of it")
    figures.add("share in an hour of such trials", loaded / 3600 + (spent - loaded) / wall, "of it", at_most=SHARE)


def log_cpu(driver: int) -> float:
    """Return the CPU seconds so far of the child of a process that is a sweep's log; 0 if there is none."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if b"sweep_log_worker" in (folder / "cmdline").read_bytes():
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                if int(fields[1]) == driver:
                    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def whole(figures: Figures, folder: Path) -> None:
    """Measure everything."""
    by_number(figures, folder / "cost")
    in_a_sweep(figures, folder / "real")
