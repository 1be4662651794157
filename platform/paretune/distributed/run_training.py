"""Runs a training where its settings say: in this process, or on Ray Train workers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from paretune.training.training_job import TrainingJob
from paretune.training.worker import train_here


def train_order(
    order: TrainingJob, progress: Callable[[str], None] = lambda _: None, *, elsewhere: bool = False
) -> Path:
    """Carry out an order: on Ray Train workers if it asks for several, else in this process.

    Args:
        order: what is trained.
        progress: called with a line after each epoch.
        elsewhere: use Ray for one worker too, since the devices may be on other machines.

    Raises:
        FloatingPointError: the training diverged.
        RuntimeError: workers failed more often than is put up with.
        UserError: a mistake of the user's, or the cluster cannot give what is asked for.
    """
    if not (order.settings.by_ray or elsewhere):
        return train_here(order, progress)
    from paretune.distributed.train_workers import train_with_ray

    return train_with_ray(order, progress)
