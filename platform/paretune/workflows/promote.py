"""One trial of a sweep as a version in MLflow's registry of models."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import paretune
from paretune.core.errors import UserError
from paretune.core.recipe_text import trial_title
from paretune.core.registry import Registry
from paretune.detectors import DETECTORS
from paretune.results.front_summary import checked_front
from paretune.results.sweep_folder import Sweep
from paretune.runtimes import RUNTIMES
from paretune.runtimes.mlflow_model import ARTEFACT, TARGET
from paretune.storage.artefact import MANIFEST, Artefact, read_artefact
from paretune.storage.atomic_files import sha256
from paretune.storage.trial_record import Record, read_record
from paretune.tracking.mlflow_client import LogPlace
from paretune.tracking.model_registry import DIGEST, RegisteredVersion, StagedModel, register

LOADER = "paretune.runtimes.mlflow_model"
"""Module that loads a registered model."""
DEPLOYMENT = ("numpy", "opencv-python-headless")
"""Packages that a model needs beside its runtime's."""


def promote(sweep: Sweep, target: str | None = None, number: int | None = None) -> RegisteredVersion:
    """Register a trial's artefact as a version of the model that has the sweep's name.

    Its alias is ``fastest-TARGET`` for the point that the front recommends, where latency is the cost, and ``trial-N``
    for another trial.

    Args:
        sweep: whose trial it is.
        target: name of the target; None takes the first.
        number: of the trial; None takes the recommended one.

    Raises:
        UserError: no such target or trial, no front yet, a plug-in of another package in the artefact, the trial is not
            logged, or the log cannot be written.
    """
    front = checked_front(sweep, target)
    best = front["best"]
    if number is None and best is None:
        raise UserError(f"the front of sweep {sweep.name!r} is empty: no trial keeps the job's constraints")
    chosen = best["trial"] if number is None else number
    record = _complete(sweep, chosen)
    artefact = read_artefact(sweep.folder / str(record.artefact))
    alias = f"trial-{chosen}"
    if best is not None and chosen == best["trial"]:
        alias = f"{best['claim'].split()[0]}-{re.sub(r'[^A-Za-z0-9_-]', '-', front['target'])}"
    tracking = sweep.job.tracking
    place = LogPlace.of(sweep.runs, sweep.name, tracking.uri, tracking.experiment)
    with tempfile.TemporaryDirectory(prefix="paretune-model-") as folder:
        staged = StagedModel(
            data=_staged_data(Path(folder) / "data", artefact, sweep, front["target"]),
            code=_staged_code(Path(folder) / "code"),
            loader=LOADER,
            requirements=_requirements(artefact),
            about=trial_title(chosen, record.recipe, starred=chosen in {p["trial"] for p in front["front"]}),
            tags={
                DIGEST: sha256(artefact.folder / MANIFEST),
                "paretune.sweep": sweep.name,
                "paretune.trial": str(chosen),
                "paretune.target": front["target"],
            },
        )
        return register(place, sweep.facts["created"], chosen, staged, alias)


def _complete(sweep: Sweep, number: int) -> Record:
    """Return the record of a complete trial.

    Raises:
        UserError: there is no such trial, or it has no artefact.
    """
    record = read_record(sweep.folder, number)
    if record is None:
        raise UserError(f"sweep {sweep.name!r} has no trial {number}")
    if record.state != "complete" or record.artefact is None:
        raise UserError(f"trial {number} of sweep {sweep.name!r} is {record.state}: it has no artefact to register")
    return record


def _requirements(artefact: Artefact) -> list[str]:
    """Return the packages of pip that an artefact needs, each in the version that is installed here.

    Raises:
        UserError: its detector or runtime is of another package, whose code the model would lack.
    """
    tables: list[tuple[str, dict[str, Any], Registry[Any]]] = [
        ("detector", artefact.detector, DETECTORS),
        ("runtime", artefact.runtime, RUNTIMES),
    ]
    for kind, written, table in tables:
        name = next(iter(written))
        if not str(table.rows.get(name, "")).startswith("paretune."):
            raise UserError(
                f"{kind} {name!r} is of another package, and a registered model carries Paretune's code only"
            )
    runtime = RUNTIMES.load(next(iter(artefact.runtime)))
    names = (*DEPLOYMENT, *(runtime.packages or runtime.libraries))
    return [f"{name}=={found}" for name in names if (found := _installed(name)) is not None]


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _staged_data(folder: Path, artefact: Artefact, sweep: Sweep, target: str) -> Path:
    """Make a folder with a copy of the artefact and the target, and return it."""
    shutil.copytree(artefact.folder, folder / ARTEFACT)
    (folder / TARGET).write_text(json.dumps(sweep.job.targets[target].tree()))
    return folder


def _staged_code(folder: Path) -> Path:
    """Make a copy of this package's code in a folder, and return it."""
    package = folder / "paretune"
    shutil.copytree(Path(paretune.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    return package
