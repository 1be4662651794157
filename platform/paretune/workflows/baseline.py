"""What every version of a sweep is compared with: the trained detector, unchanged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from paretune.config.job import Job
from paretune.config.recipe import Recipe
from paretune.core.baselines import BASELINES, EAGER
from paretune.core.errors import UserError
from paretune.data.left_out import lines_of, record_of, refuse_gaps
from paretune.distributed.run_training import train_order
from paretune.results.sweep_folder import Sweep
from paretune.storage.trial_record import read_record
from paretune.training.initial_weights import import_baseline
from paretune.training.training_job import TrainingJob
from paretune.training.worker import divergence_as_user_error


def baseline_recipes(job: Job) -> list[dict[str, Any]]:
    """Return the recipes of the baselines, in the order of their trials."""
    size = str(job.size)
    return [Recipe.model_validate({"input_size": size, "runtime": runtime}).tree() for runtime in BASELINES]


def first_recipes(job: Job) -> list[tuple[dict[str, Any], str]]:
    """Return the recipes that do not come from the space, each once, with where they come from: trials from 0 on."""
    baselines = baseline_recipes(job)
    first: list[dict[str, Any]] = []
    for recipe in job.search.first:
        tree = {**recipe.tree(), "input_size": str(recipe.size)}  # 160 is 160x160
        if tree not in [*baselines, *first]:
            first.append(tree)
    return [*((tree, "baseline") for tree in baselines), *((tree, "enqueued") for tree in first)]


def look_at_data(sweep: Sweep, say: Callable[[str], None], *, elsewhere: bool = False) -> None:
    """Tell and record what of a sweep's data is not used, and refuse to begin where that is too much.

    Args:
        sweep: whose data.
        say: told of it.
        elsewhere: the data may be on other machines only; a training refuses there what would be refused here.

    Raises:
        UserError: the data cannot be read, or lack a large part of themselves.
    """
    dataset = sweep.job.dataset
    try:
        data = dataset.open(sweep.cache)
    except UserError as error:
        if not elsewhere:
            raise
        say(f"what of the data is left out is not known here: {str(error).splitlines()[0]}")
        return
    if not sweep.begun:
        refuse_gaps(data, dataset)
    for line in lines_of(data):
        say(line)
    sweep.note(data=record_of(data))


def take_baseline(sweep: Sweep, say: Callable[[str], None]) -> None:
    """Take over the trained network that the job names, if it names one.

    Raises:
        UserError: it does not fit.
    """
    job = sweep.job
    if job.baseline is not None and not _baseline_order(sweep).is_done():
        say(f"baseline: {job.baseline}")
        import_baseline(Path(job.baseline), job.detector, job.dataset.open(sweep.cache).classes, sweep.baseline)


def _baseline_order(sweep: Sweep) -> TrainingJob:
    job = sweep.job
    kept = job.thresholds.thresholds
    return TrainingJob(job.detector, job.dataset, sweep.cache, job.size, job.training, sweep.baseline, thresholds=kept)


def train_baseline(sweep: Sweep, say: Callable[[str], None], *, elsewhere: bool) -> None:
    """Train the detector, unless there is a network; an unfinished training goes on.

    Args:
        sweep: whose baseline.
        say: told of each epoch.
        elsewhere: train by Ray even with one worker, since the cluster's devices may be on other machines.

    Raises:
        UserError: the training diverged, or the cluster lacks the workers.
    """
    if sweep.job.baseline is not None:
        return
    order = _baseline_order(sweep)
    say(f"baseline: {order.settings.epochs} epochs at {order.size}")
    with divergence_as_user_error(order):
        train_order(order, say, elsewhere=elsewhere)


def baseline_failure(sweep: Sweep) -> str | None:
    """Tell why a sweep cannot go on from its eager baseline as it was measured; None if it can, or it is not yet."""
    eager = read_record(sweep.folder, EAGER)
    if eager is None:
        return None
    if eager.state == "failed":
        return (
            f"trial {EAGER}, the eager baseline, failed, so there is nothing to compare with: {eager.failure}\n"
            f"to run it again: {sweep.command('resume')}"
        )
    for place, metric in sweep.job.asked:
        if metric not in eager.metrics:
            why = eager.reasons.get(metric, "no trial has it")
            return f"{place}.{metric}: not known of trial {EAGER}, the eager baseline: {why}; name another metric"
    return None
