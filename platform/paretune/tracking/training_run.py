"""The run of one training in MLflow: its curves by epoch, its final accuracy, its pictures."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paretune.core.errors import reason_of
from paretune.tracking.mlflow_client import LogPlace, log_values

if TYPE_CHECKING:
    from mlflow import MlflowClient

TRAINING = "paretune.training"
"""Tag with the name of a training."""
STEP = "epochs_done"
"""Metric of every epoch, by which the last logged epoch is known."""


class TrainingLog:
    """Writer of a training's run; it never fails, since the training's files are the truth.

    Args:
        place: place of the log; None logs nothing.
        params: the job as flat params.
        begun: whether the training goes on; its run is then the newest one of its name.
    """

    def __init__(self, place: LogPlace | None, params: Mapping[str, Any], *, begun: bool) -> None:
        self._place, self._params, self._begun = place, params, begun
        self._client: MlflowClient | None = None
        self._run_id, self._done = "", 0

    def epochs(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Log the epochs that are not in the log yet.

        Args:
            entries: result of ``epochs_of``.
        """
        self._safely(lambda client: self._epochs(client, entries))

    def finish(self, metrics: Mapping[str, float | None], files: Sequence[Path]) -> None:
        """Log the final accuracy and the pictures, and end the run.

        Args:
            metrics: name → figure; None is left out.
            files: pictures and tables.
        """

        def end(client: MlflowClient) -> None:
            known = {name: value for name, value in metrics.items() if value is not None}
            log_values(client, self._run_id, metrics=known, step=self._done)
            for file in files:
                client.log_artifact(self._run_id, str(file))
            client.set_terminated(self._run_id, "FINISHED")

        self._safely(end)

    def _epochs(self, client: MlflowClient, entries: Sequence[Mapping[str, Any]]) -> None:
        for entry in entries:
            if entry["number"] <= self._done:
                continue
            values = {f"train_{name}_loss": value for name, value in entry["losses"].items()}
            values |= {"train_loss": sum(entry["losses"].values()), STEP: entry["number"]}
            values |= {name: entry[name] for name in ("lr", "images_per_second", "seconds")}
            values |= {} if entry.get("map") is None else {"val_map": entry["map"]}
            log_values(client, self._run_id, metrics=values, step=entry["number"])
            self._done = entry["number"]

    def _open(self, place: LogPlace) -> MlflowClient:
        """Return a client, with the training's run found or made."""
        client = place.connect()
        experiment = place.experiment_id(client)
        named, newest = f"tags.`{TRAINING}` = '{place.sweep}'", ["attributes.start_time DESC"]
        found = client.search_runs([experiment], named, order_by=newest, max_results=1) if self._begun else []
        if found:
            self._run_id, self._done = found[0].info.run_id, int(found[0].data.metrics.get(STEP, 0))
            client.update_run(self._run_id, status="RUNNING")
            return client
        run = client.create_run(experiment, run_name=place.sweep, tags={TRAINING: place.sweep})
        self._run_id = run.info.run_id
        log_values(client, self._run_id, params=self._params)
        return client

    def _safely(self, do: Callable[[MlflowClient], None]) -> None:
        if self._place is None:
            return
        try:
            self._client = self._client or self._open(self._place)
            do(self._client)
        except Exception as error:  # noqa: BLE001 - no error of server, database or disk may end a training
            reason = reason_of(error)[:300]
            print(f"MLflow cannot be written ({reason}); the training's files have it all", file=sys.stderr)
            self._place = None
