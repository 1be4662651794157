"""The learning rate of each step."""

from __future__ import annotations

import math

from paretune.training.settings import Training

FLOOR = 0.01
"""What is left of the learning rate in the end, by the schedules cosine and linear."""


def learning_rate(step: int, steps_per_epoch: int, settings: Training) -> float:
    """Return the learning rate of one step (from 0): a straight rise, then what the schedule says.

    Cosine: Loshchilov and Hutter, "SGDR", arXiv:1608.03983, half a period.
    """
    total = settings.epochs * steps_per_epoch
    warm = min(round(settings.warmup_epochs * steps_per_epoch), total // 2)
    if step < warm:
        return settings.lr * (step + 1) / (warm + 1)
    if settings.schedule == "constant":
        return settings.lr
    if settings.schedule == "step":
        return settings.lr * settings.gamma ** sum(step >= mark * total for mark in settings.milestones)
    progress = min(1.0, (step - warm) / max(1, total - warm))
    left = 1 - progress if settings.schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return settings.lr * (FLOOR + (1 - FLOOR) * left)
