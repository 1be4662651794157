"""Runs a training in this process or on Ray Train workers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from paretune.training.history import TrainingStep, no_step
from paretune.training.training_job import TrainingJob
from paretune.training.worker import train_here


def train_order(
    order: TrainingJob,
    progress: Callable[[str], None] = lambda _: None,
    on_step: Callable[[TrainingStep], None] = no_step,
    *,
    elsewhere: bool = False,
) -> Path:
    """Run a training: on Ray Train workers if it has several, else in this process.

    Args:
        order: the training.
        progress: called with a line after each epoch.
        on_step: called after each step, or, of a training on Ray workers, after each epoch.
        elsewhere: whether to use Ray for one worker too, since the devices may be on other machines.

    Raises:
        FloatingPointError: the training diverged.
        RuntimeError: workers failed too often.
        UserError: a mistake of the user, or the cluster lacks the resources.
    """
    if not (order.settings.by_ray or elsewhere):
        return train_here(order, progress, on_step)
    from paretune.distributed.train_workers import train_with_ray

    return train_with_ray(order, progress, on_step)
