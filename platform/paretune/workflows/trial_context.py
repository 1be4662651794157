"""What the trials of a sweep share, and what the steps of a recipe may use."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
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
from paretune.storage.trial_record import Record, read_record, trial_folder
from paretune.training.settings import Training
from paretune.workflows.recipe_source import RecipeImages
from paretune.workflows.sweep_state import SweepState

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
        """Return a trial's record with its latency on the sweep's present scale."""
        return self._scale.scaled(record)

    @cached_property
    def _scale(self) -> FolderScale:
        return FolderScale(self.folder)

    @cached_property
    def state(self) -> SweepState:
        """The records and rungs of the sweep."""
        return SweepState(self.folder, self.job.search.scheduler)

    def reference(self, number: int) -> Record | None:
        """Return the baseline that a trial is measured beside: the one on ONNX Runtime, else the one in eager.

        Returns:
            Its record; None if neither has an artefact yet, as for trial 0.
        """
        found = (read_record(self.folder, baseline) for baseline in (ONNXRUNTIME, EAGER) if baseline < number)
        return next((record for record in found if record is not None and record.artefact is not None), None)


def context_of(sweep: Sweep) -> TrialContext:
    """Open and return what the trials of a sweep share."""
    data, sharing = sweep.job.dataset.open(sweep.cache), sweep.facts.get("sharing")
    return TrialContext(sweep.job, data, sweep.folder, sweep.baseline, sharing)


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
