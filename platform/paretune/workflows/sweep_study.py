"""The study of a sweep, made from its job and its records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from paretune.config.recipe import Recipe
from paretune.distributed.tune_schedulers import HalvingScheduler
from paretune.results.study_place import database_of
from paretune.results.sweep_folder import Sweep
from paretune.storage.trial_record import Record
from paretune.workflows.baseline import first_recipes
from paretune.workflows.earlier_front import earlier_points
from paretune.workflows.rungs import paused_trials
from paretune.workflows.target_search import TargetSearch

if TYPE_CHECKING:
    from paretune.search.study import Study


def trains(raw: Mapping[str, Any]) -> bool:
    """Return whether a recipe trains."""
    return any(step.trains for step in Recipe.model_validate(raw).steps)


def normal_recipe(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe with every field filled in."""
    return Recipe.model_validate(raw).tree()


def opened_study(sweep: Sweep, records: Sequence[Record], say: Callable[[str], None]) -> Study:
    """Return the study of a sweep with the results so far.

    Args:
        sweep: whose lock is held.
        records: of its trials.
        say: prints a line.
    """
    from paretune.search.study import Study
    from paretune.search.study_settings import StudySettings

    job, search = sweep.job, TargetSearch(sweep)
    settings = StudySettings(
        space=sweep.space,
        objectives=search.objectives,
        violations=search.violations,
        view=search.view,
        targets=search.own_objectives,
        sampler=job.search.sampler,
        seed=job.search.seed,
        normal=normal_recipe,
        fixed=first_recipes(job, sweep.space),
        earlier=earlier_points(sweep, say),
        paused=paused_trials(sweep.folder) if isinstance(job.search.scheduler, HalvingScheduler) else (),
        siblings=job.search.siblings if job.store.max_gib else 0,
        trains=trains,
    )
    study = Study(database_of(sweep), settings, records)
    if study.rebuilt:
        say("study.db was damaged, and is made again; the damaged one is kept as study.db.damaged")
    return study


def complete_study(sweep: Sweep, records: Sequence[Record], say: Callable[[str], None]) -> None:
    """Add the records to the study, if there is one, that it missed when the sweep was killed.

    Args:
        sweep: whose lock is held.
        records: of its trials.
        say: prints a line.
    """
    if database_of(sweep).is_there:
        opened_study(sweep, records, say).close()
