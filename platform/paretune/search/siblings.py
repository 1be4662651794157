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
    """Chooses the siblings of trials that are on the front; what a trial costs does not grow with their number.

    Args:
        space: whose ``deploy``, or else ``runtime``, is what siblings differ in.
        objectives: of the front.
        most: siblings of one trial.
    """

    def __init__(self, space: Space, objectives: Sequence[Objective], most: int) -> None:
        self._deployment: Choices | None = space.deployment if most else None
        self._objectives, self._most = objectives, most
        self._cost = next((one for one in objectives if one.direction == "minimize"), objectives[0])
        self._chosen: dict[int, Scalar] = {}
        """Trial → its option of the deployment."""
        self._costs: dict[Scalar, list[float]] = {}
        """Option of the deployment → costs of the versions with it."""
        self._front: list[Record] = []
        self._points: set[frozenset[tuple[str, Any]]] = set()
        """Parameters of known trials, and of untried siblings that were returned."""

    def note(self, number: int, params: Mapping[str, Any]) -> None:
        """Note the parameters of a trial, before its record."""
        self._points.add(frozenset(params.items()))
        if self._deployment is not None and self._deployment.name in params:
            self._chosen[number] = params[self._deployment.name]

    def add(self, record: Record) -> None:
        """Add a complete record that keeps the constraints."""
        if self._deployment is None:
            return
        cost = -self._cost.gain(record.metrics)
        if record.number in self._chosen and math.isfinite(cost):
            self._costs.setdefault(self._chosen[record.number], []).append(cost)
        points = [*self._front, record]
        self._front = [points[index] for index in pareto_front([one.metrics for one in points], self._objectives)]

    def of(self, record: Record, params: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the parameters of the siblings to try of a trial, the likeliest cheapest first.

        Args:
            record: of the trial, whose training is stored.
            params: of the trial.

        Returns:
            Nothing unless the trial was added and is on the front. Parameters below an option that the trial did not
            take are left to the sampler.
        """
        if self._deployment is None or record.number not in self._chosen:
            return []
        if all(one.number != record.number for one in self._front):
            return []
        name = self._deployment.name
        shared = {key: value for key, value in params.items() if key != name and not key.startswith(f"{name}.")}
        others = [label for label in self._deployment.options if label != params[name]]
        others.sort(key=lambda label: median(self._costs[label]) if label in self._costs else -math.inf)
        return [{**shared, name: label} for label in others[: self._most]]

    def untried(self, points: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return the points that no known trial has, and that were not returned before."""
        new = {frozenset(point.items()): dict(point) for point in points}
        found = [point for key, point in new.items() if key not in self._points]
        self._points.update(new)
        return found
