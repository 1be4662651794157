"""The baselines of a sweep: training or import of the network, and their recipes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from paretune.config.job import Job
from paretune.config.recipe import Recipe
from paretune.core.baselines import BASELINES, EAGER
from paretune.core.counts import counted
from paretune.core.errors import UserError
from paretune.data.left_out import lines_of, record_of, refuse_gaps
from paretune.distributed.run_training import train_order
from paretune.distributed.train_workers import training_nodes
from paretune.evaluation.learned import unlearned_reason
from paretune.results.sweep_folder import Sweep
from paretune.search.space import Space
from paretune.storage.target_records import on_target
from paretune.storage.trial_record import read_record
from paretune.training.history import TrainingStep, no_step
from paretune.training.initial_weights import import_baseline
from paretune.training.training_job import TrainingJob
from paretune.training.worker import divergence_as_user_error
from paretune.workflows.sweep_identity import check_identity

ROOM_FOR_UNCHANGED = 12
"""Fewest trials of a search that measures the unchanged network on every runtime of its space."""


def baseline_recipes(job: Job) -> list[dict[str, Any]]:
    """Return the recipes of the baselines, in the order of their trials."""
    size = str(job.size)
    return [Recipe.model_validate({"input_size": size, "runtime": runtime}).tree() for runtime in BASELINES]


def unchanged_recipes(job: Job, space: Space) -> list[dict[str, Any]]:
    """Return the recipe of the unchanged network on each runtime of a space that a target can run.

    A version is worth deploying only if it is better than these. A search of a few trials has no room for them.
    """
    if job.search.trials < ROOM_FOR_UNCHANGED:
        return []
    size = str(job.size)
    recipes = [Recipe.model_validate({"input_size": size, "runtime": runtime}) for runtime in space.runtimes()]
    return [recipe.tree() for recipe in recipes if job.recipe_unsupported_reason(recipe) is None]


def first_recipes(job: Job, space: Space) -> list[tuple[dict[str, Any], str]]:
    """Return (recipe, origin) of the trials before those from the space, in order, each recipe once.

    These are the baselines, those that the job lists, and the unchanged network on the other runtimes of the space.
    """
    baselines = baseline_recipes(job)
    first: list[dict[str, Any]] = []
    for recipe in job.search.first:
        tree = {**recipe.tree(), "input_size": str(recipe.size)}  # 160 is 160x160
        if tree not in [*baselines, *first]:
            first.append(tree)
    first += [tree for tree in unchanged_recipes(job, space) if tree not in [*baselines, *first]]
    return [*((tree, "baseline") for tree in baselines), *((tree, "enqueued") for tree in first)]


def look_at_data(
    sweep: Sweep, say: Callable[[str], None], *, elsewhere: bool = False, accept_changes: bool = False
) -> None:
    """Print and record the unused parts of a sweep's data, and refuse to begin if they are too large.

    A sweep with trials is refused, too, if its data, space, versions, machine or targets are not those of its trials.

    Args:
        sweep: whose data.
        say: prints a line.
        elsewhere: whether the data may be on other machines only; the training checks them there.
        accept_changes: whether a sweep with trials goes on with other data, space, versions or on another machine.

    Raises:
        UserError: the data cannot be read, or lack a large part of themselves, or the sweep has changed.
    """
    dataset = sweep.job.dataset
    try:
        data = dataset.open(sweep.cache)
    except UserError as error:
        if not elsewhere:
            raise
        say(f"what of the data is left out is not known here: {str(error).splitlines()[0]}")
        check_identity(sweep, None, say, elsewhere=elsewhere, accept=accept_changes)
        return
    if not sweep.begun:
        refuse_gaps(data, dataset)
    check_identity(sweep, data, say, elsewhere=elsewhere, accept=accept_changes)
    for line in lines_of(data):
        say(line)
    sweep.note(data=record_of(data))


def take_baseline(sweep: Sweep, say: Callable[[str], None]) -> None:
    """Import the trained network that the job names, if any.

    Raises:
        UserError: detector or classes differ from the job's.
    """
    job = sweep.job
    if job.baseline is not None and not _baseline_order(sweep).is_done():
        say(f"baseline: {job.baseline}")
        import_baseline(Path(job.baseline), job.detector, job.dataset.open(sweep.cache).classes, sweep.baseline)


def _baseline_order(sweep: Sweep) -> TrainingJob:
    job = sweep.job
    kept = job.thresholds.thresholds
    return TrainingJob(job.detector, job.dataset, sweep.cache, job.size, job.training, sweep.baseline, thresholds=kept)


def train_baseline(
    sweep: Sweep,
    say: Callable[[str], None],
    on_step: Callable[[TrainingStep], None] = no_step,
    *,
    elsewhere: bool,
) -> None:
    """Train the detector unless its network exists; an unfinished training is continued.

    Args:
        sweep: whose baseline.
        say: prints a line for each epoch.
        on_step: called after each step, or, of a training on Ray workers, after each epoch.
        elsewhere: whether one worker trains by Ray too, since the devices may be on other machines.

    Raises:
        UserError: the training diverged, or the cluster lacks the workers.
    """
    if sweep.job.baseline is not None:
        return
    order = _baseline_order(sweep)
    say(f"baseline: {counted(order.settings.epochs, 'epoch')} at {order.size}")
    with divergence_as_user_error(order), training_nodes(sweep.job.resources.labels):
        train_order(order, say, on_step, elsewhere=elsewhere)


def baseline_failure(sweep: Sweep) -> str | None:
    """Return why a sweep cannot go on from its eager baseline; None if it can, or there is no record yet."""
    eager = read_record(sweep.folder, EAGER)
    if eager is None:
        return None
    if eager.state == "failed":
        return (
            f"trial {EAGER}, the eager baseline, failed, so there is nothing to compare with: {eager.failure}\n"
            f"to run it again: {sweep.command('resume')}"
        )
    if (
        not sweep.job.search.allow_unlearned
        and (why := unlearned_reason(eager.metrics, sweep.job.max_drops)) is not None
    ):
        return (
            f"the trained network (trial {EAGER}) {why}\n"
            f"train longer (training.epochs is {sweep.job.training.epochs}), check the annotations with `data check`, "
            f"or lower max_drop; a new sweep with `--set baseline={sweep.baseline}` takes this network\n"
            f"to search in spite of it: {sweep.command('resume', '--allow-unlearned')}"
        )
    for view in sweep.each_target():
        there = on_target(eager, view.further)
        where = f" on {view.job.target_name}" if eager.targets or view.further else ""
        for place, metric in view.job.asked:
            if metric not in there.metrics:
                why = there.reasons.get(metric, "no trial has it")
                known = f"not known of trial {EAGER}, the eager baseline{where}"
                return f"{place}.{metric}: {known}: {why}; name another metric"
    return None
