"""Points of a conditional space: drawn, changed, and encoded as vectors of fixed length for a model.

A point is a mapping {parameter: value} that holds the parameters of the chosen options only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paretune.search.space import Choices, Fields, Items, Node, Range, Space, parameters_of

Point = Mapping[str, Any]
Floats = NDArray[np.float64]
IMPUTED = 0.5
"""Code of a number whose option is not chosen: the middle of its range."""
NEAR = 0.15
"""Standard deviation of a small change of a number, as a share of its range."""


class ConditionalPoints:
    """The points of a space.

    Args:
        space: whose points.
        random: source of the draws.
    """

    def __init__(self, space: Space, random: np.random.Generator) -> None:
        self._root, self._random = space.root, random
        self._parameters = space.parameters
        self._columns: dict[str, int] = {}
        """Parameter → its first column."""
        self.width = 0
        """Number of columns of the encoding."""
        for name, node in self._parameters.items():
            self._columns[name] = self.width
            self.width += 1 if isinstance(node, Range) or _ranks(node) else len(node.options)

    def draw(self, given: Point | None = None) -> dict[str, Any]:
        """Draw a point evenly, option by option.

        Args:
            given: values that are taken where their parameter is part of the point and the value is valid.
        """
        point: dict[str, Any] = {}
        self._fill(self._root, given or {}, point)
        return point

    def _fill(self, node: Node, given: Point, point: dict[str, Any]) -> None:
        match node:
            case Range():
                usable = node.name in given and node.problem(given[node.name]) is None
                point[node.name] = given[node.name] if usable else value_at(node, float(self._random.random()))
            case Choices():
                usable = node.name in given and node.problem(given[node.name]) is None
                label = given[node.name] if usable else self._label(node)
                point[node.name] = label
                self._fill(node.options[label], given, point)
            case Fields():
                for item in node.items.values():
                    self._fill(item, given, point)
            case Items():
                for item in node.items:
                    self._fill(item, given, point)

    def _label(self, node: Choices) -> Any:
        labels = list(node.options)
        return labels[int(self._random.integers(len(labels)))]

    def changed(self, point: Point, fixed: Point) -> dict[str, Any]:
        """Return a neighbour of a point: one parameter changed, and what depends on it drawn.

        Args:
            point: of the space.
            fixed: values that stay.
        """
        free = [name for name in point if name not in fixed]
        if not free:
            return dict(point)
        name = free[int(self._random.integers(len(free)))]
        node, rest = self._parameters[name], {key: value for key, value in point.items() if key != name}
        if isinstance(node, Choices):
            others = [label for label in node.options if label != point[name]]
            rest[name] = others[int(self._random.integers(len(others)))] if others else point[name]
        else:
            wide = self._random.random() < 0.3
            share = self._random.random() if wide else share_of(node, point[name]) + NEAR * self._random.normal()
            rest[name] = value_at(node, min(1.0, max(0.0, float(share))))
        return self.draw({**rest, **fixed})

    def is_complete(self, point: Point) -> bool:
        """Return whether a point holds valid values of all its parameters and nothing else."""
        return self.draw(point) == dict(point)

    def encoded(self, points: Sequence[Point]) -> Floats:
        """Return points as vectors (N, width).

        A number is its share of the range, on a logarithmic scale if the range has one. A choice between numbers is
        the rank of the number, any other choice has a column for each label that is 1 if it is chosen: it is the flag
        of what depends on the label. Numbers that are not part of the point get the middle of their range.
        """
        codes = np.zeros((len(points), self.width))
        for name, node in self._parameters.items():
            column = self._columns[name]
            ranks = None if isinstance(node, Range) else _ranks(node)
            if isinstance(node, Range) or ranks is not None:
                codes[:, column] = IMPUTED
            places = None if isinstance(node, Range) else {label: place for place, label in enumerate(node.options)}
            for row, point in enumerate(points):
                if name not in point:
                    continue
                if isinstance(node, Range):
                    codes[row, column] = share_of(node, point[name])
                elif ranks is not None:
                    codes[row, column] = ranks.get(point[name], IMPUTED)
                elif places is not None and point[name] in places:
                    codes[row, column + places[point[name]]] = 1.0
        return codes

    @property
    def active(self) -> float:
        """Return the mean number of parameters in the points of an even draw, from a few draws."""
        random, self._random = self._random, np.random.default_rng(0)
        mean = float(np.mean([len(self.draw()) for _ in range(64)]))
        self._random = random
        return mean


def _ranks(node: Choices) -> dict[Any, float] | None:
    """Return the rank of each label, from 0 to 1, if the labels are plain numbers; None if they are not."""
    numbers = [label for label in node.options if isinstance(label, int | float) and not isinstance(label, bool)]
    if len(numbers) < max(2, len(node.options)) or any(True for _ in _below(node)):
        return None
    return {label: place / (len(numbers) - 1) for place, label in enumerate(sorted(numbers))}


def _below(node: Choices) -> Iterable[Range | Choices]:
    for option in node.options.values():
        yield from parameters_of(option)


def share_of(node: Range, value: float) -> float:
    """Return the place of a number in its range, from 0 to 1."""
    if node.low == node.high:
        return IMPUTED
    if node.log:
        return math.log(value / node.low) / math.log(node.high / node.low)
    return (value - node.low) / (node.high - node.low)


def value_at(node: Range, share: float) -> float:
    """Return the valid number of a range that is nearest to a place in it; every step has an equal part."""
    step = node.step or (1 if node.whole else None)
    if node.log:
        value = math.exp(math.log(node.low) + share * math.log(node.high / node.low))
        return min(max(round(value), int(node.low)), int(node.high)) if node.whole else min(value, float(node.high))
    if step is None:
        return node.low + share * (node.high - node.low)
    steps = math.floor((node.high - node.low) / step + 1e-8)
    value = node.low + step * min(steps, math.floor(share * (steps + 1)))
    return int(value) if node.whole else float(f"{value:.12g}")
