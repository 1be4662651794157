"""Turns arguments of the command line into objects: datasets, images, targets, advice."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from paretune.cli.options import overrides
from paretune.config.output_folder import DEFAULT, dataset_cache, expanded
from paretune.core.errors import UserError


def tried_first(given: argparse.Namespace) -> tuple[dict[str, Any], list[Any]]:
    """Return the changes to a sweep's job, and the predictions for the recipes of ``--first``.

    The changes put into ``search.first``: the recipes that advice was for, those of ``--first``, and the job's own.

    Raises:
        UserError: a file does not exist or is no YAML, a folder holds no recipe, or predictions cannot be read.
    """
    from paretune.config.plan import overridden
    from paretune.config.recipe import Recipe
    from paretune.core.yaml_document import read_yaml, validate
    from paretune.results.advice_outcomes import read_promises

    changes = overrides(given)
    if not given.first:
        return changes, []
    files: list[Path] = []
    for place in given.first:
        inside = sorted(place.glob("*.yaml")) if place.is_dir() else [place]
        if not inside:
            raise UserError(f"--first {place}: holds no recipe (*.yaml)")
        files += inside
    recipes = [validate(Recipe, read_yaml(file)) for file in files]
    promises = read_promises(recipes, [file.parent for file in files])
    added = [*(promise.before for promise in promises), *(recipe.tree() for recipe in recipes)]
    job = overridden(read_yaml(given.job), changes).data
    search = job.get("search") if isinstance(job, dict) else None
    own = (search.get("first") if isinstance(search, dict) else None) or []
    changes["search.first"] = [*added, *(own if isinstance(own, list) else [own])]
    return changes, promises


def named_images(given: argparse.Namespace) -> Any:
    """Return the dataset of ``images_arguments`` and its cache; None if none is named.

    Raises:
        UserError: it is neither a job's file nor a folder of a known layout.
    """
    if given.data is None:
        return None

    return dataset_of(given.data, given.format)


def checked_target(given: argparse.Namespace, folders: Sequence[Path]) -> Any:
    """Return the target of ``target_arguments``.

    Defaults come from the sweep or training around the artefacts, unless that is for another device; any target but one
    CPU thread is printed.

    Args:
        given: the arguments.
        folders: of the artefacts or networks that run on it.

    Raises:
        UserError: a number of threads out of range, or several targets around the folders.
    """
    if given.threads is not None and not 1 <= given.threads <= 1024:
        raise UserError(f"--threads {given.threads}: expected 1 to 1024")
    from paretune.core.target import Target

    plain = Target(device=given.device or "cpu", threads=given.threads or 1)
    if given.device and given.threads:
        return plain
    around = {folder: target for folder in folders if (target := _made_for(folder)) is not None}
    targets = {
        Target(device=target.device, threads=given.threads or target.threads): folder
        for folder, target in around.items()
        if given.device in (None, target.device)
    }
    if len(targets) > 1:
        words = "; ".join(f"{folder} of {target}" for target, folder in targets.items())
        raise UserError(f"the artefacts were made for several targets ({words}): name one with --device and --threads")
    target = next(iter(targets), plain)
    if target != plain:
        words = "which the artefact was made for; --device and --threads name another"
        print(f"target: {target}, {words}", file=sys.stderr, flush=True)
    return target


def _made_for(folder: Path) -> Any:
    """Return the target of the job around an artefact or network, on the device that its runtime needs."""
    from paretune.core.target import Target
    from paretune.results.locate import target_around
    from paretune.runtimes.predictor import device_of
    from paretune.storage.artefact import MANIFEST

    target = target_around(folder)
    if not (folder / MANIFEST).is_file() or (needed := device_of(folder)) == "cpu":
        return target
    return Target(device=needed, threads=1 if target is None else target.threads)


def dataset_of(source: Path, form: str | None) -> tuple[Any, Path]:
    """Return the dataset of a job's file, of a data.yaml, or in a folder, and its cache in the output folder.

    Raises:
        UserError: the file is neither a job nor YOLO's description of a dataset, or there is no such folder or layout.
    """
    from paretune.data import DATASETS

    if source.is_file():
        from paretune.config.job import Job
        from paretune.core.yaml_document import read_yaml, validate

        if source.suffix.lower() == ".json":
            raise UserError(f"{source}: a JSON file; name the folder in which it and its images lie")
        document = read_yaml(source)
        fields = set(document.data) if isinstance(document.data, Mapping) else set()
        if fields & _DESCRIBES and not fields & set(Job.model_fields):
            return DATASETS.load("yolo").model_validate({"root": str(source)}), dataset_cache(Path(DEFAULT))
        job = validate(Job, document)
        return job.dataset, dataset_cache(expanded(job.output))
    from paretune.data.formats.detect import format_of_folder

    row = DATASETS.load(format_of_folder(source, form))
    return row.model_validate({"root": str(source)}), dataset_cache(Path(DEFAULT))


_DESCRIBES = frozenset({"names", "nc", "train", "val"})
"""Fields of YOLO's description of a dataset, none of which a job has."""


def named_training(given: argparse.Namespace) -> Any:
    """Return the training of the job that ``--data`` names; None if it names none.

    Raises:
        UserErrors: every mistake in the job.
    """
    if given.data is None or not given.data.is_file():
        return None
    from paretune.config.job import Job
    from paretune.core.yaml_document import read_yaml, validate

    return validate(Job, read_yaml(given.data)).training
