"""Helpers that several test files share."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).parent.parent

APART = """\
from contextlib import suppress
from pathlib import Path

with suppress(ImportError):
    from paretune.system import device_lock

    device_lock.lock_folder = lambda: Path({locks!r})
"""


def with_locks_of_its_own(folder: Path, path: str) -> str:
    """A PYTHONPATH with which processes, Ray's workers among them, lock devices beside this folder only.

    Otherwise they wait for whatever else measures or trains on the machine.
    """
    beside = folder.with_name(f"{folder.name}-locks")  # in the folder itself, tests look at what is written
    locks, site = beside / "locks", beside / "site"
    locks.mkdir(parents=True, exist_ok=True)
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(APART.format(locks=str(locks)))
    return os.pathsep.join(filter(None, [str(site), path]))


def runs_of(place, name="tiny"):
    """The parent run and the trials' runs as a stranger finds them in MLflow."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{place.runs / 'mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "paretune"]
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    (parent,) = [r for r in runs if r.info.run_name == name]
    children = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    return client, parent, sorted(children, key=lambda r: int(r.data.tags["paretune.trial"]))
