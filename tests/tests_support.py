"""Helpers that several test files share."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parent.parent


def runs_of(place, name="tiny"):
    """The parent run and the trials' runs as a stranger finds them in MLflow."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{place.runs / 'mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "paretune"]
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    (parent,) = [r for r in runs if r.info.run_name == name]
    children = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    return client, parent, sorted(children, key=lambda r: int(r.data.tags["paretune.trial"]))
