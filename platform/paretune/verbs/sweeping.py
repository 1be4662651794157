"""``sweep`` and ``resume``: from a job to its front."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paretune.errors import UserError
from paretune.verbs.arguments import job_arguments, overrides, sweep_arguments

INTERRUPTED = 130


def add(verbs: Any) -> None:
    """Add the verbs to the parser."""
    sweep = verbs.add_parser("sweep", help="train, compress, evaluate, measure: from a job to its front")
    job_arguments(sweep)
    text = "recipes to try right after the baselines: files, or a folder that `paretune advise` wrote, whose "
    text += "predictions are held to what is measured"
    sweep.add_argument("--first", nargs="+", type=Path, default=[], metavar="RECIPE", help=text)
    sweep.add_argument("--address", help=argparse.SUPPRESS)
    sweep.set_defaults(run=_sweep)
    resume = verbs.add_parser("resume", help="go on with a sweep that was stopped or killed, or show a finished one")
    sweep_arguments(resume)
    resume.add_argument("--address", help=argparse.SUPPRESS)
    resume.set_defaults(run=_resume)


def _sweep(given: argparse.Namespace) -> int:
    from paretune.folders import new_sweep
    from paretune.plan import read_plan

    changes, promises = overrides(given), ()
    if given.first:
        changes["search.first"], promises = _advised(given.first)
    plan = read_plan(given.job, changes)
    _check_machine(plan.job, given.address)
    return _run(new_sweep(plan, given.name or given.job.stem, promises), given.address)


def _advised(places: Sequence[Path]) -> tuple[list[Any], tuple[Any, ...]]:
    """Read recipes from files and folders, as they are, and what the advice beside them promises.

    What the advice was for stands before its recipes: only against it can be seen what they gain.

    Raises:
        UserError: there is no such file, it is no YAML, a folder holds none, or advice that cannot be read.
    """
    from paretune.promises import read_promises
    from paretune.recipe import Recipe
    from paretune.yamlfile import read_yaml, validate

    files: list[Path] = []
    for place in places:
        inside = sorted(place.glob("*.yaml")) if place.is_dir() else [place]
        if not inside:
            raise UserError(f"--first {place}: holds no recipe (*.yaml)")
        files += inside
    recipes = [validate(Recipe, read_yaml(file)) for file in files]
    promises = read_promises(recipes, [file.parent for file in files])
    return [*(promise.before for promise in promises), *(recipe.tree() for recipe in recipes)], tuple(promises)


def _resume(given: argparse.Namespace) -> int:
    from paretune.folders import find_sweep

    sweep = find_sweep(given.runs, given.sweep)
    if not sweep.finished:
        _check_machine(sweep.job, given.address)
    return _run(sweep, given.address)


def _check_machine(job: Any, address: str | None) -> None:
    """Refuse a target that this machine cannot be, where no cluster is joined."""
    from paretune.baseline import refuse_unfit_machine

    if address is None:
        refuse_unfit_machine(job)


def _run(sweep: Any, address: str | None) -> int:
    from paretune.sweep import run_sweep

    outcome = run_sweep(sweep, address=address)
    if outcome.finished:
        return 0
    where = "" if str(sweep.runs) == "runs" else f" --runs {sweep.runs}"
    print(f"\nstopped; nothing is lost. To go on: paretune resume {sweep.name}{where}", file=sys.stderr)
    return INTERRUPTED
