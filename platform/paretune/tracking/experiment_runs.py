"""Runs of an experiment: found by a condition, and made once though a server may make one and give no answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from paretune.tracking.mlflow_client import is_passing

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


class ExperimentRuns:
    """Finds, makes and removes the runs of one experiment.

    Args:
        client: of the log.
        experiment_id: id of the experiment.
        pauses: seconds before each further attempt to make a run.
    """

    def __init__(self, client: MlflowClient, experiment_id: str, pauses: Sequence[float] = ()) -> None:
        self._client, self._experiment_id, self._pauses = client, experiment_id, pauses

    def find(self, condition: str) -> list[Run]:
        """Return the runs under a condition, the newest first."""
        return list(self._client.search_runs([self._experiment_id], condition, max_results=50_000))

    def make(self, condition: str, **fields: Any) -> Run:
        """Return a new run, or the one that a server made without an answer.

        Args:
            condition: under which only that run is found.
            fields: arguments of ``create_run``.
        """
        for pause in self._pauses:
            try:
                return self._client.create_run(self._experiment_id, **fields)
            except Exception as error:
                if not is_passing(error):
                    raise
            time.sleep(pause)
            if found := self.find(condition):
                return found[0]
        return self._client.create_run(self._experiment_id, **fields)

    def one_of(self, runs: Sequence[Run], whole: Callable[[Run], bool]) -> Run:
        """Return one of the runs of the same trial or sweep, and remove the others.

        A server that answers too late has made an empty one beside it.

        Args:
            runs: of which one stays.
            whole: returns whether a run holds something.
        """
        kept, *others = sorted(runs, key=lambda run: not whole(run))
        for run in others:
            self._client.delete_run(run.info.run_id)
        return kept
