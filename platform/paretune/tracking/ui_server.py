"""``paretune ui``: MLflow's own server on this machine's sweeps.

``mlflow server`` alone would leave its uvicorn process behind when it is ended by a signal, start seven processes for
jobs, and answer requests for any host name.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import webbrowser
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paretune.core.errors import UserError, one_line
from paretune.core.hints import command
from paretune.tracking.mlflow_client import (
    ARTEFACTS,
    DATABASE,
    ENVIRONMENT,
    SWEEP,
    TRIAL,
    LogPlace,
    database_uri,
    quiet,
    run_page,
    runs_page,
)

LOG = "mlflow-server.log"
"""File for the server's messages in the output folder."""
STARTING = 120.0
"""Time limit for the start of the server in seconds."""
PATIENCE = 10.0
"""Seconds between SIGTERM and SIGKILL."""


def open_ui(
    runs: Path,
    port: int,
    sweep: str | None = None,
    started: float | None = None,
    *,
    browser: bool = False,
    answer: Callable[[dict[str, Any]], None] = lambda _: None,
) -> None:
    """Serve MLflow's UI on 127.0.0.1 until Ctrl-C, SIGTERM or SIGHUP, and print the addresses of its pages.

    Args:
        runs: output folder.
        port: of the server.
        sweep: name of the sweep whose front is named; None for the newest one.
        started: time at which that sweep was made, in seconds since 1970.
        browser: whether the front is opened in a browser.
        answer: called with the addresses, each null if there is no such page yet.

    Raises:
        UserError: the folder holds no log, the port is taken, or the server does not start.
    """
    if not (runs / DATABASE).is_file():
        raise UserError(f"{runs} holds no {DATABASE}: run a sweep first, or name its output folder with --runs")
    _refuse_taken(port)
    print(f"starting MLflow on {runs} …", flush=True)
    with contextlib.suppress(KeyboardInterrupt), _signals_interrupt():
        pages = pages_of(database_uri(runs), sweep, started)
        with _server(runs, port) as server:
            _wait_until_it_answers(server, port, runs / LOG)
            answer(_show(f"http://127.0.0.1:{port}", pages, sweep, browser=browser))
            print("Ctrl-C ends it", flush=True)
            server.wait()
            raise UserError(f"the MLflow server ended with code {server.returncode}; {runs / LOG} says why")


def _refuse_taken(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OverflowError:
            raise UserError(f"--port {port}: ports are 1 to 65535") from None
        except OSError:
            raise UserError(f"port {port} is taken; --port gives another one") from None


@contextlib.contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Handle SIGTERM and SIGHUP like Ctrl-C, so that the server never outlives this process.

    SIGINT is set too: a shell that starts a process in the background lets it ignore SIGINT.
    """

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _server(runs: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run MLflow's server in a process group that ends with the block."""
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", database_uri(runs), "--artifacts-destination", str((runs / ARTEFACTS).resolve())),
        *("--allowed-hosts", f"127.0.0.1:{port},localhost:{port}"),
    ]
    # its job queue, for judging language models, is seven processes of 160 MiB
    environment = {**ENVIRONMENT, **os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (runs / LOG).open("wb") as log:
        server = subprocess.Popen(
            command,
            env=environment,
            cwd=runs,  # files that the server writes stay there
            start_new_session=True,  # its children end with its group
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield server
    finally:
        _end_group(server)


def _end_group(server: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started, by SIGTERM and then by SIGKILL."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        server.wait(PATIENCE)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def _wait_until_it_answers(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + STARTING
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise UserError(f"the MLflow server did not start (code {server.returncode}); {log} says why")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.2)
    raise UserError(f"the MLflow server does not answer after {STARTING:.0f} s; {log} may say why")


@dataclass(frozen=True)
class LogPages:
    """Parts of addresses that lead to the pages of a sweep in MLflow."""

    experiment: str
    sweep: str
    """Name of the sweep."""
    front: str


def pages_of(uri: str, sweep: str | None = None, started: float | None = None) -> LogPages | None:
    """Return the pages of a sweep; None if it is not logged.

    Args:
        uri: of the log.
        sweep: name of the sweep; None for the newest one.
        started: time at which the sweep was made, in seconds since 1970; None for the newest of its name.
    """
    quiet()
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    conditions = [f"tags.`{TRIAL}` = 'all'"]
    conditions += [] if sweep is None else [f"tags.`{SWEEP}` = '{sweep}'"]
    conditions += [] if started is None else [f"attributes.start_time = {int(started * 1000)}"]
    newest = ["attributes.start_time DESC"]
    found = client.search_runs(ids, " and ".join(conditions), order_by=newest, max_results=1)
    if not found:
        return None
    info = found[0].info
    return LogPages(runs_page(info.experiment_id), found[0].data.tags[SWEEP], run_page(info.experiment_id, info.run_id))


def show_server(
    place: LogPlace,
    started: float,
    *,
    browser: bool = False,
    answer: Callable[[dict[str, Any]], None] = lambda _: None,
) -> None:
    """Print the addresses of a sweep's pages on the tracking server that it is logged on.

    Args:
        place: place of the sweep's log.
        started: time at which the sweep was made, in seconds since 1970.
        browser: whether the front is opened in a browser.
        answer: called with the addresses, each null if there is no such page yet.

    Raises:
        UserError: the server does not answer, is no server with pages, or lacks the sweep.
    """
    if place.address is None:
        raise UserError(f"sweep {place.sweep!r} is logged in {place.words}, which has no pages: use `mlflow ui` there")
    quiet()
    from mlflow.exceptions import MlflowException

    try:
        pages = pages_of(place.uri, place.sweep, started)
    except MlflowException as error:
        raise UserError(f"{place.address} does not answer as an MLflow server ({one_line(error)})") from error
    if pages is None:
        missing = command("sync", place.sweep, "--runs", place.runs)
        raise UserError(f"sweep {place.sweep!r} is not in {place.words}; `{missing}` logs it there")
    answer(_show(place.address, pages, place.sweep, browser=browser))


def _show(server: str, pages: LogPages | None, sweep: str | None, *, browser: bool) -> dict[str, Any]:
    """Print the addresses of pages, open the front's if asked, and return the addresses."""
    if pages is None:
        print(f"{server}/" if sweep is None else f"{server}/\nsweep {sweep!r} is not logged here yet", flush=True)
        return {"server": server, "sweep": sweep, "experiment": None, "front": None}
    print(f"experiment: {server}/{pages.experiment}\nfront of {pages.sweep}: {server}/{pages.front}", flush=True)
    if browser:
        webbrowser.open(f"{server}/{pages.front}")
    addresses = {"experiment": f"{server}/{pages.experiment}", "front": f"{server}/{pages.front}"}
    return {"server": server, "sweep": pages.sweep, **addresses}
