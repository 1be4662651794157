"""The point of a space from which a known recipe is drawn, and the order in which known recipes are worth trying."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from paretune.search.optuna_chooser import recipe_key
from paretune.search.pareto_front import Objective, hypervolume
from paretune.search.space import Choices, Range, Scalar, Space

MOST_TRIED = 256
"""Points of the space that are compared with one recipe."""


class _Open(Exception):  # noqa: N818 - a branch of the search, no error
    """Raised where a point lacks a parameter; ``options`` are its values to try."""

    def __init__(self, name: str, options: Sequence[Scalar]) -> None:
        super().__init__(name)
        self.name, self.options = name, options


class _Partial:
    """A chooser that takes known values where they are valid, and raises at the first parameter without one."""

    def __init__(self, known: Mapping[str, Any]) -> None:
        self._known = known
        self.point: dict[str, Any] = {}

    def number(self, space: Range) -> float:
        return float(self._value(space, ())) if not space.whole else int(self._value(space, ()))

    def option(self, space: Choices) -> Scalar:
        label: Scalar = self._value(space, list(space.options))
        return label

    def _value(self, space: Range | Choices, options: Sequence[Scalar]) -> Any:
        if space.name not in self._known or space.problem(self._known[space.name]) is not None:
            raise _Open(space.name, options)
        self.point[space.name] = self._known[space.name]
        return self.point[space.name]


def point_of(
    space: Space,
    recipe: Mapping[str, Any],
    normal: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    hints: Mapping[str, Any],
) -> dict[str, Any] | None:
    """Return the point of a space whose recipe is a known one; None if none is found.

    Args:
        space: in which the recipe may lie.
        recipe: with every field filled in.
        normal: fills in every field of a drawn recipe; a ValueError refuses it.
        hints: values of parameters that are taken where the space has them; options of the other parameters are tried.
    """
    wanted, waiting = recipe_key(recipe), [dict(hints)]
    for _ in range(MOST_TRIED):
        if not waiting:
            return None
        known = waiting.pop()
        chooser = _Partial(known)
        try:
            drawn = normal(space.sample(chooser).value)
        except _Open as parameter:
            waiting += [{**known, parameter.name: label} for label in reversed(parameter.options)]
        except ValueError:
            continue
        else:
            if recipe_key(drawn) == wanted:
                return chooser.point
    return None


def by_expected_gain(
    points: Sequence[Mapping[str, float | None]],
    objectives: Sequence[Objective],
    baseline: Mapping[str, float | None],
) -> list[tuple[int, float | None]]:
    """Return the indices of points, each time the one that enlarges the hypervolume most, with the enlargement.

    Args:
        points: metrics that are expected.
        objectives: of the hypervolume.
        baseline: metrics of the eager baseline, from which the hypervolume is counted.

    Returns:
        The points in their own order, without enlargements, where these objectives have no hypervolume.
    """
    if hypervolume(points, objectives, baseline) is None:
        return [(index, None) for index in range(len(points))]
    order, left, before = list[tuple[int, float | None]](), list(range(len(points))), 0.0
    while left:
        chosen = [points[index] for index, _ in order]
        volumes = [hypervolume([*chosen, points[index]], objectives, baseline) or 0.0 for index in left]
        best = max(range(len(left)), key=volumes.__getitem__)
        order.append((left.pop(best), volumes[best] - before))
        before = volumes[best]
    return order
