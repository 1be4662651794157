"""Helpers that several test files share."""

from __future__ import annotations

import os
import socket
from pathlib import Path

ROOT = Path(__file__).parent.parent
SMALL_JOB = """\
dataset: {shapes: {}}
detector: {yolo: {variant: nano}}
input_size: 160
space: space.yaml
search: {trials: 4}
"""
SMALL_SPACE = """\
input_size: {choices: [128, 160]}
steps:
  - prune: {ratio: {low: 0.1, high: 0.5}}
runtime: onnxruntime
"""

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


def brute_force_front(points):
    """Names of the points (quality, cost) that no other is at least as good as and better than somewhere."""
    best = set()
    for name, (quality, cost) in points.items():
        others = [point for other, point in points.items() if other != name]
        if not any(q >= quality and c <= cost and (q, c) != (quality, cost) for q, c in others):
            best.add(name)
    return best


RELOAD = """
import json, sys
from pathlib import Path
from paretune.core.target import Target
from paretune.evaluation import evaluate
from paretune.results.sweep_folder import Sweep
from paretune.runtimes.predictor import load_predictor
sweep = Sweep(Path(sys.argv[1]), sys.argv[2])
split = sweep.job.dataset.open(sweep.cache).splits["val"]
print(json.dumps([evaluate(load_predictor(Path(p), Target()), split).map for p in sys.argv[3:]]))
"""
"""Prints the map of artefacts on a sweep's ``val``, from a process of its own: output folder, sweep, artefacts."""


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
