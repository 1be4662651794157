"""Names of files and folders below an output folder."""

from __future__ import annotations

import os
import re
from fnmatch import fnmatchcase
from pathlib import Path

from paretune.core.errors import UserError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
DEFAULT = "runs"
"""Default output folder."""
SWEEP_FILE = "sweep.json"
"""File that marks the folder of a sweep: job, version, time."""
SPACE_FILE = "space.yaml"
"""Copy of the search space beside ``SWEEP_FILE`` or ``JOB_FILE``."""
JOB_FILE = "job.yaml"
"""File that marks the folder of a training: its job, every field with its value."""
DATASETS, TRAININGS, WEIGHTS, STORE = "datasets", "trainings", "weights", "store"
RESERVED = {
    DATASETS: "generated datasets are kept there",
    TRAININGS: "`paretune train` writes there",
    WEIGHTS: "fetched weights are kept there",
    STORE: "results of stages are kept there",
    "mlartifacts": "MLflow keeps its files there",
    "mlflow.db*": "MLflow's database",
    "mlflow-server.log": "what MLflow's server says",
}
"""Pattern of names that no sweep may have → what has such a name."""


def dataset_cache(runs: Path) -> Path:
    """Return the folder of generated datasets, shared by all sweeps and trainings of an output folder."""
    return runs / DATASETS


def store_url(runs: Path, url: str | None) -> str:
    """Return the place of the stage store: the URL that a job names, else a folder of the output folder."""
    return str(runs / STORE) if url is None else os.path.expandvars(url)


def expanded(output: str) -> Path:
    """Return a job's output folder, with ~ and variables such as $HOME replaced."""
    return Path(os.path.expandvars(output)).expanduser()


def runs_option(runs: Path) -> list[str]:
    """Return the words that name an output folder on the command line; empty for the default."""
    return [] if runs == Path(DEFAULT) else ["--runs", str(runs)]


def checked_name(name: str, what: str = "sweep") -> str:
    """Return the name of a sweep or training if it is valid as a folder's name.

    Raises:
        UserError: the name is not valid.
    """
    if not NAME.fullmatch(name):
        raise UserError(
            f"{what} name {name!r}: letters, digits, '.', '_' and '-' are allowed, beginning with a letter or digit; "
            "--name gives another name"
        )
    return name


def new_sweep_name(name: str) -> str:
    """Return the name of a new sweep if it is valid.

    Raises:
        UserError: the name is not valid or reserved.
    """
    for pattern, what in RESERVED.items():
        if fnmatchcase(name, pattern):
            raise UserError(
                f"sweep name {name!r}: taken in every output folder ({what}); --name gives the sweep another name"
            )
    return checked_name(name)
