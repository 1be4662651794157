"""The figures of a version on each target of a sweep: where it can run, how it is measured there, and its record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from paretune.config.job import Job
from paretune.config.recipe import Recipe
from paretune.core.baselines import EAGER
from paretune.core.errors import NodeLostError, UnfitRuntimeError, UserError, reason_of
from paretune.core.metrics import computed, is_of_target
from paretune.distributed.node_tasks import node_name
from paretune.results.sweep_folder import Sweep
from paretune.storage.artefact import Artefact, read_artefact
from paretune.storage.target_records import TargetFigures, on_target
from paretune.storage.trial_record import Record
from paretune.workflows.like_machines import difference
from paretune.workflows.stages import Stages
from paretune.workflows.trial_context import TrialContext, context_of
from paretune.workflows.trial_guard import is_full_disk
from paretune.workflows.trial_stages import Instruments, measure, measure_energy

PATIENCE = 0.9
"""Share of a stage's time limit after which the answer of another node is no longer waited for."""


def targets_of(job: Job, recipe: Recipe) -> list[str]:
    """Return the targets that can run a recipe, as far as the trial's machine knows: it does not ask other nodes."""
    return [name for name in job.targets if _unsupported_reason(job, recipe, name) is None]


def home_target(job: Job, recipe: Recipe) -> str:
    """Return the first target that can run a recipe on the trial's own machine.

    The recipe's steps and the evaluation of the accuracy are for it. A target that is measured on another node counts
    where the trial's machine has its device and runtime as well.

    Raises:
        UnfitRuntimeError: no target can run the recipe's runtime.
        UserError: no target can run the recipe, some of them because of its steps.
    """
    reasons = dict[str, str]()
    for name in job.targets:
        reason = _unsupported_reason(job, recipe, name, here=True)
        if reason is None:
            return name
        reasons[name] = reason
    if len(reasons) == 1:
        raise UnfitRuntimeError(next(iter(reasons.values())))
    text = "; ".join(f"target {name}: {reason}" for name, reason in reasons.items())
    runtime = all(recipe.runtime.unsupported_reason(target) for target in job.targets.values())
    raise UnfitRuntimeError(text) if runtime else UserError(text)


def _unsupported_reason(job: Job, recipe: Recipe, name: str, *, here: bool = False) -> str | None:
    """Return why a target cannot run a recipe; None if it can.

    Args:
        job: with the target.
        recipe: to run.
        name: of the target.
        here: whether this machine has to have what the target needs, even if the target is another node.
    """
    target = job.targets[name]
    if len(job.targets) > 1 and (reason := job.target_unsupported_reason(recipe, name)) is not None:
        return reason
    return None if target.elsewhere and not here else recipe.runtime.unsupported_reason(target)


def measure_on_targets(
    context: TrialContext,
    number: int,
    recipe: Recipe,
    artefact: Artefact,
    stages: Stages,
    progress: Callable[[str], None],
    instruments: Instruments,
) -> dict[str, TargetFigures]:
    """Return the figures of an artefact on each target; of one that cannot run it the reason.

    Args:
        context: of the sweep.
        number: of the trial.
        recipe: of the artefact.
        artefact: to measure.
        stages: of the trial; those of further targets have their names.
        progress: called with a line for each target.
        instruments: functions that measure.

    Raises:
        NodeLostError: a node of a target is gone, or does not answer.
        Exception: the eager baseline could not be measured on one target, or another version on none.
    """
    measured, errors = dict[str, TargetFigures](), dict[str, Exception]()
    several = len(context.job.targets) > 1
    for name in context.job.targets:
        progress(f"measuring on {name}" if several else "measuring")
        try:
            measured[name] = _measured(context, name, number, recipe, artefact, stages, instruments)
        except NodeLostError as error:
            raise NodeLostError(f"target {name}: {error}") from error
        except Exception as error:
            if not several or number == EAGER or is_full_disk(error):
                raise
            errors[name] = error
    if not measured:
        raise next(iter(errors.values()))
    unknown = {name: TargetFigures.unknown(reason_of(error)) for name, error in errors.items()}
    return {name: measured.get(name) or unknown[name] for name in context.job.targets}


def _measured(
    context: TrialContext,
    name: str,
    number: int,
    recipe: Recipe,
    artefact: Artefact,
    stages: Stages,
    instruments: Instruments,
) -> TargetFigures:
    """Return the figures of an artefact on one target.

    Raises:
        UnfitRuntimeError: the target cannot run it.
    """
    job, view = context.job, context.on(name)
    target, suffix = view.job.target, "" if view.further is None else f"_{name}"
    if len(job.targets) > 1 and (reason := _unsupported_reason(job, recipe, name)) is not None:
        raise UnfitRuntimeError(reason)  # the only target was asked before the steps
    if target.elsewhere:
        with stages.stage(f"measure{suffix}"):
            figures = (instruments.elsewhere or measure_elsewhere)(context, number, name)
    else:
        figures = measure_here(view, number, artefact, stages, instruments, suffix)
    if changed := difference((context.machines or {}).get(name), figures.facts):  # a node that joined later
        raise NodeLostError(f"measured on another machine than the sweep's other trials, {changed}")
    return figures


def measure_here(
    context: TrialContext,
    number: int,
    artefact: Artefact,
    stages: Stages,
    instruments: Instruments,
    suffix: str = "",
) -> TargetFigures:
    """Return latency and energy of an artefact, measured on this machine on the context's target.

    Args:
        context: as the target has it.
        number: of the trial.
        artefact: to measure.
        stages: of the trial.
        instruments: functions that measure.
        suffix: of the names of the stages.
    """
    with stages.stage(f"measure{suffix}"):
        duet, reference = measure(context, number, artefact, instruments, stages.counter("rounds"))
    with stages.stage(f"energy{suffix}"):
        used = measure_energy(context, artefact, instruments)
    metrics: dict[str, float | None] = {**duet.metrics(), **used.figures()}
    return TargetFigures(
        metrics={name: float(value) for name, value in metrics.items() if value is not None},
        reasons={**duet.reasons, **used.reasons},
        facts={
            **duet.latency.facts,
            "node": node_name(),
            "duet": {"reference": reference, **duet.facts},
            "energy": used.source,
        },
        notes=(*duet.notes, *(f"energy: {note}" for note in used.notes)),
    )


def measure_elsewhere(context: TrialContext, number: int, name: str) -> TargetFigures:
    """Return the figures of a trial's artefact on a target whose nodes are other machines of the cluster.

    Raises:
        NodeLostError: no such node is there, it died, or it does not answer in time.
        UserError: the node cannot run the artefact.
        RuntimeError: measuring failed on the node.
    """
    from paretune.distributed.node_tasks import NodeRequest, call_on_node

    target, limit = context.job.targets[name], context.job.search.stage_hours * 3600
    work = partial(measure_on_node, str(context.folder.parent.resolve()), context.folder.name, number, name)
    request = NodeRequest(target.labels, target.resources)
    figures: TargetFigures = call_on_node(work, request, seconds=PATIENCE * limit if limit else None)
    return figures


def measure_on_node(runs: str, sweep: str, number: int, name: str) -> TargetFigures:
    """Return the figures of a trial's artefact on a target whose node this is; the sweep's folder is shared.

    Args:
        runs: output folder.
        sweep: name of the sweep.
        number: of the trial.
        name: of the target.

    Raises:
        UserError: the folder or the data cannot be read here, or the target cannot run the runtime.
        RuntimeError: measuring failed.
    """
    context = context_of(Sweep(Path(runs), sweep)).on(name)
    artefact = read_artefact(context.trial_folder(number) / "artefact")
    if reason := Recipe.model_validate(artefact.recipe).runtime.unsupported_reason(context.job.target):
        raise UnfitRuntimeError(reason)
    return measure_here(context, number, artefact, Stages(), Instruments())


def notes_of(measured: Mapping[str, TargetFigures], home: str) -> tuple[str, ...]:
    """Return the notes of all targets, those of a further one after its name, and which one the recipe was made for.

    Args:
        measured: figures by target, in the order of the job.
        home: target that the recipe's steps and its evaluation were for.
    """
    first = next(iter(measured))
    further = [f"{name}: {note}" for name, one in measured.items() if name != first for note in one.notes]
    made = () if home == first else (f"made for target {home} and evaluated there: {first} cannot run it",)
    return (*measured[first].notes, *further, *made)


def with_targets(context: TrialContext, record: Record, measured: Mapping[str, TargetFigures]) -> Record:
    """Return a complete record with what its metrics give, and with the figures of every target if there are several.

    Args:
        context: of the sweep.
        record: with the figures of the first target.
        measured: figures by target, in the order of the job.
    """
    record = _computed(context, record)
    if len(measured) == 1:
        return record
    record = replace(record, targets={name: figures.checked().tree() for name, figures in measured.items()})
    targets = dict[str, dict[str, Any]]()
    for name in measured:
        view = context.on(name)
        whole = record if view.further is None else _computed(view, on_target(record, view.further))
        kept, parts = record.targets[name], {"metrics": whole.metrics, "reasons": whole.reasons}
        targets[name] = {**kept, **{part: _own(kept[part], values) for part, values in parts.items()}}
    return replace(record, targets=targets)


def _own(measured: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was measured on a target, and of the other values those that differ between targets."""
    return {**measured, **{name: value for name, value in values.items() if is_of_target(name)}}


def _computed(context: TrialContext, record: Record) -> Record:
    """Return a record, as a target has it, with its latency on the scale and the metrics that functions compute."""
    record = context.scaled(record)
    values, reasons = computed(record.metrics, record.facts)
    return replace(record, metrics={**values, **record.metrics}, reasons={**record.reasons, **reasons})
