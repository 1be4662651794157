"""One trial: a recipe carried out, evaluated and measured, without Ray, Optuna or MLflow."""

from __future__ import annotations

import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from paretune.config.recipe import Recipe
from paretune.core.baselines import EAGER
from paretune.core.errors import UnfitRuntimeError, UserError
from paretune.core.metrics import computed
from paretune.data.left_out import record_of
from paretune.profiling.energy.measure import Energy, energy, unavailable
from paretune.profiling.latency.duet import Duet, measure_duet
from paretune.profiling.latency.shared_images import measuring_images
from paretune.storage.artefact import Artefact
from paretune.storage.trial_record import KEPT, RUNTIME_UNAVAILABLE, Record, write_record
from paretune.system.device_lock import shared_device
from paretune.workflows.build_artefact import TRAINED, BuildResult, InitialArtefactNetwork, build, kept_of
from paretune.workflows.recipe_source import RecipeImages
from paretune.workflows.trial_context import TrialContext, protocol_of, step_context, with_threads

if TYPE_CHECKING:
    from pathlib import Path

    from paretune.evaluation import Accuracy
    from paretune.evaluation.baseline_difference import AccuracyDifference
    from paretune.verification.parity import Parity


@dataclass(frozen=True)
class Instruments:
    """The functions that build and measure a trial's artefact; tests replace them."""

    build: Callable[..., BuildResult] = build
    duet: Callable[..., Duet] = measure_duet
    energy: Callable[..., Energy] = energy
    clock: Callable[[], float] = time.monotonic
    """Seconds since any moment."""


@dataclass
class _Stages:
    """Stopwatch of a trial's stages."""

    clock: Callable[[], float]
    seconds: dict[str, float] = field(default_factory=dict)
    """Stage → seconds."""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = self.clock()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0) + self.clock() - start, 3)


def run(
    context: TrialContext,
    number: int,
    recipe: Recipe,
    *,
    origin: str,
    progress: Callable[[str], None] = lambda _: None,
    instruments: Instruments = Instruments(),
) -> Record:
    """Build, evaluate and measure one recipe, and write its record, whether or not that succeeds.

    Args:
        context: of the sweep.
        number: of the trial.
        recipe: to carry out.
        origin: source of the recipe, as ``Record.origin`` describes it.
        progress: called with a line for each stage and epoch.
        instruments: functions that build and measure.

    Returns:
        The record; its ``state`` is "failed", and ``failure`` the reason, if anything went wrong.
    """
    started, stages = time.time(), _Stages(instruments.clock)
    identity = (number, recipe.tree(), recipe.params(), origin)
    folder = context.trial_folder(number)
    try:
        result = _carry_out(context, number, recipe, stages, progress, instruments)
    except Exception as error:  # noqa: BLE001 - a trial may fail in any way, and the sweep goes on
        folder.mkdir(parents=True, exist_ok=True)
        kept = kept_of(folder)
        hint = f"\nwhat was made until then is kept, for `paretune optimize` to go on from: {kept}\n" if kept else ""
        (folder / "failure.txt").write_text(traceback.format_exc() + hint)
        kind = "UserError" if isinstance(error, UserError) else type(error).__name__
        failure = f"{kind}: {error}".strip()
        facts: dict[str, Any] = {RUNTIME_UNAVAILABLE: True} if isinstance(error, UnfitRuntimeError) else {}
        facts |= {KEPT: str(kept.relative_to(context.folder))} if kept else {}
        record = Record.failed(*identity, failure, started=started, seconds=stages.seconds, facts=facts)
    else:
        record = context.scaled(Record.complete(*identity, started=started, seconds=stages.seconds, **result))
        values, reasons = computed(record.metrics, record.facts)
        record = replace(record, metrics={**values, **record.metrics}, reasons={**record.reasons, **reasons})
        shutil.rmtree(folder / TRAINED, ignore_errors=True)  # of an attempt that failed
    write_record(context.folder, record)
    shutil.rmtree(folder / "work", ignore_errors=True)  # the artefact holds what is of use
    return record


def _carry_out(
    context: TrialContext,
    number: int,
    recipe: Recipe,
    stages: _Stages,
    progress: Callable[[str], None],
    instruments: Instruments,
) -> dict[str, Any]:
    """Return the fields of a complete trial's record."""
    built = _build(context, number, recipe, stages, progress, instruments)
    with stages.stage("evaluate"):
        progress("evaluating")
        parity, accuracy, change, limit_notes = _evaluate(context, number, built)
    with stages.stage("measure"):
        progress("measuring")
        duet, reference = _measure(context, number, built.artefact, instruments)
    with stages.stage("energy"):
        used = _energy(context, built.artefact, instruments)
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
    stages: _Stages,
    progress: Callable[[str], None],
    instruments: Instruments,
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
    tools = replace(tools, seed=job.search.seed, progress=progress)
    start, keep = InitialArtefactNetwork(context.baseline), folder / TRAINED
    return instruments.build(start, recipe, tools, folder / "artefact", stages.stage, idle=False, keep=keep)


def _evaluate(
    context: TrialContext, number: int, built: BuildResult
) -> tuple[Parity, Accuracy, AccuracyDifference, list[str]]:
    """Evaluate the artefact on its runtime over ``val``, after checking it against the network it was made from.

    Returns:
        Parity, accuracy, difference to the eager baseline, and a note for each limit of boxes that was reached.
    """
    from paretune.evaluation.accuracy import detect
    from paretune.evaluation.baseline_difference import DETECTIONS, evaluate_beside
    from paretune.evaluation.results_explanations import most_kept
    from paretune.runtimes.predictor import load_predictor
    from paretune.verification.parity import verify

    target, val = context.job.target, context.data.splits["val"]
    with shared_device(target.device):
        predictor = load_predictor(built.artefact.folder, target)
        detections = detect(predictor, val)
        parity = verify(predictor, built.network, val, changed=built.changed, found=detections)
        before, kept = context.trial_folder(EAGER) / DETECTIONS, built.artefact.thresholds
        notes = most_kept(detections, kept.detections, [val.annotations(index) for index in range(len(val))])
        return parity, *evaluate_beside(detections, val, before, first=number == EAGER, limit=kept.limit), notes


def _measure(
    context: TrialContext, number: int, artefact: Artefact, instruments: Instruments = Instruments()
) -> tuple[Duet, int]:
    """Measure the artefact in a duet with the sweep's reference, alone on the target, and keep the raw samples.

    Returns:
        The duet, and the trial whose artefact is the reference: the artefact's own if there is none yet.
    """
    images = measuring_images(context.data.splits["val"])
    reference = context.reference(number)
    beside = None if reference is None else context.folder / str(reference.artefact)
    protocol = protocol_of(context.job.measuring)
    duet = instruments.duet(artefact.folder, beside, images, context.job.target, protocol)
    duet.save_samples(context.trial_folder(number) / "samples.npz")
    return duet, number if reference is None else reference.number


def _energy(context: TrialContext, artefact: Artefact, instruments: Instruments) -> Energy:
    """Measure the energy of an inference of the artefact, if the job asks for it."""
    if not (seconds := context.job.measuring.energy):
        return unavailable("it is not taken: measuring.energy is 0")
    images = measuring_images(context.data.splits["val"])
    return instruments.energy(artefact.folder, images, context.job.target, seconds=seconds)


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
