"""The place of the log, and an MLflow client for it without telemetry, chatter or long waits."""

from __future__ import annotations

import functools
import logging
import math
import os
import posixpath
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from paretune.core.secret_texts import without_secrets

if TYPE_CHECKING:
    from mlflow import MlflowClient

SWEEP, TRIAL, ON_FRONT = "paretune.sweep", "paretune.trial", "paretune.front"
"""Tags of every run: its sweep, the number of its trial (``all`` for the sweep's run), whether it is on the front."""
FORM = "paretune.log_form"
"""Tag of a sweep's run: form of its log, so that one sweep has one set of names; absent in logs of older versions."""
TIED = "paretune.tied_with"
"""Tag of a point of the front: other points that are tied with it in latency."""
PARENT = "mlflow.parentRunId"
NOTE = "mlflow.note.content"
LONGEST = 5000
"""Longest param or tag in characters; MLflow takes 6000 and 8000."""
PARAMS_IN_BATCH = 90
"""Params of one request; MLflow takes 100 params, and 100 tags, at once."""
METRICS_IN_BATCH = 900
"""Metrics of one request; MLflow takes 1000."""
EXPERIMENT = "paretune"
"""Experiment of a job that names none."""
DATABASE, ARTEFACTS = "mlflow.db", "mlartifacts"
PAUSES = (0.5, 2.0)
"""Seconds before a call of a server that failed is made again."""
PASSING = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE")
"""Codes of errors that may pass; a server that answers nonsense, or not at all, has the first one."""
ENVIRONMENT = {
    # by default a dead server blocks for minutes, and a sweep must not wait for its log
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # calls are repeated here: a repeated POST would make a run twice
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


def load_mlflow() -> None:
    """Import MLflow, which takes seconds."""
    quiet()
    import mlflow  # noqa: F401


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

    @classmethod
    def of(cls, runs: Path, name: str, uri: str | None, experiment: str | None) -> LogPlace:
        """Return the place of a log: what its job names, else MLflow's own environment variables, else the defaults.

        Args:
            runs: output folder.
            name: of the sweep or training.
            uri: URI of the tracking server that the job names, in which variables such as $HOST are replaced; or None.
            experiment: experiment that the job names, or None.
        """
        server = os.path.expandvars(uri or "") or os.environ.get("MLFLOW_TRACKING_URI") or None
        return cls(runs, name, server, experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT)

    @property
    def uri(self) -> str:
        """Return the tracking URI."""
        return self.server or database_uri(self.runs)

    @property
    def address(self) -> str | None:
        """Return the address of the tracking server for people, without user and password; None for a database."""
        if self.server is None or not self.server.startswith(("http://", "https://")):
            return None
        return without_secrets(self.server).rstrip("/")

    @property
    def words(self) -> str:
        """Return the place in words, for a line of text."""
        where = str(self.runs / DATABASE) if self.server is None else without_secrets(self.server)
        return f"experiment {self.experiment!r} in {where}"

    @property
    def pauses(self) -> tuple[float, ...]:
        """Return the seconds before each further attempt at a call that failed; none for a database."""
        return PAUSES if self.address else ()

    def connect(self, turn: Turn = nullcontext) -> MlflowClient:
        """Return a client of the log; the first use of a new database takes some seconds.

        Args:
            turn: makes the context of each call.
        """
        quiet()
        with turn():
            from mlflow import MlflowClient
            from mlflow.store.db import utils

            utils.MAX_RETRY_COUNT = 4  # by default MLflow tries to open a database for 100 s
            self.runs.mkdir(parents=True, exist_ok=True)
            client = MlflowClient(tracking_uri=self.uri)
        return cast("MlflowClient", ClientInTurns(client, turn, self.pauses))

    def experiment_id(self, client: MlflowClient) -> str:
        """Return the id of the experiment, which is made if it does not exist.

        Raises:
            MlflowException: the log cannot be read or written.
        """
        from mlflow.exceptions import MlflowException

        found = client.get_experiment_by_name(self.experiment)
        if found is not None:
            return str(found.experiment_id)
        artefacts = None if self.address else (self.runs / ARTEFACTS).resolve().as_uri()
        tags = {"mlflow.experimentKind": "custom_model_development"}  # the layout of the page for runs
        try:
            return str(client.create_experiment(self.experiment, artifact_location=artefacts, tags=tags))
        except MlflowException:
            found = client.get_experiment_by_name(self.experiment)
            if found is None:
                raise
            return str(found.experiment_id)  # another sweep has made it at the same moment


Turn = Callable[[], AbstractContextManager[object]]
"""Makes the context in which one call of MLflow is made, such as a turn on the device."""


class ClientInTurns:
    """An MLflow client, each of whose calls is made within a turn; on a server, most calls that fail are repeated.

    A call that makes something new is not repeated here: a server may have made it, and not have answered.
    """

    def __init__(self, client: Any, turn: Turn, pauses: Sequence[float] = ()) -> None:
        self._client, self._turn, self._pauses = client, turn, pauses

    def __getattr__(self, name: str) -> Any:
        """Return a method of the client."""
        call = getattr(self._client, name)
        pauses = () if name.startswith("create_") else self._pauses

        @functools.wraps(call)
        def in_turn(*given: Any, **named: Any) -> Any:
            for pause in pauses:
                try:
                    return self._call(call, given, named)
                except Exception as error:
                    if not is_passing(error):
                        raise
                time.sleep(pause)
            return self._call(call, given, named)

        return in_turn

    def _call(self, call: Callable[..., Any], given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        with self._turn():
            return self._made(call, given, named)

    def _made(self, call: Callable[..., Any], given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Make a call, once its turn has come."""
        return call(*given, **named)


def is_passing(error: Exception) -> bool:
    """Return whether the call of a server that failed may succeed in a moment: not if it refuses it, or is silent."""
    if "timed out" in str(error):
        return False
    return isinstance(error, OSError) or getattr(error, "error_code", None) in PASSING


def runs_page(experiment_id: str, view: str | None = None) -> str:
    """Return the part of an address that leads to the runs of an experiment, as charts of a saved view if one is named.

    Args:
        experiment_id: id of the experiment.
        view: key of the saved view.
    """
    shown = "" if view is None else f"&compareRunsMode=CHART&viewStateShareKey={view}"
    return f"#/experiments/{experiment_id}/runs?workflowType=machine_learning{shown}"


def trial_page(experiment_id: str, run_id: str) -> str:
    """Return the part of an address that leads to a run."""
    return f"#/experiments/{experiment_id}/runs/{run_id}?workflowType=machine_learning"


def run_page(experiment_id: str, run_id: str) -> str:
    """Return the part of an address that leads to the front in the run of a sweep."""
    return f"#/experiments/{experiment_id}/runs/{run_id}/artifacts/front/front.html?workflowType=machine_learning"


def log_values(
    client: MlflowClient,
    run_id: str,
    *,
    metrics: Mapping[str, float] | None = None,
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
    stamp: int | None = None,
    step: int = 0,
    curves: Sequence[tuple[str, float, int, int]] = (),
) -> None:
    """Write to a run in as few requests as MLflow allows, without values that are not finite.

    Args:
        client: client of the log.
        run_id: id of the run.
        metrics: name → value.
        params: name → value.
        tags: name → text.
        stamp: time of the metrics in milliseconds since 1970; None is now.
        step: step of the metrics.
        curves: further values of metrics, each with name, value, time in milliseconds since 1970, and step.
    """
    from mlflow.entities import Metric, Param, RunTag

    time_of = int(time.time() * 1000) if stamp is None else stamp
    rows = [Metric(key_of(k), float(v), time_of, step) for k, v in (metrics or {}).items() if math.isfinite(v)]
    leaves = [Param(key_of(k), str(v)[:LONGEST]) for k, v in (params or {}).items()]
    labels = [RunTag(key_of(k), v[:LONGEST]) for k, v in (tags or {}).items()]
    if rows or labels or leaves:
        client.log_batch(run_id, metrics=rows, params=leaves[:PARAMS_IN_BATCH], tags=labels)
    points = [Metric(key_of(n), v, time_of_point, at) for n, v, time_of_point, at in curves if math.isfinite(v)]
    for begin in range(0, len(points), METRICS_IN_BATCH):
        client.log_batch(run_id, metrics=points[begin : begin + METRICS_IN_BATCH])
    for begin in range(PARAMS_IN_BATCH, len(leaves), PARAMS_IN_BATCH):
        client.log_batch(run_id, params=leaves[begin : begin + PARAMS_IN_BATCH])


def key_of(name: str) -> str:
    """Return a name as MLflow takes it: at most 250 letters, digits and ``_-. :/``, no path like ``a//b``."""
    key = re.sub(r"[^\w.\- :/]", "_", name)[:250]
    if posixpath.normpath(key) == key and not key.startswith(("/", ".")):
        return key
    return f"_{key[:249].replace('/', '_')}"
