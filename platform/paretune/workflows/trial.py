"""One trial: a recipe carried out, evaluated and measured, without Ray, Optuna or MLflow."""

from __future__ import annotations

import shutil
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from paretune.config.recipe import Recipe
from paretune.core.errors import UnfitRuntimeError, UserError
from paretune.core.metrics import computed
from paretune.data.left_out import record_of
from paretune.storage.trial_events import EventLog
from paretune.storage.trial_record import KEPT, RUNTIME_UNAVAILABLE, STAGES, Record, write_record
from paretune.workflows.build_artefact import TRAINED, BuildResult, kept_of
from paretune.workflows.recipe_source import RecipeImages
from paretune.workflows.stages import Decision, Stages, TrialStopped, go_on
from paretune.workflows.step_chain import InitialArtefactNetwork
from paretune.workflows.structure_first import structure_first
from paretune.workflows.trial_context import TrialContext, step_context, with_threads
from paretune.workflows.trial_stages import Instruments, evaluate, measure, measure_energy


def run(
    context: TrialContext,
    number: int,
    recipe: Recipe,
    *,
    origin: str,
    progress: Callable[[str], None] = lambda _: None,
    instruments: Instruments = Instruments(),  # noqa: B008 - frozen
    decide: Decision = go_on,
) -> Record:
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
        trial was ended early.
    """
    started, folder = time.time(), context.trial_folder(number)
    stages = Stages(instruments.clock, EventLog(folder), decide)
    identity = (number, recipe.tree(), recipe.params(), origin)
    try:
        result = _carry_out(context, number, recipe, stages, progress, instruments, first=origin != "sampled")
    except TrialStopped as stopped:
        reason, stage = str(stopped), stages.done[-1]["stage"]
        stages.ended("stopped", reason)
        facts = {STAGES: stages.done}
        record = Record.stopped(
            *identity, reason, stage=stage, metrics=stages.metrics, facts=facts, started=started, seconds=stages.seconds
        )
    except Exception as error:  # noqa: BLE001 - a trial may fail in any way, and the sweep goes on
        record = _failed(context, identity, error, stages, started)
        stages.ended("failed", record.failure or "")
    else:
        result["facts"] |= {STAGES: stages.done}
        record = context.scaled(Record.complete(*identity, started=started, seconds=stages.seconds, **result))
        values, reasons = computed(record.metrics, record.facts)
        record = replace(record, metrics={**values, **record.metrics}, reasons={**record.reasons, **reasons})
        shutil.rmtree(folder / TRAINED, ignore_errors=True)  # of an attempt that failed
    write_record(context.folder, record)
    shutil.rmtree(folder / "work", ignore_errors=True)  # the artefact holds what is of use
    return record


def _failed(
    context: TrialContext,
    identity: tuple[int, Mapping[str, Any], Mapping[str, Any], str],
    error: Exception,
    stages: Stages,
    started: float,
) -> Record:
    """Write the traceback of the error that is being handled, and return the record of the failed trial."""
    folder = context.trial_folder(identity[0])
    folder.mkdir(parents=True, exist_ok=True)
    kept = kept_of(folder)
    hint = f"\nwhat was made until then is kept, for `paretune optimize` to go on from: {kept}\n" if kept else ""
    (folder / "failure.txt").write_text(traceback.format_exc() + hint)
    kind = "UserError" if isinstance(error, UserError) else type(error).__name__
    facts: dict[str, Any] = {RUNTIME_UNAVAILABLE: True} if isinstance(error, UnfitRuntimeError) else {}
    facts |= {KEPT: str(kept.relative_to(context.folder))} if kept else {}
    facts[STAGES] = stages.done
    failure = f"{kind}: {error}".strip()
    return Record.failed(*identity, failure, started=started, seconds=stages.seconds, facts=facts)


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
    """Return the fields of a complete trial's record; ``first`` trials are not measured before they are trained."""
    built = _build(context, number, recipe, stages, progress, instruments, first=first)
    with stages.stage("evaluate"):
        progress("evaluating")
        parity, accuracy, change, limit_notes = evaluate(context, number, built)
    stages.known("evaluate", {name: value for name, value in accuracy.metrics().items() if value is not None})
    stages.decide_after("evaluate")
    with stages.stage("measure"):
        progress("measuring")
        duet, reference = measure(context, number, built.artefact, instruments)
    with stages.stage("energy"):
        used = measure_energy(context, built.artefact, instruments)
    artefact = built.artefact
    metrics: dict[str, float | None] = {
        **accuracy.metrics(),
        **change.figures,
        **duet.metrics(),
        **used.figures(),
        **parity.metrics(),
        "size_mib": artefact.size_mib,
        "coded_mib": artefact.coded_mib,
        "params": artefact.params,
        "flops": artefact.flops,
    }
    duet_facts, left_out = {"reference": reference, **duet.facts}, record_of(context.data)["left_out"]
    return {
        "metrics": {name: float(value) for name, value in metrics.items() if value is not None},
        "reasons": {**accuracy.reasons, **change.reasons, **duet.reasons, **used.reasons},
        "notes": (*artefact.notes, *limit_notes, *duet.notes, *(f"energy: {note}" for note in used.notes)),
        "artefact": str(artefact.folder.relative_to(context.folder)),
        "facts": {**duet.latency.facts, "duet": duet_facts, "energy": used.source, "left_out": left_out},
    }


def _build(
    context: TrialContext,
    number: int,
    recipe: Recipe,
    stages: Stages,
    progress: Callable[[str], None],
    instruments: Instruments,
    *,
    first: bool,
) -> BuildResult:
    """Take the baseline through the recipe's steps and write the artefact."""
    job = context.job
    if reason := recipe.runtime.unsupported_reason(job.target):
        raise UnfitRuntimeError(reason)
    folder = context.trial_folder(number)
    (workdir := folder / "work").mkdir(parents=True, exist_ok=True)
    tools = step_context(
        recipe,
        RecipeImages(job.dataset, context.cache, with_threads(job.training)),
        context.data,
        detector=job.detector,
        baseline=context.baseline,
        target=job.target,
        thresholds=job.thresholds.thresholds,
        workdir=workdir,
    )
    tools = replace(tools, seed=job.search.seed, progress=progress, epoch_done=stages.epoch)
    start, keep, store = InitialArtefactNetwork(context.baseline), folder / TRAINED, context.stage_store(progress)
    if not first and job.search.cheap_first:
        structure_first(context, number, recipe, tools, stages, store, instruments)
    return instruments.build(start, recipe, tools, folder / "artefact", stages, idle=False, keep=keep, store=store)


def not_run(folder: Path, proposal: Mapping[str, Any], why: str) -> Record:
    """Write and return the failed record of a trial that did not run.

    Args:
        folder: of the sweep.
        proposal: number, recipe and origin of the trial.
        why: reason, the record's ``failure``.
    """
    recipe = Recipe.model_validate(proposal["recipe"])
    record = Record.failed(proposal["number"], recipe.tree(), recipe.params(), proposal["origin"], why)
    write_record(folder, record)
    return record
