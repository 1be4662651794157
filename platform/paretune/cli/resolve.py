"""Turns arguments of the command line into objects: datasets, images, targets, advice."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paretune.api.inputs import images_named, target_of, training_named
from paretune.cli.options import overrides
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
    """Return the dataset of ``images_arguments`` and its cache; None if none is named."""
    return images_named(given.data, given.format)


def checked_target(given: argparse.Namespace, folders: Sequence[Path]) -> Any:
    """Return the target of ``target_arguments``, as `target_of`; any default but one CPU thread is printed."""
    return target_of(folders, given.device, given.threads, say)


def say(line: str) -> None:
    """Print a line of progress to stderr."""
    print(line, file=sys.stderr, flush=True)


def named_training(given: argparse.Namespace) -> Any:
    """Return the training of the job that ``--data`` names; None if it names none."""
    return training_named(given.data)
