"""The page of an experiment in MLflow: links to its sweeps, and saved views of their trials."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from paretune.tracking.mlflow_client import NOTE, SWEEP, TRIAL, run_page
from paretune.tracking.saved_views import MOST, TAG, known_version, view_key, view_value
from paretune.tracking.sweep_note import plain

if TYPE_CHECKING:
    from mlflow import MlflowClient

HEADING = "Paretune, fronts of sweeps: "
"""First words of the experiment's description; one that begins otherwise is a user's own."""
HEADINGS = (HEADING.strip(), "**Paretune**")
"""First words of descriptions by this and by older versions."""
FIRST_LINKS = 5
"""Sweeps in the first line of the description, all that its closed header shows."""
MOST_LINKS = 50
"""Sweeps in the experiment's description, the newest first."""


class ExperimentPage:
    """Writer of an experiment's description and views; each is written once.

    Args:
        client: client of the log.
        experiment_id: id of the experiment.
    """

    def __init__(self, client: MlflowClient, experiment_id: str) -> None:
        self._client, self._experiment_id = client, experiment_id
        self._linked = False
        self._views: dict[str, bool] = {}

    def save_view(self, run_id: str, target: str, name: str, made: int, metrics: Sequence[str]) -> str | None:
        """Write the view of a sweep's trials, and return its key; None if this MLflow may not read it.

        Args:
            run_id: id of the sweep's run.
            target: name of the target.
            name: of the view.
            made: time in milliseconds since 1970.
            metrics: metrics of the table by their names in the log, first quality and cost, the axes of the chart.
        """
        from mlflow import __version__ as version

        key = view_key(run_id, target)
        if key not in self._views:
            self._views[key] = known_version(version) and self._saved(
                key, view_value(name, made, run_id, list(dict.fromkeys(metrics)))
            )
        return key if self._views[key] else None

    def _saved(self, key: str, value: str) -> bool:
        """Write a view unless it is there; return False if the experiment has too many."""
        tags = self._client.get_experiment(self._experiment_id).tags
        before = tags.get(f"{TAG}{key}")
        if before is None and sum(name.startswith(f"{TAG}paretune") for name in tags) >= MOST:
            return False
        if before != value:
            self._client.set_experiment_tag(self._experiment_id, f"{TAG}{key}", value)
        return True

    def remove_views(self, run_id: str, targets: Sequence[str]) -> None:
        """Remove the views of a sweep's run.

        Args:
            run_id: id of the sweep's run.
            targets: names of its targets.
        """
        tags = self._client.get_experiment(self._experiment_id).tags
        for name in (f"{TAG}{view_key(run_id, target)}" for target in targets):
            if name in tags:
                self._client.delete_experiment_tag(self._experiment_id, name)

    def link_sweeps(self) -> None:
        """Write links to the fronts of all sweeps into the description, once; a user's own one stays."""
        if self._linked:
            return
        self._linked = True
        if not self._client.get_experiment(self._experiment_id).tags.get(NOTE, HEADING).startswith(HEADINGS):
            return
        chosen, newest = f"tags.`{TRIAL}` = 'all'", ["attributes.start_time DESC"]
        sweeps = self._client.search_runs([self._experiment_id], chosen, order_by=newest, max_results=MOST_LINKS)
        links = [f"[{plain(run.data.tags[SWEEP])}]({run_page(self._experiment_id, run.info.run_id)})" for run in sweeps]
        lines = [f"{HEADING}{' · '.join(links[:FIRST_LINKS])}", "", *(f"- {link}" for link in links)]
        self._client.set_experiment_tag(self._experiment_id, NOTE, "\n".join(lines))
