"""Runs the parts of a network one by one, and records what each is given."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from paretune.core.model import Model
from paretune.core.types import Floats
from paretune.detectors.base import Detector

if TYPE_CHECKING:
    from torch import nn


def in_eager(part: nn.Module) -> Callable[[Floats], tuple[Floats, ...]]:
    """Return a torch module as a function of arrays."""
    import torch

    def run(batch: Floats) -> tuple[Floats, ...]:
        with torch.no_grad():
            return tuple(tensor.numpy() for tensor in part(torch.from_numpy(batch)))

    return run


def part_inputs(
    detector: Detector,
    parts: Mapping[str, Callable[[Floats], Sequence[Floats]]],
    images: Iterable[Floats],
    model: Model,
) -> dict[str, list[Floats]]:
    """Return what each part of a detector is given for some images, each (1, 3, H, W)."""
    seen: dict[str, list[Floats]] = {name: [] for name in parts}

    def noting(name: str, batch: Floats) -> Sequence[Floats]:
        seen[name].append(batch)
        return parts[name](batch)

    noted = {name: functools.partial(noting, name) for name in parts}
    for image in images:
        detector.run(noted, image, model.input_size)
    return seen
