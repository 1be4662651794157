"""`training: auto`: choice of the open fields of a job at the start of a training."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from paretune.config.job import AUTO, Job
from paretune.config.output_folder import dataset_cache, expanded
from paretune.core.types import Data, InputSize
from paretune.data.left_out import refuse_gaps
from paretune.training.auto_rules import AutoRules, ChosenField, detector_fields
from paretune.training.settings import Augment

PROBED = Augment(mosaic=0.8, scale=0.4, translate=0.1, colour=0.7)
"""Augmentation while the speed is measured: the most expensive that may be chosen."""

WORTH = 0.8
"""Least speed-up of all threads over one, as a share of the number of cores: on a busy machine threads wait for each
other, and an epoch may take ten times as long."""


def settled(job: Job, say: Callable[[str], None] = print) -> tuple[Job, list[str]]:
    """Return a job whose training and input size are plain fields, and a line for each choice with its reason.

    A job with open fields is trained for some seconds, to measure the speed of this machine.

    Raises:
        UserError: the dataset cannot be opened or lacks a large part of itself, or initial weights are not available.
    """
    if not job.training.auto:
        return job, []
    if job.baseline is not None:  # nothing is trained
        return with_choices(job, []), []
    from paretune.data.statistics import split_statistics
    from paretune.training.loop import pick_device

    data = job.dataset.open(dataset_cache(expanded(job.output)))
    refuse_gaps(data, job.dataset)
    device = pick_device(job.training.device)
    train = split_statistics(data.splits["train"])
    rules = AutoRules(job.detector, job.training, train, len(data.splits["val"]), gpu=device != "cpu")
    if rules.pretrained:
        job.detector.begin(len(data.classes))  # what cannot be fetched is told before anything takes time
    say(f"training: auto, {rules.seconds / 60:g} minutes: looking at {train.images} pictures, and at this machine")
    chosen = list[ChosenField]()
    threads, speed = _threads(job, data, device)
    chosen += threads
    if job.input_size == AUTO:
        size, because = rules.size(speed)
        chosen.append(ChosenField("input_size", str(size), because))
    else:
        size = job.size
    chosen += detector_fields(job.detector, train, size)
    chosen += rules.choices(speed(size))
    lines = [f"{one.field} {_shown(one.value)}: {one.because}" for one in chosen]
    for line in lines:
        say(f"  {line}")
    return with_choices(job, chosen), lines


def with_choices(job: Job, chosen: Sequence[ChosenField]) -> Job:
    """Return a job with the chosen fields, no longer `auto`."""
    tree = job.tree()
    tree["training"] |= {"auto": False, "minutes": None}
    for one in chosen:
        *parents, last = one.field.split(".")
        node = tree
        for key in parents:
            node = node[key]
        node[last] = one.value.tree() if isinstance(one.value, Augment) else one.value
    return Job.model_validate(tree)


def as_begun(job: Job, begun: Job) -> Job:
    """Return a job whose open fields have the values chosen when its training began."""
    if not job.training.auto:
        return job
    tree, chosen = job.tree(), begun.tree()
    given = job.training.model_fields_set - {"auto", "minutes"}
    tree["training"] = {**chosen["training"], **{field: tree["training"][field] for field in given}}
    if job.input_size == AUTO:
        tree["input_size"] = chosen["input_size"]
    name = job.detector.name
    if name == begun.detector.name:
        own = {field: tree["detector"][name][field] for field in job.detector.model_fields_set}
        tree["detector"] = {name: {**chosen["detector"][name], **own}}
    return Job.model_validate(tree)


def _threads(job: Job, data: Data, device: str) -> tuple[list[ChosenField], Callable[[InputSize], float]]:
    """Return the choice of threads, empty if given, and a function that measures the speed with them."""
    from paretune.training.training_speed import seconds_per_image

    settings = job.training
    if "augment" not in settings.model_fields_set:
        settings = settings.model_copy(update={"augment": PROBED})

    def speed(size: InputSize, threads: int = settings.threads) -> float:
        asked = settings.model_copy(update={"threads": threads})
        return seconds_per_image(job.detector, data.splits["train"], size, asked, device)

    cores = len(os.sched_getaffinity(0))
    if device != "cpu" or cores == 1 or "threads" in settings.model_fields_set or settings.workers > 1:
        return [], speed
    probe = job.size
    alone, together = speed(probe, 1), speed(probe, cores)
    best = cores if alone > WORTH * cores * together else 1
    speeds = (
        f"{1 / alone:.0f} pictures a second with 1, {1 / together:.0f} with {cores}, which others slow down far more"
    )
    return [ChosenField("training.threads", best, speeds)], lambda size: speed(size, best)


def _shown(value: Any) -> str:
    if not isinstance(value, Augment):
        return str(value)
    return ", ".join(f"{name} {strength:g}" for name, strength in value.tree().items() if strength)
