"""What the trials of a sweep share, and what the steps of a recipe may use."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from paretune.compression.base import Context
from paretune.config.job import Job
from paretune.config.measuring import Measuring
from paretune.config.output_folder import dataset_cache, store_url
from paretune.config.recipe import Recipe
from paretune.core.baselines import EAGER, ONNXRUNTIME
from paretune.core.target import Target
from paretune.core.types import Data, Thresholds
from paretune.detectors.base import Detector
from paretune.profiling.latency.samples import MeasurementProtocol
from paretune.results.sweep_folder import Sweep
from paretune.search.latency_scale import FolderScale
from paretune.storage.stage_store import StageStore
from paretune.storage.target_records import on_target
from paretune.storage.trial_record import Record, read_record, trial_folder
from paretune.training.settings import Training
from paretune.workflows.like_machines import MACHINES
from paretune.workflows.recipe_source import RecipeImages
from paretune.workflows.sweep_state import SweepState

SHARING = "sharing"
"""Key of a sweep's file, and of the facts of its records: whether trials train beside measurements."""
WARMUP = 0.3
"""Least seconds of a warm-up: every block has its own lead-in, and a duet starts at least six processes."""


@dataclass(frozen=True)
class TrialContext:
    """Job, data and folders of a sweep, as each of its trials uses them."""

    job: Job
    data: Data
    folder: Path
    """Folder of the sweep."""
    baseline: Path
    """Folder of the trained network (safetensors and ``structure.json``)."""
    sharing: Mapping[str, Any] | None = None
    """Whether trials train beside measurements, as the sweep's file has it; None if that was not asked."""
    machines: Mapping[str, Any] | None = None
    """Target → facts of the machine that measures for it, as the sweep's file has it; None on one machine."""
    further: str | None = None
    """Further target whose view this is: its job has that one alone, and its records are as that target has them. None:
    the job has all targets, and the records are those of the first."""

    def on(self, target: str) -> TrialContext:
        """Return what the trials share as one target of the job has it."""
        return self if len(self.job.targets) == 1 else self._views[target]

    @cached_property
    def _views(self) -> dict[str, TrialContext]:
        """Target → view of it; each knows the scale of its latencies, which is read once."""
        first = self.job.target_name
        return {
            name: replace(self, job=self.job.for_target(name), further=None if name == first else name)
            for name in self.job.targets
        }

    def at_home(self, target: str) -> TrialContext:
        """Return what the trials share as a target has it, for steps and evaluation on the trial's own machine."""
        view = self.on(target)
        name, there = view.job.target_name, view.job.target
        here = there.on_this_machine(len(os.sched_getaffinity(0)))
        return view if here == there else replace(view, job=view.job.model_copy(update={"targets": {name: here}}))

    def of_target(self, stem: str) -> str:
        """Return the name of a file of the target: that of the first one is without its name."""
        return stem if self.further is None else f"{stem}-{self.further}"

    @property
    def cache(self) -> Path:
        """Return the folder of generated datasets; the workers of a trial's training open the dataset with it."""
        return dataset_cache(self.folder.parent)

    def stage_store(self, warn: Callable[[str], None]) -> StageStore | None:
        """Return the store of step results; None if the job stores none.

        Args:
            warn: called with a line on each entry that is damaged or cannot be written.
        """
        store = self.job.store
        if not store.max_gib:
            return None
        return StageStore(store_url(self.folder.parent, store.url), int(store.max_gib * 2**30), warn)

    def trial_folder(self, number: int) -> Path:
        """Return the folder of a trial."""
        return trial_folder(self.folder, number)

    def scaled(self, record: Record) -> Record:
        """Return a trial's record, as the target has it, with its latency on the sweep's present scale."""
        return self._scale.scaled(record)

    @cached_property
    def _scale(self) -> FolderScale:
        return FolderScale(self.folder, partial(on_target, target=self.further))

    @cached_property
    def state(self) -> SweepState:
        """The records of the sweep as the target has them, and its rungs."""
        return SweepState(self.folder, self.job.search.scheduler, partial(on_target, target=self.further))

    def reference(self, number: int) -> Record | None:
        """Return the baseline that a trial is measured beside: the one on ONNX Runtime, else the one in eager.

        Returns:
            Its record as the target has it; None if neither has an artefact yet, as for trial 0, or was measured there.
        """
        known = (read_record(self.folder, baseline) for baseline in (ONNXRUNTIME, EAGER) if baseline < number)
        made = (on_target(record, self.further) for record in known if record is not None and record.artefact)
        return next((record for record in made if not record.targets or "duet" in record.facts), None)


def context_of(sweep: Sweep) -> TrialContext:
    """Open and return what the trials of a sweep share."""
    data, facts = sweep.job.dataset.open(sweep.cache), sweep.facts
    return TrialContext(sweep.job, data, sweep.folder, sweep.baseline, facts.get(SHARING), machines=facts.get(MACHINES))


def step_context(
    recipe: Recipe,
    images: RecipeImages,
    data: Data,
    *,
    detector: Detector,
    baseline: Path | None,
    target: Target,
    thresholds: Thresholds,
    workdir: Path,
) -> Context:
    """Return what the steps of a recipe may use, with seed 0 and without progress lines.

    Args:
        recipe: whose runtime will run the result.
        images: to train, calibrate and compare with.
        data: the opened dataset of the images.
        detector: of the network.
        baseline: folder of the uncompressed network; None if it is unknown.
        target: that the result is for.
        thresholds: of the result's postprocessing.
        workdir: folder for files of the steps.
    """
    from paretune.training.loop import pick_device

    return Context(
        detector=detector,
        data=data,
        training=images.training,
        workdir=workdir,
        device=pick_device(images.training.device),
        dataset=images.dataset,
        cache=images.cache,
        baseline=baseline,
        target=target,
        runtime=recipe.runtime,
        thresholds=thresholds,
    )


def with_threads(training: Training) -> Training:
    """Return training settings whose number of threads is fixed.

    The default becomes Ray's share for this trial, or every core that this process may run on, whichever is less. A
    fixed number is needed because evaluation in eager leaves torch with the target's, and two threads on one core
    mostly wait for each other.
    """
    cores = len(os.sched_getaffinity(0))
    share = min(int(os.environ.get("OMP_NUM_THREADS") or cores), cores)
    return training.model_copy(update={"threads": training.threads or share})


def protocol_of(measuring: Measuring = Measuring()) -> MeasurementProtocol:  # noqa: B008 - frozen
    """Return the protocol by which a trial's latency is measured."""
    return MeasurementProtocol(
        repetitions=measuring.repetitions,
        spare=measuring.max_extra_repetitions,
        seconds=measuring.seconds,
        patience=measuring.contention_wait_seconds,
        warmup_seconds=WARMUP,
        block_samples=3,
    )
