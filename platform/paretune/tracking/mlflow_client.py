"""The place of the log, and an MLflow client for it without telemetry, chatter or long waits."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

SWEEP, TRIAL, ON_FRONT = "paretune.sweep", "paretune.trial", "paretune.front"
"""Tags of every run: its sweep, the number of its trial (``all`` for the sweep's run), whether it is on the front."""
TIED = "paretune.tied_with"
"""Tag of a point of the front: other points that are tied with it in latency."""
PARENT = "mlflow.parentRunId"
NOTE = "mlflow.note.content"
DATABASE, ARTEFACTS = "mlflow.db", "mlartifacts"
ENVIRONMENT = {
    # by default a dead server blocks for minutes, and a sweep must not wait for its log
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""Environment variables that are set before MLflow is imported, unless the user has set them."""


def quiet() -> None:
    """Switch off MLflow's telemetry, messages of migrations, and long waits."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for name in ("alembic", "mlflow"):  # MLflow may have been imported before
        logging.getLogger(name).setLevel(logging.ERROR)


def database_uri(runs: Path) -> str:
    """Return the URI of the database under an output folder."""
    return f"sqlite:///{(runs / DATABASE).resolve()}"


@dataclass(frozen=True)
class LogPlace:
    """The place in which one sweep is logged."""

    runs: Path
    """Output folder, which holds database and artefacts unless ``server`` is given."""
    sweep: str
    server: str | None
    """URI of a tracking server, or None."""
    experiment: str

    @property
    def uri(self) -> str:
        """Return the tracking URI."""
        return self.server or database_uri(self.runs)

    def connect(self) -> MlflowClient:
        """Return a client of the log; the first use of a new database takes some seconds."""
        quiet()
        from mlflow import MlflowClient
        from mlflow.store.db import utils

        utils.MAX_RETRY_COUNT = 4  # by default MLflow tries to open a database for 100 s
        self.runs.mkdir(parents=True, exist_ok=True)
        return MlflowClient(tracking_uri=self.uri)

    def experiment_id(self, client: MlflowClient) -> str:
        """Return the id of the experiment, which is made if it does not exist.

        Raises:
            MlflowException: the log cannot be read or written.
        """
        from mlflow.exceptions import MlflowException

        found = client.get_experiment_by_name(self.experiment)
        if found is not None:
            return str(found.experiment_id)
        artefacts = None if self.server else (self.runs / ARTEFACTS).resolve().as_uri()
        tags = {"mlflow.experimentKind": "custom_model_development"}  # the layout of the page for runs
        try:
            return str(client.create_experiment(self.experiment, artifact_location=artefacts, tags=tags))
        except MlflowException:
            found = client.get_experiment_by_name(self.experiment)
            if found is None:
                raise
            return str(found.experiment_id)  # another sweep has made it at the same moment


def run_page(experiment_id: str, run_id: str) -> str:
    """Return the part of an address that leads to the front in the run of a sweep."""
    return f"#/experiments/{experiment_id}/runs/{run_id}/artifacts/front/front.html?workflowType=machine_learning"
