"""One trial: a recipe carried out, evaluated and measured. Knows neither Ray nor Optuna nor MLflow."""

from __future__ import annotations

import os
import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paretune.compression.base import Context
from paretune.config.recipe import Recipe
from paretune.core.errors import UnfitRuntimeError, UserError
from paretune.data.left_out import record_of
from paretune.profiling.latency.shared_images import measuring_images
from paretune.storage.artefact import Artefact
from paretune.storage.trial_record import KEPT, UNFIT, Record, write_record
from paretune.system.device_lock import shared_device
from paretune.workflows.build_artefact import TRAINED, BuildResult, InitialArtefactNetwork, build, kept_of
from paretune.workflows.trial_context import TrialContext, protocol_of

if TYPE_CHECKING:
    from paretune.evaluation import Accuracy
    from paretune.evaluation.baseline_difference import AccuracyDifference
    from paretune.profiling.energy.measure import Energy
    from paretune.profiling.latency.duet import Duet
    from paretune.verification.parity import Parity


@dataclass
class _Clock:
    """Seconds spent in each stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0) + time.monotonic() - start, 3)


def run(
    bench: TrialContext, number: int, recipe: Recipe, *, origin: str, progress: Callable[[str], None] = lambda _: None
) -> Record:
    """Build, evaluate and measure one recipe, and write the record of it, also when that fails.

    Returns:
        The record; ``state`` is "failed", with the reason, when anything went wrong.
    """
    started, clock = time.time(), _Clock()
    what = (number, recipe.tree(), recipe.params(), origin)
    try:
        result = _carry_out(bench, number, recipe, clock, progress)
    except Exception as error:  # noqa: BLE001 - a trial may fail in any way, and the sweep goes on
        folder = bench.trial_folder(number)
        folder.mkdir(parents=True, exist_ok=True)
        kept = kept_of(folder)
        told = f"\nwhat was made until then is kept, for `paretune optimize` to go on from: {kept}\n" if kept else ""
        (folder / "failure.txt").write_text(traceback.format_exc() + told)
        kind = "UserError" if isinstance(error, UserError) else type(error).__name__
        failure = f"{kind}: {error}".strip()
        facts: dict[str, Any] = {UNFIT: True} if isinstance(error, UnfitRuntimeError) else {}
        facts |= {KEPT: str(kept.relative_to(bench.folder))} if kept else {}
        record = Record.failed(*what, failure, started=started, seconds=clock.seconds, facts=facts)
    else:
        record = bench.scaled(Record.complete(*what, started=started, seconds=clock.seconds, **result))
        shutil.rmtree(bench.trial_folder(number) / TRAINED, ignore_errors=True)  # of an attempt that failed
    write_record(bench.folder, record)
    shutil.rmtree(bench.trial_folder(number) / "work", ignore_errors=True)  # the artefact holds what is of use
    return record


def _carry_out(
    bench: TrialContext, number: int, recipe: Recipe, clock: _Clock, progress: Callable[[str], None]
) -> dict[str, Any]:
    built = _build(bench, number, recipe, clock, progress)
    artefact = built.artefact
    with clock.stage("evaluate"):
        progress("evaluating")
        parity, accuracy, change, full = _evaluate(bench, number, built)
    with clock.stage("measure"):
        progress("measuring")
        duet, reference = _measure(bench, number, artefact)
    with clock.stage("energy"):
        used = _energy(bench, artefact)
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
    facts = {"duet": {"reference": reference, **duet.facts}, "energy": used.source}
    facts["left_out"] = record_of(bench.data)["left_out"]
    return {
        "metrics": {name: float(value) for name, value in metrics.items() if value is not None},
        "reasons": {**accuracy.reasons, **change.reasons, **duet.reasons, **used.reasons},
        "notes": (*artefact.notes, *full, *duet.notes, *(f"energy: {note}" for note in used.notes)),
        "artefact": str(artefact.folder.relative_to(bench.folder)),
        "facts": {**duet.latency.facts, **facts},
    }


def _build(
    bench: TrialContext, number: int, recipe: Recipe, clock: _Clock, progress: Callable[[str], None]
) -> BuildResult:
    """Take the baseline through the recipe's steps and write the artefact."""
    from paretune.training.loop import pick_device

    job = bench.job
    if problem := recipe.runtime.unsupported_reason(job.target):
        raise UnfitRuntimeError(problem)
    place = bench.trial_folder(number)
    (workdir := place / "work").mkdir(parents=True, exist_ok=True)
    context = Context(
        detector=job.detector,
        data=bench.data,
        training=job.training.model_copy(update={"threads": job.training.threads or _threads()}),
        workdir=workdir,
        seed=job.search.seed,
        device=pick_device(job.training.device),
        progress=progress,
        dataset=job.dataset,
        cache=bench.cache,
        baseline=bench.baseline,
        target=job.target,
        runtime=recipe.runtime,
        thresholds=job.thresholds.thresholds,
    )
    start, keep = InitialArtefactNetwork(bench.baseline), place / TRAINED
    return build(start, recipe, context, place / "artefact", clock.stage, idle=False, keep=keep)


def _threads() -> int:
    """Return the threads to train with: the share of the machine that Ray gives this trial, else every core.

    Said explicitly, since evaluating on eager leaves torch with the target's number. Never more than the cores this
    process may run on: Ray promises the machine's, and two threads on one core mostly wait for each other.
    """
    there = len(os.sched_getaffinity(0))
    return min(int(os.environ.get("OMP_NUM_THREADS") or there), there)


def _evaluate(
    bench: TrialContext, number: int, built: BuildResult
) -> tuple[Parity, Accuracy, AccuracyDifference, list[str]]:
    """Evaluate the artefact on its runtime over the validation split, once it is found to be what it was made from."""
    from paretune.evaluation.accuracy import detect
    from paretune.evaluation.baseline_difference import DETECTIONS, evaluate_beside
    from paretune.evaluation.results_explanations import most_kept
    from paretune.runtimes.predictor import load_predictor
    from paretune.verification.parity import verify

    target, val = bench.job.target, bench.data.splits["val"]
    with shared_device(target.device):
        predictor = load_predictor(built.artefact.folder, target)
        found = detect(predictor, val)
        parity = verify(predictor, built.network, val, changed=built.changed, found=found)
        before, kept = bench.trial_folder(0) / DETECTIONS, built.artefact.thresholds
        told = most_kept(found, kept.detections, [val.annotations(index) for index in range(len(val))])
        return parity, *evaluate_beside(found, val, before, first=number == 0, limit=kept.limit), told


def _measure(bench: TrialContext, number: int, artefact: Artefact) -> tuple[Duet, int]:
    """Measure the artefact in a duet with the sweep's reference, alone on the target; raw samples are kept beside it.

    Returns:
        The duet, and the trial whose artefact is the reference: the artefact's own where there is none yet.
    """
    from paretune.profiling.latency.duet import measure_duet

    images = measuring_images(bench.data.splits["val"])
    reference = bench.reference(number)
    beside = None if reference is None else bench.folder / str(reference.artefact)
    duet = measure_duet(artefact.folder, beside, images, bench.job.target, protocol_of(bench.job.measuring))
    duet.save_samples(bench.trial_folder(number) / "samples.npz")
    return duet, number if reference is None else reference.number


def not_run(folder: Path, proposal: Mapping[str, Any], why: str) -> Record:
    """Write the record of a trial that did not come to run: that it failed."""
    recipe = Recipe.model_validate(proposal["recipe"])
    record = Record.failed(proposal["number"], recipe.tree(), recipe.params(), proposal["origin"], why)
    write_record(folder, record)
    return record


def _energy(bench: TrialContext, artefact: Artefact) -> Energy:
    """Take what an inference of the artefact costs, where the device tells."""
    from paretune.profiling.energy.measure import energy, unavailable

    if not (seconds := bench.job.measuring.energy):
        return unavailable("it is not taken: measuring.energy is 0")
    return energy(artefact.folder, measuring_images(bench.data.splits["val"]), bench.job.target, seconds=seconds)
