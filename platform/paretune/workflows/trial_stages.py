"""The stages of a trial after its artefact is built: evaluation, latency, energy."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from paretune.core.baselines import EAGER
from paretune.profiling.energy.measure import Energy, energy, unavailable
from paretune.profiling.latency.duet import Duet, measure_duet
from paretune.profiling.latency.shared_images import measuring_images
from paretune.profiling.latency.worker_client import MeasuringKilled
from paretune.storage.artefact import Artefact
from paretune.storage.target_records import TargetFigures
from paretune.system.device_lock import shared_device
from paretune.workflows.build_artefact import BuildResult, build
from paretune.workflows.trial_context import TrialContext, protocol_of

if TYPE_CHECKING:
    from paretune.evaluation import Accuracy
    from paretune.evaluation.baseline_difference import AccuracyDifference
    from paretune.verification.parity import Parity


Counter = Callable[[int, int], None]
"""Function that is called with the number of images or rounds that are done, and of all."""


def no_count(_done: int, _of: int) -> None:
    """Ignore a count."""


@dataclass(frozen=True)
class Instruments:
    """The functions that build and measure a trial's artefact; tests replace them."""

    build: Callable[..., BuildResult] = build
    duet: Callable[..., Duet] = measure_duet
    energy: Callable[..., Energy] = energy
    elsewhere: Callable[[TrialContext, int, str], TargetFigures] | None = None
    """Function of context, trial and target that measures on another node; None is that of Ray's clusters."""
    clock: Callable[[], float] = time.monotonic
    """Seconds since any moment."""


def evaluate(
    context: TrialContext, number: int, built: BuildResult, count: Counter = no_count
) -> tuple[Parity, Accuracy, AccuracyDifference, list[str]]:
    """Evaluate the artefact on its runtime over ``val``, after checking it against the network it was made from.

    Args:
        context: of the sweep.
        number: of the trial.
        built: the artefact.
        count: called after each image with the number done and the number of all.

    Returns:
        Parity, accuracy, difference to the eager baseline, and a note for each limit of boxes that was reached.

    Small pictures of the worst images are kept in the trial's folder.
    """
    from paretune.evaluation.accuracy import detect
    from paretune.evaluation.baseline_difference import DETECTIONS, evaluate_beside
    from paretune.evaluation.results_explanations import most_kept
    from paretune.evaluation.worst_images import PICTURES, keep_worst_pictures
    from paretune.runtimes.predictor import load_predictor
    from paretune.verification.parity import verify

    target, val = context.job.target, context.data.splits["val"]
    with shared_device(target.device):
        predictor = load_predictor(built.artefact.folder, target)
        detections = detect(predictor, val, count)
        parity = verify(predictor, built.network, val, changed=built.changed, found=detections)
        before, kept = context.trial_folder(EAGER) / DETECTIONS, built.artefact.thresholds
        notes = most_kept(detections, kept.detections, [val.annotations(index) for index in range(len(val))])
        accuracy, change = evaluate_beside(detections, val, before, first=number == EAGER, limit=kept.limit)
        keep_worst_pictures(context.trial_folder(number) / PICTURES, accuracy, detections, val)
        return parity, accuracy, change, notes


def measure(
    context: TrialContext,
    number: int,
    artefact: Artefact,
    instruments: Instruments = Instruments(),
    count: Counter = no_count,
) -> tuple[Duet, int]:
    """Measure the artefact in a duet with the sweep's reference, alone on the target, and keep the raw samples.

    A duet whose process was killed is measured again from its beginning, at most ``search.retries`` times.

    Args:
        context: as the target has it.
        number: of the trial.
        artefact: to measure.
        instruments: functions that measure.
        count: called before each round with the number done and the number of all.

    Returns:
        The duet, and the trial whose artefact is the reference: the artefact's own if there is none yet.
    """
    images = measuring_images(context.data.splits["val"])
    reference = context.reference(number)
    beside = None if reference is None else context.folder / str(reference.artefact)
    protocol = protocol_of(context.job.measuring)
    for left in reversed(range(context.job.search.retries + 1)):
        try:
            duet = instruments.duet(artefact.folder, beside, images, context.job.target, protocol, count=count)
            break
        except MeasuringKilled:
            if not left:
                raise
    duet.save_samples(context.trial_folder(number) / f"{context.of_target('samples')}.npz")
    return duet, number if reference is None else reference.number


def measure_energy(context: TrialContext, artefact: Artefact, instruments: Instruments) -> Energy:
    """Measure the energy of an inference of the artefact, if the job asks for it."""
    if not (seconds := context.job.measuring.energy_seconds):
        return unavailable("it is not taken: measuring.energy_seconds is 0")
    images = measuring_images(context.data.splits["val"])
    return instruments.energy(artefact.folder, images, context.job.target, seconds=seconds)
