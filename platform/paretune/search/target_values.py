"""The values of a trial's objectives where each target of a sweep has objectives of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from paretune.core.metrics import Direction


class TargetValues:
    """Returns the values that a sampler gets of a trial, and knows the worst ones so far.

    An objective of a target that cannot run the version counts as the worst known value of that objective. Every
    sampler can model that number, unlike an infinite one, and it adds nothing to a hypervolume; a failed trial would
    hide what the version reaches on the other targets.

    Args:
        objectives: metric → direction.
        targets: objectives of each target that has some of its own; fewer than two leave unknown values unknown.
    """

    def __init__(self, objectives: Mapping[str, Direction], targets: Sequence[Sequence[str]] = ()) -> None:
        self._objectives, self._targets = objectives, targets
        self._worst: dict[str, float] = {}

    def add(self, metrics: Mapping[str, float]) -> None:
        """Take the metrics of a complete trial into the worst known values."""
        for metric, direction in self._objectives.items():
            value = metrics.get(metric, math.nan)
            if math.isfinite(value):
                worse = min if direction == "maximize" else max
                self._worst[metric] = worse(value, self._worst.get(metric, value))

    def filled(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Return metrics with the worst known values of the targets that cannot run a version; as given if none can."""
        known = {name for name, value in metrics.items() if math.isfinite(value)}
        if not any(known.issuperset(names) for names in self._targets):
            return dict(metrics)
        own = {name for names in self._targets for name in names} - known
        return {**metrics, **{name: self._worst[name] for name in own if name in self._worst}}

    def of(self, metrics: Mapping[str, float]) -> list[float | None]:
        """Return the values of a trial's objectives in their order; None for an unknown one."""
        filled = self.filled(metrics)
        return [filled.get(metric) for metric in self._objectives]
