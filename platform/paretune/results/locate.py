"""The sweep or training that a network or artefact belongs to, and its job."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from paretune.config.output_folder import JOB_FILE, SWEEP_FILE, dataset_cache
from paretune.core.errors import UserError
from paretune.core.target import Target
from paretune.storage.artefact import BUNDLE, STRUCTURE

if TYPE_CHECKING:
    from paretune.config.job import Job
    from paretune.data.base import Dataset
    from paretune.results.sweep_folder import Sweep


def job_of(folder: Path) -> tuple[Job, Path] | None:
    """Return the job of the sweep or training around a network or artefact, and the cache of its dataset.

    Returns:
        (job, cache); None if it is in neither.

    Raises:
        UserError: the job cannot be read.
    """
    from paretune.config.job import Job
    from paretune.core.yaml_document import read_yaml, validate

    file = _around(folder)
    if file is None:
        return None
    if file.name == SWEEP_FILE:
        sweep = _sweep_of(file)
        return sweep.job, sweep.cache
    return validate(Job, read_yaml(file)), dataset_cache(file.parent.parent.parent)


def target_around(folder: Path) -> Target | None:
    """Return the target of the sweep or training around a network or artefact, or of a bundle; None if it is in none.

    Only the target of the job is read, because the dataset may be unknown on this machine.

    Raises:
        UserError: the target cannot be read.
    """
    file = folder / BUNDLE if (folder / BUNDLE).is_file() else _around(folder)
    if file is None:
        return None
    try:
        if file.name == BUNDLE:
            fields = json.loads(file.read_text())["target"]
            return Target.model_validate({name: value for name, value in fields.items() if name != "name"})
        if file.name == SWEEP_FILE:
            job = json.loads(file.read_text())["job"]
        else:
            from paretune.core.yaml_document import read_yaml

            job = read_yaml(file).data
        return Target.model_validate(next(iter(job["targets"].values()))) if "targets" in job else Target()
    except (AttributeError, ImportError, KeyError, StopIteration, TypeError, ValueError) as error:
        raise UserError(f"{file}: its target cannot be read; name one with --device and --threads") from error


def network_around(folder: Path) -> Path:
    """Return the folder of the trained network of the sweep or training around an artefact.

    Raises:
        UserError: the artefact is in neither.
    """
    network = uncompressed_around(folder)
    if network is None:
        raise UserError(f"{folder}: lies in no sweep or training; name the trained network with --network FOLDER")
    return network


def uncompressed_around(folder: Path) -> Path | None:
    """Return the folder of the trained network around an artefact; None if there is no sweep, training or network."""
    file = _around(folder)
    if file is None:
        return None
    network = _sweep_of(file).baseline if file.name == SWEEP_FILE else file.parent
    return network if (network / STRUCTURE).is_file() else None


def _around(folder: Path) -> Path | None:
    """Return the ``SWEEP_FILE`` or ``JOB_FILE`` around a network or artefact; None if there is neither."""
    place = folder.resolve()
    # a sweep's baseline, a bundle in it, an artefact of a trial
    sweeps = (place.parent, place.parent.parent, place.parent.parent.parent)
    files = [*(sweep / SWEEP_FILE for sweep in sweeps), *(training / JOB_FILE for training in (place, place.parent))]
    return next((file for file in files if file.is_file()), None)


def _sweep_of(file: Path) -> Sweep:
    from paretune.results.sweep_folder import Sweep

    return Sweep(file.parent.parent, file.parent.name)


def dataset_around(folder: Path) -> tuple[Dataset, Path]:
    """Return the dataset of the sweep or training around an artefact, and its cache.

    Raises:
        UserError: the artefact is in neither.
    """
    found = job_of(folder)
    if found is None:
        raise UserError(f"{folder}: lies in no sweep or training; name the images with --data JOB.yaml|FOLDER")
    job, cache = found
    return job.dataset, cache
