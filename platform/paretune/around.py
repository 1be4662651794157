"""What lies around a network or an artefact: the sweep or training it was made in, and what its job says."""

from __future__ import annotations

import json
from pathlib import Path

from paretune.data.base import Dataset
from paretune.errors import UserError
from paretune.folders import Sweep
from paretune.job import Job
from paretune.output import dataset_cache
from paretune.target import Target
from paretune.yamlfile import read_yaml, validate


def job_of(folder: Path) -> tuple[Job, Path] | None:
    """Return the job of the sweep or training that a network or artefact lies in, and the cache of its dataset.

    None where it lies in neither.

    Raises:
        UserError: the job cannot be read.
    """
    match _around(folder):
        case Sweep() as sweep:
            return sweep.job, sweep.cache
        case Path() as training:
            return validate(Job, read_yaml(training / "job.yaml")), dataset_cache(training.parent.parent)
    return None


def target_around(folder: Path) -> Target | None:
    """Return the target of the sweep or training that a network or artefact lies in; None where it lies in neither.

    No more of the job is read: an artefact is used also where nobody knows its dataset.

    Raises:
        UserError: the target cannot be read.
    """
    around = _around(folder)
    if around is None:
        return None
    file = around.folder / "sweep.json" if isinstance(around, Sweep) else around / "job.yaml"
    try:
        job = json.loads(file.read_text())["job"] if file.suffix == ".json" else read_yaml(file).data
        return Target.model_validate(next(iter(job["targets"].values()))) if "targets" in job else Target()
    except (AttributeError, KeyError, StopIteration, TypeError, ValueError) as error:
        raise UserError(f"{file}: its target cannot be read; name one with --device and --threads") from error


def network_around(folder: Path) -> Path:
    """Return the folder of the trained network of the sweep or training that an artefact lies in.

    Raises:
        UserError: it lies in neither.
    """
    found = uncompressed_around(folder)
    if found is None:
        raise UserError(f"{folder}: lies in no sweep or training; name the trained network with --network FOLDER")
    return found


def uncompressed_around(folder: Path) -> Path | None:
    """Return the same; None where it lies in neither, or beside a job that has trained nothing there."""
    around = _around(folder)
    found = around.baseline if isinstance(around, Sweep) else around
    return found if found is not None and (found / "structure.json").is_file() else None


def _around(folder: Path) -> Sweep | Path | None:
    """Return the sweep, or the folder of the training, that a network or artefact lies in."""
    place = folder.resolve()
    for sweep in (place.parent, place.parent.parent.parent):  # a sweep's baseline, an artefact of a trial
        if (sweep / "sweep.json").is_file():
            return Sweep(sweep.parent, sweep.name)
    return next((training for training in (place, place.parent) if (training / "job.yaml").is_file()), None)


def dataset_around(folder: Path) -> tuple[Dataset, Path]:
    """Return the dataset of the sweep or training that an artefact lies in, and the cache it was made with.

    Raises:
        UserError: it lies in neither.
    """
    found = job_of(folder)
    if found is None:
        raise UserError(f"{folder}: lies in no sweep or training; name the images with --data JOB.yaml|FOLDER")
    job, cache = found
    return job.dataset, cache
