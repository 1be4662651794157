"""Where the log lies, and a client for it that keeps MLflow to itself."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

SWEEP, TRIAL, ON_FRONT = "paretune.sweep", "paretune.trial", "paretune.front"
"""Tags of every run: its sweep, its trial's number (``all`` for the sweep's own), whether it is on the front."""
TIED = "paretune.tied_with"
"""Tag of a point of the front: trials of it that the comparison cannot tell from it in latency."""
PARENT = "mlflow.parentRunId"
NOTE = "mlflow.note.content"
DATABASE, ARTEFACTS = "mlflow.db", "mlartifacts"
ENVIRONMENT = {
    # a dead server blocks for minutes by default, and a sweep must not wait for its log
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""Set before MLflow is imported, where the user has not set it."""


def quiet() -> None:
    """Set what keeps MLflow to itself: no telemetry, no chatter of migrations, no long waits."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for name in ("alembic", "mlflow"):  # somebody may have imported it before us
        logging.getLogger(name).setLevel(logging.ERROR)


def database_uri(runs: Path) -> str:
    """Return the URI of the database under an output folder."""
    return f"sqlite:///{(runs / DATABASE).resolve()}"


@dataclass(frozen=True)
class LogPlace:
    """Where one sweep is logged."""

    runs: Path
    """Output folder; holds database and artefacts unless ``server`` is given."""
    sweep: str
    server: str | None
    """URI of a tracking server, or None."""
    experiment: str

    @property
    def uri(self) -> str:
        """Return the tracking URI."""
        return self.server or database_uri(self.runs)

    def connect(self) -> MlflowClient:
        """Open the log; the first use of a new database takes some seconds."""
        quiet()
        from mlflow import MlflowClient
        from mlflow.store.db import utils

        utils.MAX_RETRY_COUNT = 4  # a database that cannot be opened is tried for 100 s by default
        self.runs.mkdir(parents=True, exist_ok=True)
        return MlflowClient(tracking_uri=self.uri)

    def experiment_id(self, client: MlflowClient) -> str:
        """Return the experiment's id; it is made if it is not there.

        Raises:
            MlflowException: the log cannot be read or written.
        """
        from mlflow.exceptions import MlflowException

        found = client.get_experiment_by_name(self.experiment)
        if found is not None:
            return str(found.experiment_id)
        artefacts = None if self.server else (self.runs / ARTEFACTS).resolve().as_uri()
        tags = {"mlflow.experimentKind": "custom_model_development"}  # the layout for runs, not for chats
        try:
            return str(client.create_experiment(self.experiment, artifact_location=artefacts, tags=tags))
        except MlflowException:
            found = client.get_experiment_by_name(self.experiment)
            if found is None:
                raise
            return str(found.experiment_id)  # another sweep made it at the same moment


def run_page(experiment_id: str, run_id: str) -> str:
    """Return the part of an address that leads to the front in a sweep's run."""
    return f"#/experiments/{experiment_id}/runs/{run_id}/artifacts/front/front.html?workflowType=machine_learning"
