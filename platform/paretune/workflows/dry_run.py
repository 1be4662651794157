"""What a sweep would run, and about how long it would take; nothing is written."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, median, pstdev
from tempfile import TemporaryDirectory

from paretune.compression.finetune import Finetune
from paretune.compression.prune.step import Prune
from paretune.config.job import Job
from paretune.config.plan import Plan
from paretune.config.recipe import Recipe
from paretune.core.baselines import BASELINES
from paretune.core.target import Target
from paretune.core.types import Data, InputSize
from paretune.profiling.energy import measure as energy
from paretune.results.sweep_cost import (
    NOTHING,
    PlannedTrials,
    Span,
    SweepEstimate,
    SweepTimes,
    earlier_sweep,
    estimate,
    times_of,
)
from paretune.results.sweep_folder import output_folder
from paretune.search.space import Choices, PointWalk, Range, Scalar, Space
from paretune.system.device_lock import shared_device
from paretune.workflows.baseline import first_recipes

DRAWN = 64
"""Recipes drawn from the space for the mean of their training epochs."""
STARTING = 3.0
"""Seconds in which a process that measures loads its runtime and the artefact, on the machines of our own tests."""
UNSURE = 2.0
"""Factor by which times from a probe may be wrong on either side."""
INFERENCES = 5
"""Timed inferences of the probe."""


def _evenly(drawn: random.Random) -> Callable[[Range | Choices], float | Scalar]:
    """Return the function that draws a value of a parameter evenly."""

    def value(space: Range | Choices) -> float | Scalar:
        if isinstance(space, Choices):
            return drawn.choice(list(space.options))
        if space.whole:
            return drawn.randrange(int(space.low), int(space.high) + 1, int(space.step or 1))
        if space.step is not None:
            return space.low + space.step * drawn.randint(0, int((space.high - space.low) / space.step + 1e-9))
        return drawn.uniform(space.low, space.high)

    return value


def dry_run(plan: Plan, say: Callable[[str], None]) -> SweepEstimate:
    """Return what a sweep would run and an estimate of its time.

    The times are those of an earlier sweep in the output folder, if one has the job's dataset, detector, input size and
    target. Otherwise they follow from a probe: some steps of the training and some inferences.

    Args:
        plan: job and space.
        say: prints a line.

    Raises:
        UserError: the data cannot be opened for the probe.
    """
    job, runs = plan.job, output_folder(plan.job)
    trials = planned_trials(job, plan.space)
    sweep = earlier_sweep(runs, job)
    if sweep is not None:
        return estimate(job, trials, times_of(sweep, job))
    say("no earlier sweep has this dataset, detector, input size and target: probing training and inference")
    return estimate(job, trials, probed_times(job, expected_recipes(job, plan.space, trials)))


def planned_trials(job: Job, space: Space) -> PlannedTrials:
    """Return how many trials of a job come from where; a budget below the first points leaves none to the sampler."""
    left = job.search.trials - len(BASELINES)
    first = min(left, len(first_recipes(job, space)) - len(BASELINES))
    enqueued = min(left - first, len(space.first))
    return PlannedTrials(len(BASELINES), first, enqueued, left - first - enqueued)


def expected_recipes(job: Job, space: Space, trials: PlannedTrials) -> list[tuple[Recipe, float]]:
    """Return the recipes that a sweep is expected to try after the baselines, each with its number of trials.

    Recipes that a sampler would propose are drawn evenly from the space and share the number of its trials.
    """
    evenly = _evenly(random.Random(0))
    first = [Recipe.model_validate(tree) for tree, _ in first_recipes(job, space)[len(BASELINES) :][: trials.first]]
    points = [PointWalk(point, evenly) for point in space.first[: trials.enqueued]]
    fixed = [*first, *(Recipe.model_validate(space.sample(chooser).value) for chooser in points)]
    count = DRAWN if trials.sampled else 0
    sampled = [Recipe.model_validate(space.sample(PointWalk({}, evenly)).value) for _ in range(count)]
    return [*((recipe, 1.0) for recipe in fixed), *((recipe, trials.sampled / count) for recipe in sampled)]


def training_epochs(recipe: Recipe) -> float:
    """Return the epochs that a recipe's steps train for, early ends not considered."""
    epochs = 0.0
    for step in recipe.steps:
        if isinstance(step, Finetune):
            epochs += step.epochs
        if isinstance(step, Prune) and step.trains:
            epochs += step.learn_sparsity + (step.rounds - 1) * step.round_epochs
    return epochs


def probed_times(job: Job, expected: Sequence[tuple[Recipe, float]]) -> SweepTimes:
    """Return durations from a short probe on this machine.

    Args:
        job: to estimate.
        expected: recipes after the baselines, each with its number of trials.

    Raises:
        UserError: the data cannot be opened.
    """
    with TemporaryDirectory() as folder:
        data = job.dataset.open(Path(folder))
        epochs = [training_epochs(recipe) for recipe, _ in expected]
        trains = job.baseline is None or any(epochs)
        each = _training_seconds(job, data) if trains else 0.0
        inference = _inference_seconds(job, len(data.classes))
    images = {name: len(split) for name, split in data.splits.items()}
    weights = [weight for _, weight in expected] or [1.0]
    shares = [_pixels(recipe.size) / _pixels(job.size) for recipe, _ in expected]
    tuning = [each * images["train"] * count * share for count, share in zip(epochs, shares, strict=True)] or [0.0]
    tuned = fmean(tuning, weights)
    targets = job.targets.values()
    counters = sum(energy.unsupported_reason(target) is None for target in targets if job.measuring.energy_seconds)
    fixed = {
        "evaluate": images["val"] * inference,
        "measure": len(targets) * job.measuring.repetitions * 2 * (STARTING + job.measuring.seconds),
        "energy": 2 * job.measuring.energy_seconds * counters,
    }
    likely = tuned + sum(fixed.values())
    training = 0.0
    if job.baseline is None:
        training = 60 * (job.training.minutes or 10.0) if job.training.auto else _whole(job, each, images["train"])
    comparison = len(targets) * job.measuring.rounds * 6 * (STARTING + job.measuring.seconds)
    return SweepTimes(
        source=f"a probe on this machine: {1e3 * each:.3g} ms for a training image, {1e3 * inference:.3g} ms for an "
        f"inference in eager PyTorch",
        training=_unsure(training),
        baseline=_unsure(sum(fixed.values())),
        trial=_unsure(likely),
        spread=pstdev(tuning),
        comparison=_unsure(comparison),
        stages={**({"training steps": tuned} if any(epochs) else {}), **fixed},
        notes=_doubts(job, fmean(epochs, weights) if epochs else 0.0),
    )


def _whole(job: Job, each: float, images: int) -> float:
    """Return the seconds of the training of the baseline."""
    return each * images * job.training.epochs


def _doubts(job: Job, epochs: float) -> tuple[str, ...]:
    """Return what a probe cannot know.

    Args:
        job: to estimate.
        epochs: expected epochs of a trial.
    """
    notes = [f"a probe may be wrong by a factor of {UNSURE:g}; export, quantization and the other steps are not in it"]
    notes.append("evaluation is counted at the speed of eager PyTorch, and exported networks are faster")
    if epochs:
        notes.append(f"{epochs:.1f} epochs of fine-tuning are expected of a trial, from first points and random draws")
    if job.training.auto:
        notes.append("training: auto chooses its settings at the start; the probe used those of the job")
    if job.search.concurrent > 1:
        notes.append("trials at the same time may save up to that factor, which is not in the estimate")
    return tuple(notes)


def _unsure(seconds: float) -> Span:
    return Span(seconds / UNSURE, seconds, seconds * UNSURE) if seconds else NOTHING


def _pixels(size: InputSize) -> int:
    return size.width * size.height


def _training_seconds(job: Job, data: Data) -> float:
    """Return the seconds of the job's training for one image."""
    from paretune.training.loop import pick_device
    from paretune.training.training_speed import seconds_per_image

    device = pick_device(job.training.device)
    return seconds_per_image(job.detector, data.splits["train"], job.size, job.training, device)


def _inference_seconds(job: Job, classes: int) -> float:
    """Return the median seconds of an inference of the unchanged network in eager PyTorch, with new weights."""
    import torch

    target = next((target for target in job.targets.values() if not target.elsewhere), Target())
    device, before = target.device, torch.get_num_threads()
    with shared_device(device), torch.random.fork_rng(), torch.inference_mode():
        try:
            torch.set_num_threads(target.threads)
            network = job.detector.build(classes).eval().to(device)
            image = torch.zeros(1, 3, job.size.height, job.size.width, device=device)
            times = []
            for _ in range(INFERENCES + 1):
                began = time.monotonic()
                network(image)
                if device == "cuda":
                    torch.cuda.synchronize()
                times.append(time.monotonic() - began)
        finally:
            torch.set_num_threads(before)
    return median(times[1:])
