"""The grammar of search spaces: a recipe in which values may be ranges and choices.

Complete grammar: literal · ``{low, high[, step][, log][, name]}`` · ``{choices: [...][, name]}`` ·
``{name, choices: {label: space}}`` · mapping or list of spaces. What stands inside an option exists
only when the option is taken: conditional spaces need no further syntax. In a list, an item that
becomes null is left out and one that becomes a list is spliced in. Besides the fields of a recipe a
file may have ``first``: points (``{parameter: value}``) to try before a sampler takes over; and in place of
``runtime`` it may have ``deploy``, whose options hold a ``runtime`` together with the last ``steps``: so what only
one runtime can run is chosen with it.

A parameter is named by its place (positions in lists and the word ``steps`` left out), or by ``name``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from paretune.core.errors import did_you_mean
from paretune.core.yaml_document import Place

Scalar = str | int | float | bool | None


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, both included; whole numbers if both are written so and the step is whole."""

    name: str
    low: float
    high: float
    step: float | None
    log: bool
    line: int

    @property
    def whole(self) -> bool:
        """Return whether the numbers are integers."""
        return isinstance(self.low, int) and isinstance(self.high, int) and (self.step or 1) % 1 == 0

    def problem(self, value: Any) -> str | None:
        """Return why a value is not in the range; None if it is."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return f"expected a number from {self.low} to {self.high}"
        if not self.low <= value <= self.high:
            return f"{value} is not from {self.low} to {self.high}"
        if self.whole and value % 1:
            return f"{value} is no whole number, as low ({self.low}) and high ({self.high}) are"
        steps = (value - self.low) / self.step if self.step else 0
        if abs(steps - round(steps)) > 1e-8:  # what Optuna allows for rounding
            return f"{value} is not {self.low} and a number of steps of {self.step}"
        return None


@dataclass(frozen=True)
class Choices:
    """One of several options, each a space of its own under its label."""

    name: str
    options: Mapping[Scalar, Node]
    line: int

    def problem(self, value: Any) -> str | None:
        """Return why a value is not one of the labels; None if it is."""
        if isinstance(value, list | dict) or value not in self.options:
            return f"{value!r} is not one of {', '.join(map(repr, self.options))}"
        return None


@dataclass(frozen=True)
class Fixed:
    """A value written out."""

    value: Scalar
    line: int


@dataclass(frozen=True)
class Fields:
    """A mapping of spaces."""

    items: Mapping[str, Node]
    line: int


@dataclass(frozen=True)
class Items:
    """A list of spaces."""

    items: tuple[Node, ...]
    line: int


Node = Range | Choices | Fixed | Fields | Items


class Chooser(Protocol):
    """Makes the decisions of a draw: Optuna, a fixed point, or the walk over corners."""

    def number(self, space: Range) -> float:
        """Return one number of the range."""

    def option(self, space: Choices) -> Scalar:
        """Return one label."""


@dataclass(frozen=True)
class Sample:
    """A value drawn from a space, with the line in the space's file of each place in it."""

    value: Any
    lines: Mapping[Place, int]


class Space:
    """A read search space."""

    def __init__(self, root: Node, file: str, first: tuple[Mapping[str, Any], ...] = ()) -> None:
        """Store the tree that ``read_space`` makes."""
        self.root = root
        self.file = file
        self.first = first

    @property
    def parameters(self) -> dict[str, Range | Choices]:
        """Return every parameter of the space by name, those inside options too."""
        return {node.name: node for node in parameters_of(self.root)}

    @property
    def deployment(self) -> Choices | None:
        """Return the choice of the runtime, with its last steps where they are chosen with it; None if it is fixed."""
        fields = self.root.items if isinstance(self.root, Fields) else {}
        return next((node for key in ("deploy", "runtime") if isinstance(node := fields.get(key), Choices)), None)

    def sample(self, chooser: Chooser) -> Sample:
        """Draw one recipe."""
        lines: dict[Place, int] = {}
        value = _place(_deployed(_draw(self.root, chooser)), (), lines)
        return Sample(value, lines)

    def corners(self) -> Iterator[Sample]:
        """Draw recipes in which every option of every choice and both ends of every range occur, with each runtime.

        One decision at a time is moved away from its first alternative: 1 + Σ (alternatives - 1) samples for each
        option of the runtime or of ``deploy``, since what a step can do depends on it.
        """
        for start in self._runtimes():
            yield from self._corners(start)

    def runtimes(self) -> list[Any]:
        """Return each option of the runtime as recipes write it, with the first alternative of its parameters."""
        drawn = [self.sample(PointWalk(start, lambda one: _alternatives(one)[0])).value for start in self._runtimes()]
        return [recipe["runtime"] for recipe in drawn if isinstance(recipe, dict) and "runtime" in recipe]

    def _runtimes(self) -> list[dict[str, Any]]:
        fields = self.root.items if isinstance(self.root, Fields) else {}
        choices = [node for key in ("runtime", "deploy") if isinstance(node := fields.get(key), Choices)]
        return [{node.name: label} for node in choices for label in node.options] or [{}]

    def _corners(self, start: dict[str, Any]) -> Iterator[Sample]:
        waiting, seen = [start], set(start)
        while waiting:
            point = waiting.pop()
            walk = PointWalk(point, lambda space: _alternatives(space)[0])
            yield self.sample(walk)
            for name, space in walk.decisions.items():
                if name not in seen:
                    seen.add(name)
                    waiting += [{**point, name: value} for value in _alternatives(space)[1:]]

    def point_problems(self, point: Mapping[str, Any]) -> list[str]:
        """Return the mistakes in a point ``{parameter: value}``; parameters may be left out."""
        known = self.parameters
        found = []
        for name, value in point.items():
            if name not in known:
                found.append(
                    f"no parameter {name!r} in {self.file}{did_you_mean(name, known)}; known: {', '.join(known)}"
                )
            elif (problem := known[name].problem(value)) is not None:
                found.append(f"{name}: {problem}")
        return found


class PointWalk:
    """A chooser that takes the values of a point, and those that a function returns for other parameters.

    Args:
        point: parameter → value; parameters may be left out.
        other: returns the value of a parameter that the point leaves out.
    """

    def __init__(self, point: Mapping[str, Any], other: Callable[[Range | Choices], Any]) -> None:
        self._point, self._other = point, other
        self.decisions: dict[str, Range | Choices] = {}
        """Parameters that were decided on, in their order."""

    def number(self, space: Range) -> float:
        """Return one number of the range."""
        value = self._value(space)  # a field of whole numbers refuses others, as it would those between
        return int(value) if space.whole else float(value)

    def option(self, space: Choices) -> Scalar:
        """Return one label."""
        label: Scalar = self._value(space)
        return label

    def _value(self, space: Range | Choices) -> Any:
        self.decisions[space.name] = space
        return self._point[space.name] if space.name in self._point else self._other(space)


def _alternatives(space: Range | Choices) -> list[Any]:
    """Return both ends of a range, or all labels of a choice."""
    return [space.low, space.high] if isinstance(space, Range) else list(space.options)


@dataclass(frozen=True)
class _Drawn:
    """A drawn value whose parts still know their lines."""

    value: Any
    line: int


def _draw(node: Node, chooser: Chooser) -> _Drawn:
    match node:
        case Fixed():
            return _Drawn(node.value, node.line)
        case Range():
            return _Drawn(chooser.number(node), node.line)
        case Choices():
            return _draw(node.options[chooser.option(node)], chooser)
        case Fields():
            return _Drawn({key: _draw(item, chooser) for key, item in node.items.items()}, node.line)
        case Items():
            drawn: list[_Drawn] = []
            for item in node.items:
                part = _draw(item, chooser)
                drawn += part.value if isinstance(part.value, list) else [part]
            return _Drawn([part for part in drawn if part.value is not None], node.line)


def _deployed(drawn: _Drawn) -> _Drawn:
    """Move the steps and the runtime in `deploy` to their places in the recipe."""
    last = drawn.value.get("deploy") if isinstance(drawn.value, dict) else None
    if last is None or not isinstance(last.value, dict) or not {"runtime"} <= set(last.value) <= {"steps", "runtime"}:
        return drawn
    nothing = _Drawn([], last.line)
    before, after = drawn.value.get("steps", nothing), last.value.get("steps", nothing)
    if "runtime" in drawn.value or not isinstance(before.value, list) or not isinstance(after.value, list):
        return drawn  # the recipe's own check tells that `deploy` is no field of it
    kept = {key: part for key, part in drawn.value.items() if key != "deploy"}
    steps = _Drawn([*before.value, *after.value], before.line)
    return _Drawn({**kept, "steps": steps, "runtime": last.value["runtime"]}, drawn.line)


def _place(drawn: _Drawn, place: Place, lines: dict[Place, int]) -> Any:
    lines[place] = drawn.line
    if isinstance(drawn.value, dict):
        return {key: _place(part, (*place, key), lines) for key, part in drawn.value.items()}
    if isinstance(drawn.value, list):
        return [_place(part, (*place, index), lines) for index, part in enumerate(drawn.value)]
    return drawn.value


def parameters_of(node: Node) -> Iterator[Range | Choices]:
    """Yield every parameter below a node, those inside options too."""
    match node:
        case Range():
            yield node
        case Choices():
            yield node
            for option in node.options.values():
                yield from parameters_of(option)
        case Fields():
            for item in node.items.values():
                yield from parameters_of(item)
        case Items():
            for item in node.items:
                yield from parameters_of(item)
