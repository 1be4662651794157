"""Cheap before dear: the network of a recipe is built without training and timed, before the training is paid for.

The latency of a network does not depend on its weights. What decoding and preprocessing add is taken from the
reference of the sweep's duets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from paretune.compression import STEPS
from paretune.compression.base import Context
from paretune.config.recipe import Recipe
from paretune.core.spec import fingerprint
from paretune.profiling.environment import environment
from paretune.results.front_summary import judge_of
from paretune.results.sweep_folder import Sweep
from paretune.search.early_stop import may_stop, stop_reason
from paretune.storage.artefact import Artefact, read_artefact
from paretune.storage.stage_store import StageStore
from paretune.storage.target_records import at_target
from paretune.storage.trial_record import EXPECTED, Record
from paretune.system.device_lock import exclusive_device, shared_device
from paretune.workflows.stages import Stages, TrialStopped
from paretune.workflows.step_chain import InitialArtefactNetwork
from paretune.workflows.target_measuring import targets_of
from paretune.workflows.trial_context import TrialContext
from paretune.workflows.trial_stages import Instruments

if TYPE_CHECKING:
    from torch import nn

STAGE = "structure"
"""Name of the stage."""


def structure_first(
    context: TrialContext,
    number: int,
    recipe: Recipe,
    tools: Context,
    stages: Stages,
    store: StageStore | None,
    instruments: Instruments,
) -> None:
    """Build and time the network of a recipe that trains, and stop the trial where its training cannot pay.

    Does nothing for a recipe without training, for a detector of several parts, whose second part depends on what the
    first one finds, before there is a reference to compare with, and while nothing could stop or pause the trial.

    Of several targets each that can run the recipe is asked: the trial is stopped only if it cannot pay on any of them,
    which is not known of a target that is another node.

    Raises:
        TrialStopped: the version would break a limit of the latency, or be slower than one as accurate as any so far.
        RuntimeError: the runtime does not run as asked for.
        UserError: a step found a mistake of the user.
    """
    able = targets_of(context.job, recipe)
    here = {name: context.on(name) for name in able if not context.job.targets[name].elsewhere}
    references = {name: record for name, view in here.items() if (record := view.reference(number)) is not None}
    if len(references) < len(here) or not here:
        return
    if len(tools.detector.part_names) > 1 or not any(step.trains for step in recipe.steps):
        return
    ceilings = {name: limit.max for name, limit in context.job.constraints.items() if limit.max is not None}
    records = {name: view.state.records() for name, view in here.items()}
    all_here = len(here) == len(able)
    stops = all_here and all(may_stop(one, ceilings) for one in records.values())
    if not (stops or context.job.search.scheduler.rungs(1000)):
        return
    with stages.stage(STAGE):
        ratios = _network_ratios(context, recipe, tools, references, store, instruments)
    sweep, reasons = Sweep(context.folder.parent, context.folder.name), dict[str, str | None]()
    for name, ratio in ratios.items():
        view, mine = sweep.on(name), records[name]
        expected = expected_metrics(ratio, next(one for one in mine if one.number == references[name].number))
        stages.known(STAGE, {_known_as(metric, view.further): value for metric, value in expected.items()})
        reasons[name] = stop_reason(expected, mine, judge_of(view), ceilings)
    if all_here and all(reasons.values()):
        several = len(context.job.targets) > 1
        raise TrialStopped("; ".join(f"{name}: {why}" if several else str(why) for name, why in reasons.items()))


def _known_as(metric: str, target: str | None) -> str:
    """Return the name of an expected metric of a target; None is the first one."""
    return f"{EXPECTED}{metric if target is None else at_target(metric, target)}"


def expected_metrics(ratio: float, reference: Record) -> dict[str, float]:
    """Return the latencies of a version, in milliseconds, from its network's time as a share of the reference's."""
    network, latency = reference.metrics.get("network_ms"), reference.metrics.get("latency_ms")
    if network is None or latency is None:
        return {}
    return {"network_ms": ratio * network, "latency_ms": ratio * network + max(0.0, latency - network)}


def untrained(recipe: Recipe) -> Recipe:
    """Return the recipe of a network of equal structure that needs no training."""
    steps = [step.named() for one in recipe.steps if (step := one.untrained()) is not None]
    return Recipe.model_validate({**recipe.tree(), "steps": steps})


def _network_ratios(
    context: TrialContext,
    recipe: Recipe,
    tools: Context,
    references: Mapping[str, Record],
    store: StageStore | None,
    instruments: Instruments,
) -> dict[str, float]:
    """Return target → time of a recipe's network as a share of that of the reference's network on it.

    The network is built once, and timed in this process. A share that an earlier trial measured for an equal network on
    the same machine is taken from the store.
    """
    folder = tools.workdir / STAGE
    folder.mkdir(parents=True, exist_ok=True)
    start, tools = InitialArtefactNetwork(context.baseline), tools.in_folder(folder)
    built = instruments.build(start, untrained(recipe), tools, folder / "artefact", store=store)
    ratios = dict[str, float]()
    for name, reference in references.items():
        there, place = replace(tools, target=context.job.targets[name]), folder / f"timing-{name}"
        beside = read_artefact(context.folder / str(reference.artefact))
        key = _timing_key(built.network, built.artefact, beside, there)
        if store is not None and (known := store.read(key, place)) is not None:
            ratios[name] = float(known["ratio"])
            continue
        ratios[name] = _timed(built.artefact, beside, there)
        if store is not None:
            (folder / f"none-{name}").mkdir()
            store.write(key, folder / f"none-{name}", {"ratio": ratios[name]})
    return ratios


def _timing_key(network: nn.Module, artefact: Artefact, beside: Artefact, tools: Context) -> str:
    """Return a hash that networks of equal latency share: layers, operations, quantization, runtime and machine."""
    from paretune.networks.network_files import layers
    from paretune.networks.replacement_layers import replaced

    steps = [step for step in artefact.recipe["steps"] if STEPS.load(next(iter(step))).final]
    structure = [layers(network), replaced(network), artefact.flops, str(artefact.input_size), steps]
    where = [tools.target.tree(), environment(tools.target)["machine"], environment(tools.target)["libraries"]]
    return fingerprint("timing", structure, artefact.runtime, beside.recipe, beside.flops, where)


def _timed(artefact: Artefact, beside: Artefact, tools: Context) -> float:
    """Return the time of one artefact's network as a share of another's, interleaved in this process."""
    import torch

    from paretune.profiling.latency.quick_compare import clock_for, quick_ratio
    from paretune.runtimes.predictor import load_predictor

    threads = torch.get_num_threads()  # a runtime that is torch sets them for the whole process
    image = tools.data.splits["val"].image(0)
    try:
        with shared_device(tools.target.device):
            predictors = [load_predictor(one.folder, tools.target) for one in (artefact, beside)]
            inputs = [predictor.preprocess(image)[0] for predictor in predictors]
        runs = [partial(one.core, given) for one, given in zip(predictors, inputs, strict=True)]
        with exclusive_device(tools.target.device):
            return quick_ratio(runs[0], runs[1], clock=clock_for(tools.target))
    finally:
        torch.set_num_threads(threads)
