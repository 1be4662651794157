"""The sweep's log in MLflow: a parent run for the sweep, a nested run for each trial.

Everything logged comes from the trial records, is keyed by tags and carries the records' own times, so
logging it twice, or again after a crash, changes nothing.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paretune.front import Objective, hypervolume, pareto_front
from paretune.records import Record
from paretune.spec import fingerprint

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

SWEEP, TRIAL, ON_FRONT = "paretune.sweep", "paretune.trial", "paretune.front"
PARENT = "mlflow.parentRunId"
DATABASE, ARTEFACTS = "mlflow.db", "mlartifacts"
ENVIRONMENT = {
    # a dead server blocks for minutes by default, and a sweep must not wait for its log
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}
LONGEST_PARAM = 500


def database_uri(runs: Path) -> str:
    """Return the URI of the database under an output folder."""
    return f"sqlite:///{(runs / DATABASE).resolve()}"


class MlflowTracker:
    """Keeps one sweep's runs in step with its records.

    When the log cannot be written it says so once and goes on: the records are the truth, and the next
    ``sync`` catches up.

    Args:
        runs: output folder; holds the database unless ``uri`` names a server.
        sweep: name.
        uri: tracking server, or None.
        experiment: name; made if it is not there.
    """

    def __init__(self, runs: Path, sweep: str, uri: str | None, experiment: str) -> None:
        self._runs = runs
        self._sweep = sweep
        self._uri = uri or database_uri(runs)
        self._local = uri is None
        self._experiment = experiment
        self._client: MlflowClient | None = None
        self._experiment_id = ""
        self._parent_id = ""
        self._children: dict[int, str] = {}
        self._fronts: dict[int, bool] = {}
        self._logged_steps = 0
        self._warned = False

    def start(self, params: Mapping[str, Any], started: float) -> None:
        """Open the sweep's run, or go on with it.

        Args:
            params: the job, flat.
            started: when the sweep was made, in seconds since 1970.
        """
        self._safely(lambda: self._start(params, started))

    def sync(
        self,
        records: Sequence[Record],
        sweep_folder: Path,
        front: Mapping[str, Any],
        objectives: Sequence[Objective],
        feasible: Callable[[Record], bool],
        files: Sequence[Path],
    ) -> None:
        """Bring the log up to date.

        Args:
            records: of all trials so far.
            sweep_folder: what the records' artefact paths are relative to.
            front: as ``front.front_object`` returns it.
            objectives: what the front is made of.
            feasible: whether a record keeps every constraint.
            files: the front's pictures and tables.
        """
        self._safely(lambda: self._sync(records, sweep_folder, front, objectives, feasible, files))

    def finish(self) -> None:
        """Mark the sweep's run as finished."""
        self._safely(lambda: self._open().set_terminated(self._parent_id, "FINISHED"))

    def metrics(self, trial: int, values: Mapping[str, float]) -> None:
        """Add figures that were measured after a trial's record was written."""
        run_id = self._children.get(trial)
        if run_id is not None:
            self._safely(lambda: self._log_metrics(run_id, values, int(time.time() * 1000)))

    def _safely(self, do: Callable[[], None]) -> None:
        from mlflow.exceptions import MlflowException

        try:
            do()
        except (MlflowException, OSError) as error:
            if not self._warned:
                reason = str(error).splitlines()[0]
                print(
                    f"MLflow cannot be written ({reason}); the records are kept, `paretune resume` logs them",
                    file=sys.stderr,
                )
            self._warned = True

    def _open(self) -> MlflowClient:
        if self._client is None:
            quiet()
            from mlflow import MlflowClient

            self._client = MlflowClient(tracking_uri=self._uri)
        return self._client

    def _start(self, params: Mapping[str, Any], started: float) -> None:
        client = self._open()
        experiment = client.get_experiment_by_name(self._experiment)
        if experiment is not None:
            self._experiment_id = experiment.experiment_id
        else:
            place = (self._runs / ARTEFACTS).resolve().as_uri() if self._local else None
            self._experiment_id = client.create_experiment(self._experiment, artifact_location=place)
            client.set_experiment_tag(self._experiment_id, "mlflow.experimentKind", "custom_model_development")
        parent = self._find(f"tags.`{SWEEP}` = '{self._sweep}' and tags.`{TRIAL}` = 'all'")
        if parent:
            self._parent_id = parent[0].info.run_id
            client.set_tag(self._parent_id, "mlflow.user", "")
        else:
            run = client.create_run(
                self._experiment_id,
                start_time=int(started * 1000),
                run_name=self._sweep,
                tags={SWEEP: self._sweep, TRIAL: "all"},
            )
            self._parent_id = run.info.run_id
            self._log_params(self._parent_id, params)
        client.update_run(self._parent_id, status="RUNNING")
        for child in self._find(f"tags.`{PARENT}` = '{self._parent_id}'"):
            number = int(child.data.tags[TRIAL])
            self._fronts[number] = child.data.tags.get(ON_FRONT) == "true"
            if child.info.status != "RUNNING":  # one that was being written when we were killed is written again
                self._children[number] = child.info.run_id

    def _find(self, wanted: str) -> list[Run]:
        return list(self._open().search_runs([self._experiment_id], wanted, max_results=50_000))

    def _sync(
        self,
        records: Sequence[Record],
        sweep_folder: Path,
        front: Mapping[str, Any],
        objectives: Sequence[Objective],
        feasible: Callable[[Record], bool],
        files: Sequence[Path],
    ) -> None:
        client = self._open()
        for record in records:
            if record.number not in self._children:
                self._log_trial(record, sweep_folder)
        on_front = {point["trial"] for point in front["front"]}
        for record in records:
            now = record.number in on_front
            if self._fronts.get(record.number) != now:
                client.set_tag(self._children[record.number], ON_FRONT, str(now).lower())
                self._fronts[record.number] = now
        self._log_steps(records, front["baseline"]["metrics"], objectives, feasible)
        for file in files:
            client.log_artifact(self._parent_id, str(file), "front")
        if front["hypervolume"] is not None:
            client.set_tag(self._parent_id, "paretune.hypervolume_reference", json.dumps(front["reference"]))

    def _log_trial(self, record: Record, sweep_folder: Path) -> None:
        client = self._open()
        tags = {
            SWEEP: self._sweep,
            TRIAL: str(record.number),
            PARENT: self._parent_id,
            "paretune.origin": record.origin,
        }
        left = self._find(f"tags.`{PARENT}` = '{self._parent_id}' and tags.`{TRIAL}` = '{record.number}'")
        run_id = (
            left[0].info.run_id
            if left
            else client.create_run(
                self._experiment_id,
                start_time=int(record.started * 1000),
                run_name=f"t{record.number:04d}",
                tags=tags,
            ).info.run_id
        )
        self._log_params(run_id, record.params)
        self._log_metrics(run_id, record.metrics, int(record.finished * 1000))
        self._log_metrics(run_id, {f"seconds_{k}": v for k, v in record.seconds.items()}, int(record.finished * 1000))
        for name, reason in record.reasons.items():
            client.set_tag(run_id, f"paretune.unknown.{name}", reason)
        if record.notes:
            client.set_tag(run_id, "mlflow.note.content", "\n\n".join(record.notes))
        if record.facts:
            client.log_dict(run_id, dict(record.facts), "environment.json")
        if record.failure is not None:
            client.set_tag(run_id, "paretune.failure", record.failure[:5000])
        folder = sweep_folder / "trials" / f"{record.number:04d}"
        for file in (folder / "samples.npz", folder / "failure.txt"):
            if file.exists():
                client.log_artifact(run_id, str(file))
        if record.artefact is not None:
            client.log_artifacts(run_id, str(sweep_folder / record.artefact), "artefact")
        status = "FINISHED" if record.state == "complete" else "FAILED"
        client.set_terminated(run_id, status, end_time=int(record.finished * 1000))
        self._children[record.number] = run_id

    def _log_steps(
        self,
        records: Sequence[Record],
        baseline: Mapping[str, float],
        objectives: Sequence[Objective],
        feasible: Callable[[Record], bool],
    ) -> None:
        """Log the front's size and hypervolume after each trial; the step is the number of trials done."""
        ordered = sorted(records, key=lambda record: (record.finished, record.number))
        for step in range(self._logged_steps + 1, len(ordered) + 1):
            points = [r.metrics for r in ordered[:step] if r.state == "complete" and feasible(r)]
            values = {
                "front_size": float(len(pareto_front(points, objectives))),
                "trials_done": float(step),
                "trials_failed": float(sum(r.state == "failed" for r in ordered[:step])),
            }
            volume = hypervolume(points, objectives, baseline)
            if volume is not None:
                values["hypervolume"] = volume
            self._log_metrics(self._parent_id, values, int(ordered[step - 1].finished * 1000), step)
        self._logged_steps = len(ordered)

    def _log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        rows = [Param(name, str(value)[:LONGEST_PARAM]) for name, value in params.items()]
        for begin in range(0, len(rows), 100):
            self._open().log_batch(run_id, params=rows[begin : begin + 100])

    def _log_metrics(self, run_id: str, values: Mapping[str, float], milliseconds: int, step: int = 0) -> None:
        from mlflow.entities import Metric

        rows = [Metric(name, float(value), milliseconds, step) for name, value in values.items()]
        if rows:
            self._open().log_batch(run_id, metrics=rows)


def quiet() -> None:
    """Set what keeps MLflow to itself: no telemetry, no chatter of migrations."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.ERROR)


def view_state(sweep: str, objectives: Sequence[Objective]) -> dict[str, str]:
    """Return an experiment tag that adds a saved view, the sweep's front as a chart, to MLflow 3's *Views* menu.

    The format is MLflow's own and not documented: where it is not understood, the view is not offered.
    """
    key = fingerprint("view", sweep)
    x, y = (
        next((o.metric for o in objectives if o.direction == d), objectives[0].metric) for d in ("minimize", "maximize")
    )
    section = {"uuid": "front", "name": "Pareto front", "display": True, "isReordered": True, "isGenerated": False}
    chart = {
        "uuid": "scatter",
        "type": "SCATTER",
        "metricSectionId": "front",
        "deleted": False,
        "isGenerated": False,
        "displayName": f"{y} against {x}",
        "runsCountToCompare": 500,
        "xaxis": {"key": x, "type": "METRIC"},
        "yaxis": {"key": y, "type": "METRIC"},
    }
    state = {
        "searchFilter": f"tags.`{SWEEP}` = '{sweep}' and tags.`{ON_FRONT}` = 'true'",
        "orderByKey": f"metrics.`{x}`",
        "orderByAsc": True,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "runsHiddenMode": "SHOW_ALL",
        "selectedColumns": [f"metrics.`{x}`", f"metrics.`{y}`", "metrics.`map50`", "params.`runtime`"],
        "isAccordionReordered": True,
        "compareRunSections": [section],
        "compareRunCharts": [chart],
    }
    body = {"name": f"front of {sweep}", "createdAt": 0, "updatedAt": 0, "state": json.dumps(state)}
    return {f"mlflow.sharedViewState.{key}": json.dumps(body)}
