"""``paretune ui``: MLflow's own server on this machine's sweeps."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from paretune.errors import UserError
from paretune.tracking.mlflow import ARTEFACTS, DATABASE, ENVIRONMENT, PARENT, TRIAL, database_uri, quiet


def open_ui(runs: Path, port: int) -> None:
    """Serve MLflow's UI on 127.0.0.1 until Ctrl-C.

    Raises:
        UserError: the folder holds no log, or the port is taken.
    """
    if not (runs / DATABASE).is_file():
        raise UserError(f"{runs} holds no {DATABASE}: run a sweep first, or name its output folder with --runs")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise UserError(f"port {port} is taken; --port gives another one") from None
    print(f"MLflow on {runs}: http://127.0.0.1:{port}/{newest_page(runs)}\nCtrl-C ends it", flush=True)
    hosts = f"127.0.0.1:{port},localhost:{port}"
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
            *("--backend-store-uri", database_uri(runs), "--artifacts-destination", str((runs / ARTEFACTS).resolve())),
            *("--allowed-hosts", hosts),
        ],
        env={**os.environ, **ENVIRONMENT},
        start_new_session=True,  # the server's own children die with its group, not only the first process
        stdout=subprocess.DEVNULL,
    )
    try:
        code = server.wait()
    except KeyboardInterrupt:
        return
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait()
    if code:
        raise UserError(f"the MLflow server ended with code {code}")


def newest_page(runs: Path) -> str:
    """Return the part of the address that leads to the newest sweep's run."""
    quiet()
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=database_uri(runs))
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(ids, f"tags.`{TRIAL}` = 'all'", order_by=["attributes.start_time DESC"], max_results=1)
    if not found or PARENT in found[0].data.tags:
        return ""
    return f"#/experiments/{found[0].info.experiment_id}/runs/{found[0].info.run_id}/artifacts/front/front.html"
