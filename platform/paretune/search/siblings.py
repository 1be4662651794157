"""Siblings of a trial: the same trained network on the other runtimes and precisions of the space.

With the stage store a sibling costs its export, evaluation and measurement, and none of the training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from paretune.search.pareto_front import Objective, pareto_front
from paretune.search.space import Choices, Scalar, Space
from paretune.storage.trial_record import Record


class Siblings:
    """Chooses the siblings of trials that are on the front.

    Args:
        space: whose ``deploy``, or else ``runtime``, is what siblings differ in.
        objectives: of the front.
        most: siblings of one trial.
    """

    def __init__(self, space: Space, objectives: Sequence[Objective], most: int) -> None:
        self._deployment: Choices | None = space.deployment
        self._objectives, self._most = objectives, most
        self._chosen: dict[int, Scalar] = {}
        """Trial → its option of the deployment."""

    def note(self, number: int, params: Mapping[str, Any]) -> None:
        """Note the parameters of a trial."""
        if self._deployment is not None and self._deployment.name in params:
            self._chosen[number] = params[self._deployment.name]

    def of(self, record: Record, params: Mapping[str, Any], feasible: Sequence[Record]) -> list[dict[str, Any]]:
        """Return the parameters of the siblings to try of a trial, the likeliest cheapest first.

        Args:
            record: of the trial, whose training is stored.
            params: of the trial.
            feasible: complete records that keep the constraints.

        Returns:
            Nothing unless the trial is on the front of the feasible records. Parameters below an option that the trial
            did not take are left to the sampler.
        """
        if self._deployment is None or not self._most or record.number not in self._chosen:
            return []
        front = pareto_front([one.metrics for one in feasible], self._objectives)
        if record.number not in {feasible[index].number for index in front}:
            return []
        name = self._deployment.name
        shared = {key: value for key, value in params.items() if key != name and not key.startswith(f"{name}.")}
        others = [label for label in self._deployment.options if label != params[name]]
        others.sort(key=lambda label: self._cost(label, feasible))
        return [{**shared, name: label} for label in others[: self._most]]

    def _cost(self, label: Scalar, feasible: Sequence[Record]) -> float:
        """Return the median cost of the versions with an option; below all others for one that was never tried."""
        cost = next((one for one in self._objectives if one.direction == "minimize"), self._objectives[0])
        values = [-cost.gain(one.metrics) for one in feasible if self._chosen.get(one.number) == label]
        known = [value for value in values if math.isfinite(value)]
        return median(known) if known else -math.inf
