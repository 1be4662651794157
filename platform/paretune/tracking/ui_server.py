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
from collections.abc import Iterator
from pathlib import Path

from paretune.core.errors import UserError
from paretune.tracking.mlflow_client import ARTEFACTS, DATABASE, ENVIRONMENT, TRIAL, database_uri, quiet, run_page

LOG = "mlflow-server.log"
"""File for the server's messages in the output folder."""
STARTING = 120.0
"""Time limit for the start of the server in seconds."""
PATIENCE = 10.0
"""Seconds between SIGTERM and SIGKILL."""


def open_ui(runs: Path, port: int) -> None:
    """Serve MLflow's UI on 127.0.0.1 until Ctrl-C, SIGTERM or SIGHUP.

    Raises:
        UserError: the folder holds no log, the port is taken, or the server does not start.
    """
    if not (runs / DATABASE).is_file():
        raise UserError(f"{runs} holds no {DATABASE}: run a sweep first, or name its output folder with --runs")
    _refuse_taken(port)
    print(f"starting MLflow on {runs} …", flush=True)
    with contextlib.suppress(KeyboardInterrupt), _signals_interrupt():
        page = newest_page(runs)
        with _server(runs, port) as server:
            _wait_until_it_answers(server, port, runs / LOG)
            print(f"http://127.0.0.1:{port}/{page}\nCtrl-C ends it", flush=True)
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


def newest_page(runs: Path) -> str:
    """Return the part of the address of the newest sweep's front; empty if there is no sweep."""
    quiet()
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=database_uri(runs))
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(ids, f"tags.`{TRIAL}` = 'all'", order_by=["attributes.start_time DESC"], max_results=1)
    return run_page(found[0].info.experiment_id, found[0].info.run_id) if found else ""
