"""MLflow's registry of models: an artefact as a version of a registered model that loads without this package."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from paretune.core.errors import UserError, one_line
from paretune.core.hints import command
from paretune.tracking.mlflow_client import PARENT, SWEEP, TRIAL, LogPlace

if TYPE_CHECKING:
    from mlflow import MlflowClient

FOLDER = "model"
"""Folder of the model among the files of a trial's run."""
DIGEST = "paretune.artefact"
"""Tag of a version: hash of its artefact's manifest."""


@dataclass(frozen=True)
class RegisteredVersion:
    """A version of a registered model."""

    name: str
    version: str
    alias: str
    new: bool
    """False if the version was there before."""

    @property
    def uri(self) -> str:
        """Return the URI by which MLflow loads it."""
        return f"models:/{self.name}@{self.alias}"


@dataclass(frozen=True)
class StagedModel:
    """What a registered model is made of."""

    data: Path
    """Folder that the loader is given."""
    code: Path
    """Package that the model carries."""
    loader: str
    """Module in that package with a function ``_load_pyfunc``."""
    requirements: Sequence[str]
    """Packages of pip with their versions."""
    about: str
    """Description of the version."""
    tags: Mapping[str, str]
    """Tags of the version; ``DIGEST`` identifies the artefact."""

    def write(self, folder: Path) -> None:
        """Write a model that ``mlflow.pyfunc`` loads, from arrays of images to a table of detections."""
        import numpy as np
        from mlflow import pyfunc
        from mlflow.models import ModelSignature
        from mlflow.types import ColSpec, Schema, TensorSpec

        numbers = [ColSpec("double", name) for name in ("score", "x1", "y1", "x2", "y2")]
        signature = ModelSignature(
            Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1, 3))]),
            Schema([ColSpec("long", "image"), ColSpec("string", "label"), *numbers]),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it would like an example, which it would run
            pyfunc.save_model(
                str(folder),
                loader_module=self.loader,
                data_path=str(self.data),
                code_paths=[str(self.code)],
                signature=signature,
                pip_requirements=list(self.requirements),
            )


def register(place: LogPlace, created: float, number: int, staged: StagedModel, alias: str) -> RegisteredVersion:
    """Register a trial's model as a version of the model of its sweep's name, with an alias.

    A model that is a version already only gets the alias.

    Args:
        place: of the sweep's log.
        created: time at which the sweep was made, in seconds since 1970.
        number: of the trial.
        staged: parts of the model.
        alias: of the version, taken from an older one.

    Raises:
        UserError: the trial is not logged, or the log cannot be read or written.
    """
    client = place.connect()
    from mlflow.exceptions import MlflowException

    try:
        run_id = _trial_run(client, place, created, number)
        if run_id is None:
            missing = command("sync", place.sweep, "--runs", place.runs)
            raise UserError(f"trial {number} of sweep {place.sweep!r} is not in {place.words}; `{missing}` logs it")
        return _registered(client, run_id, place.sweep, staged, alias)
    except (MlflowException, OSError) as error:
        raise UserError(f"trial {number} cannot be registered in {place.words}: {one_line(error)}") from error


def _trial_run(client: MlflowClient, place: LogPlace, created: float, number: int) -> str | None:
    """Return the id of the run of a trial; None if it is not logged.

    Args:
        client: of the log.
        place: of the sweep's log.
        created: time at which the sweep was made, in seconds since 1970.
        number: of the trial.
    """
    experiment = client.get_experiment_by_name(place.experiment)
    if experiment is None:
        return None
    ids, made = [experiment.experiment_id], int(created * 1000)
    named = f"tags.`{SWEEP}` = '{place.sweep}' and tags.`{TRIAL}` = "
    sweeps = client.search_runs(ids, f"{named}'all' and attributes.start_time = {made}", max_results=1)
    if not sweeps:
        return None
    trials = client.search_runs(ids, f"{named}'{number}' and tags.`{PARENT}` = '{sweeps[0].info.run_id}'")
    return str(trials[0].info.run_id) if trials else None


def _registered(client: MlflowClient, run_id: str, name: str, staged: StagedModel, alias: str) -> RegisteredVersion:
    """Return the version of a registered model, which is made if the run has none of this artefact."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException:
        client.get_registered_model(name)  # it exists, or the log cannot be read
    versions = client.search_model_versions(f"name = '{name}'")
    same = [one for one in versions if one.run_id == run_id and one.tags.get(DIGEST) == staged.tags[DIGEST]]
    if same:
        version, new = str(same[0].version), False
    else:
        with tempfile.TemporaryDirectory(prefix="paretune-model-") as folder:
            staged.write(Path(folder) / FOLDER)
            client.log_artifacts(run_id, str(Path(folder) / FOLDER), FOLDER)
        source = f"{client.get_run(run_id).info.artifact_uri}/{FOLDER}"
        made = client.create_model_version(name, source, run_id, tags=dict(staged.tags), description=staged.about)
        version, new = str(made.version), True
    client.set_registered_model_alias(name, alias, version)
    return RegisteredVersion(name, version, alias, new)
