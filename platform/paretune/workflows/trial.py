"""One trial: a recipe carried out, evaluated and measured, without Ray, Optuna or MLflow."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from paretune.config.recipe import Recipe
from paretune.core.errors import NodeLostError
from paretune.core.target import Target
from paretune.data.left_out import record_of
from paretune.distributed.node_tasks import node_name
from paretune.storage.trial_events import EventLog
from paretune.storage.trial_record import STAGES, Record, write_record
from paretune.workflows.build_artefact import TRAINED, BuildResult
from paretune.workflows.recipe_source import RecipeImages
from paretune.workflows.rungs import rungs_of, seconds_before
from paretune.workflows.stages import Decision, Stages, TrialPaused, TrialStopped, go_on
from paretune.workflows.step_chain import InitialArtefactNetwork
from paretune.workflows.structure_first import structure_first
from paretune.workflows.target_measuring import home_target, measure_on_targets, notes_of, with_targets
from paretune.workflows.trial_context import SHARING, TrialContext, step_context, with_threads
from paretune.workflows.trial_failure import FAILURE, failed_record, give_up
from paretune.workflows.trial_guard import is_full_disk, is_out_of_memory, stage_limit, wait_for_space, with_half_batch
from paretune.workflows.trial_stages import Instruments, evaluate


def run(
    context: TrialContext,
    number: int,
    recipe: Recipe,
    *,
    origin: str,
    progress: Callable[[str], None] = lambda _: None,
    instruments: Instruments = Instruments(),  # noqa: B008 - frozen
    decide: Decision = go_on,
) -> Record | None:
    """Build, evaluate and measure one recipe, and write its record, whether or not that succeeds.

    Args:
        context: of the sweep.
        number: of the trial.
        recipe: to carry out.
        origin: source of the recipe, as ``Record.origin`` describes it.
        progress: called with a line for each stage and epoch.
        instruments: functions that build and measure.
        decide: asked after each stage and epoch whether the trial goes on.

    Returns:
        The record; its ``state`` is "failed", and ``failure`` the reason, if anything went wrong, and "stopped" if the
        trial was ended early. None if the trial was paused: it goes on from its saved state when it is run again.
    """
    folder, notes = context.trial_folder(number), list[str]()

    def attempt(context: TrialContext) -> tuple[Record, Exception | None]:
        stages = Stages(instruments.clock, EventLog(folder), decide, seconds_before(folder))
        hung = partial(give_up, context, (number, recipe.tree(), recipe.params(), origin), stages)
        with stage_limit(stages, context.job.search.stage_hours * 3600, hung):
            return _attempt(context, number, recipe, stages, progress, instruments, origin)

    try:
        record, error = attempt(context)
    except TrialPaused as paused:
        EventLog(folder).add("paused", "", reason=str(paused))
        return None
    while is_full_disk(error):
        wait_for_space(context.folder, progress)
        record, error = attempt(context)
    trained = {step.name for step in recipe.steps if step.trains}
    last = record.facts[STAGES][-1]["stage"] if record.facts.get(STAGES) else None
    small = error is not None and is_out_of_memory(error) and last in trained
    if small and (smaller := with_half_batch(context)) is not None:
        shutil.rmtree(folder / "work", ignore_errors=True)  # its saved training is of another batch
        size = smaller.job.training.batch_size
        notes.append(f"out of memory at first; trained with batches of {size} and half of the learning rate")
        progress(f"out of memory; again with batches of {size}")
        record, error = attempt(smaller)
    record = replace(record, notes=(*record.notes, *notes))
    write_record(context.folder, record)
    shutil.rmtree(folder / "work", ignore_errors=True)  # the artefact holds what is of use
    return record


def _attempt(
    context: TrialContext,
    number: int,
    recipe: Recipe,
    stages: Stages,
    progress: Callable[[str], None],
    instruments: Instruments,
    origin: str,
) -> tuple[Record, Exception | None]:
    """Carry out a recipe once; return the record, not yet written, and the error that made it fail."""
    started, folder = time.time(), context.trial_folder(number)
    identity = (number, recipe.tree(), recipe.params(), origin)
    try:
        result = _carry_out(context, number, recipe, stages, progress, instruments, first=origin != "sampled")
    except TrialPaused:
        raise
    except NodeLostError as error:  # the trial is run again
        stages.ended("failed", str(error))
        raise
    except TrialStopped as stopped:
        reason, stage = str(stopped), stages.done[-1]["stage"]
        stages.ended("stopped", reason)
        known, facts = stages.metrics, {STAGES: stages.done}
        more: dict[str, Any] = {"started": started, "seconds": stages.seconds}
        return Record.stopped(*identity, reason, stage=stage, metrics=known, facts=facts, **more), None
    except Exception as error:  # noqa: BLE001 - a trial may fail in any way, and the sweep goes on
        record = failed_record(context, identity, error, stages, started)
        stages.ended("failed", record.failure or "")
        return record, error
    result["facts"] |= {STAGES: stages.done, **({} if context.sharing is None else {SHARING: context.sharing})}
    measured = result.pop("measured")
    record = Record.complete(*identity, started=started, seconds=stages.seconds, **result)
    shutil.rmtree(folder / TRAINED, ignore_errors=True)  # of an attempt that failed
    (folder / FAILURE).unlink(missing_ok=True)
    return with_targets(context, record, measured), None


def _carry_out(
    context: TrialContext,
    number: int,
    recipe: Recipe,
    stages: Stages,
    progress: Callable[[str], None],
    instruments: Instruments,
    *,
    first: bool,
) -> dict[str, Any]:
    """Return the fields of a complete trial's record, and ``measured``; ``first`` ones are not timed untrained."""
    home = context.at_home(home_target(context.job, recipe))
    built = _build(context, home.job.target, number, recipe, stages, progress, instruments, first=first)
    with stages.stage("evaluate"):
        progress("evaluating")
        parity, accuracy, change, limit_notes = evaluate(home, number, built, stages.counter("images"))
    stages.known("evaluate", {name: value for name, value in accuracy.metrics().items() if value is not None})
    stages.decide_after("evaluate")
    artefact = built.artefact
    measured = measure_on_targets(context, number, recipe, artefact, stages, progress, instruments)
    own, left_out = measured[context.job.target_name], record_of(context.data)["left_out"]
    metrics: dict[str, float | None] = {
        **accuracy.metrics(),
        **change.figures,
        **own.metrics,
        **parity.metrics(),
        "size_mib": artefact.size_mib,
        "coded_mib": artefact.coded_mib,
        "params": artefact.params,
        "flops": artefact.flops,
    }
    return {
        "metrics": {name: float(value) for name, value in metrics.items() if value is not None},
        "reasons": {**accuracy.reasons, **change.reasons, **own.reasons},
        "notes": (*artefact.notes, *limit_notes, *notes_of(measured, home.job.target_name)),
        "artefact": str(artefact.folder.relative_to(context.folder)),
        "facts": {**own.facts, **accuracy.facts(), "left_out": left_out, "built_on": node_name()},
        "measured": measured,
    }


def _build(
    context: TrialContext,
    target: Target,
    number: int,
    recipe: Recipe,
    stages: Stages,
    progress: Callable[[str], None],
    instruments: Instruments,
    *,
    first: bool,
) -> BuildResult:
    """Take the baseline through the recipe's steps, as a target wants them, and write the artefact."""
    job, folder = context.job, context.trial_folder(number)
    (workdir := folder / "work").mkdir(parents=True, exist_ok=True)
    tools = step_context(
        recipe,
        RecipeImages(job.dataset, context.cache, with_threads(job.training)),
        context.data,
        detector=job.detector,
        baseline=context.baseline,
        target=target,
        thresholds=job.thresholds.thresholds,
        workdir=workdir,
    )
    told: dict[str, Any] = {"progress": progress, "epoch_done": stages.epoch, "on_step": stages.on_step}
    tools = replace(tools, seed=job.search.seed, rungs=rungs_of(job), **told)
    start, keep, store = InitialArtefactNetwork(context.baseline), folder / TRAINED, context.stage_store(progress)
    if not first and job.search.cheap_first:
        structure_first(context, number, recipe, tools, stages, store, instruments)
    return instruments.build(start, recipe, tools, folder / "artefact", stages, idle=False, keep=keep, store=store)
