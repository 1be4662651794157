"""The grammar of search spaces: a recipe in which values may be ranges and choices.

Complete grammar: literal · ``{low, high[, step][, log][, name]}`` · ``{choices: [...][, name]}`` ·
``{name, choices: {label: space}}`` · mapping or list of spaces. What stands inside an option exists
only when the option is taken: conditional spaces need no further syntax. In a list, an item that
becomes null is left out and one that becomes a list is spliced in. Besides the fields of a recipe a
file may have ``first``: points (``{parameter: value}``) to try before a sampler takes over.

A parameter is named by its place (positions in lists and the word ``steps`` left out), or by ``name``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from paretune.errors import Problem, UserErrors, did_you_mean
from paretune.yamlfile import Document, Place

Scalar = str | int | float | bool | None
RANGE_KEYS = ("low", "high", "step", "log", "name")


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, both included; whole numbers if both are written so."""

    name: str
    low: float
    high: float
    step: float | None
    log: bool
    line: int

    @property
    def whole(self) -> bool:
        """Tell whether the numbers are integers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def problem(self, value: Any) -> str | None:
        """Return why a value is not in the range, or None."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return f"expected a number from {self.low} to {self.high}"
        if not self.low <= value <= self.high:
            return f"{value} is not from {self.low} to {self.high}"
        return None


@dataclass(frozen=True)
class Choices:
    """One of several options, each a space of its own under its label."""

    name: str
    options: Mapping[Scalar, Node]
    line: int

    def problem(self, value: Any) -> str | None:
        """Return why a value is not one of the labels, or None."""
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
    """Decides: Optuna, a fixed point, or the walk over corners."""

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
        """Keep the tree; ``read_space`` makes it."""
        self.root = root
        self.file = file
        self.first = first

    @property
    def parameters(self) -> dict[str, Range | Choices]:
        """Every parameter of the space by name, those inside options too."""
        return {node.name: node for node in _parameters(self.root)}

    def sample(self, chooser: Chooser) -> Sample:
        """Draw one recipe."""
        lines: dict[Place, int] = {}
        value = _place(_draw(self.root, chooser), (), lines)
        return Sample(value, lines)

    def corners(self) -> Iterator[Sample]:
        """Draw recipes in which every option of every choice and both ends of every range occur.

        One decision at a time is moved away from its first alternative: 1 + Σ (alternatives - 1) samples.
        """
        waiting: list[dict[str, int]] = [{}]
        seen: set[str] = set()
        while waiting:
            forced = waiting.pop()
            walk = _Walk(forced)
            yield self.sample(walk)
            for name, alternatives in walk.decisions.items():
                if name not in seen:
                    seen.add(name)
                    waiting += [{**forced, name: index} for index in range(1, alternatives)]

    def point_problems(self, point: Mapping[str, Any]) -> list[str]:
        """Return what is wrong with a point given as ``{parameter: value}``; parameters may be left out."""
        known = self.parameters
        found = []
        for name, value in point.items():
            if name not in known:
                found.append(f"no parameter {name!r} in {self.file}{did_you_mean(name, known)}; known: {', '.join(known)}")
            elif (problem := known[name].problem(value)) is not None:
                found.append(f"{name}: {problem}")
        return found


@dataclass
class _Walk:
    """A chooser that takes the first alternative but where told otherwise, and remembers what it met."""

    forced: Mapping[str, int]

    def __post_init__(self) -> None:
        self.decisions: dict[str, int] = {}

    def number(self, space: Range) -> float:
        self.decisions[space.name] = 2
        return (space.low, space.high)[self.forced.get(space.name, 0)]

    def option(self, space: Choices) -> Scalar:
        self.decisions[space.name] = len(space.options)
        return list(space.options)[self.forced.get(space.name, 0)]


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


def _place(drawn: _Drawn, place: Place, lines: dict[Place, int]) -> Any:
    lines[place] = drawn.line
    if isinstance(drawn.value, dict):
        return {key: _place(part, (*place, key), lines) for key, part in drawn.value.items()}
    if isinstance(drawn.value, list):
        return [_place(part, (*place, index), lines) for index, part in enumerate(drawn.value)]
    return drawn.value


def _parameters(node: Node) -> Iterator[Range | Choices]:
    match node:
        case Range():
            yield node
        case Choices():
            yield node
            for option in node.options.values():
                yield from _parameters(option)
        case Fields():
            for item in node.items.values():
                yield from _parameters(item)
        case Items():
            for item in node.items:
                yield from _parameters(item)


def read_space(document: Document) -> Space:
    """Build a space from a YAML document.

    Raises:
        UserErrors: every mistake of grammar, and parameters of the same name (Optuna would silently
            give both the same value).
    """
    reader = _Reader(document)
    data = dict(document.data) if isinstance(document.data, Mapping) else {}
    if not data:
        reader.problem((), "expected the fields of a recipe: input_size, steps, runtime")
    first = data.pop("first", [])
    root = reader.read(data, (), ())
    space = Space(root, document.file, tuple(reader.points(first)))
    reader.check_points(space)
    reader.check_names(root)
    if reader.problems:
        raise UserErrors(reader.problems)
    return space


class _Reader:
    """Builds nodes from data, collecting problems."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.problems: list[Problem] = []

    def problem(self, place: Place, message: str) -> None:
        self.problems.append(Problem(self.document.file, self.document.line(place), message))

    def points(self, data: Any) -> Iterator[Mapping[str, Any]]:
        """Read the points to try first."""
        for index, point in enumerate(data if isinstance(data, list) else [data]):
            if isinstance(point, Mapping):
                yield point
            else:
                self.problem(("first", index), "a point is a mapping {parameter: value}")

    def check_points(self, space: Space) -> None:
        """Tell every value of a first point that its parameter cannot take."""
        for index, point in enumerate(space.first):
            for message in space.point_problems(point):
                self.problem(("first", index), message)

    def check_names(self, root: Node) -> None:
        """Tell parameters of equal names."""
        lines: dict[str, int] = {}
        for node in _parameters(root):
            if node.name in lines:
                message = f"a parameter {node.name!r} stands in line {lines[node.name]} already: give this one a `name`"
                self.problems.append(Problem(self.document.file, node.line, message))
            lines.setdefault(node.name, node.line)

    def read(self, data: Any, place: Place, path: tuple[str, ...]) -> Node:
        line = self.document.line(place)
        if isinstance(data, Mapping):
            if "choices" in data:
                return self._choices(data, place, path)
            if "low" in data or "high" in data:
                return self._range(data, place, path)
            items = {key: self.read(item, (*place, key), self._path(path, key)) for key, item in data.items()}
            return Fields(items, line)
        if isinstance(data, list):
            return Items(tuple(self.read(item, (*place, index), path) for index, item in enumerate(data)), line)
        return Fixed(data, line)

    @staticmethod
    def _path(path: tuple[str, ...], key: str) -> tuple[str, ...]:
        return path if not path and key == "steps" else (*path, key)

    def _name(self, data: Mapping[str, Any], place: Place, path: tuple[str, ...]) -> tuple[str, ...]:
        if "name" not in data:
            if not path:
                self.problem(place, "a choice between steps needs a `name`")
            return path
        if not isinstance(data["name"], str) or not data["name"]:
            self.problem((*place, "name"), f"a name is a word (got {data['name']!r})")
        return (str(data["name"]),)

    def _unknown(self, data: Mapping[str, Any], known: tuple[str, ...], place: Place, what: str) -> None:
        for key in data:
            if key not in known:
                hint = did_you_mean(key, known)
                self.problem((*place, key), f"unknown key {key!r} in a {what}{hint}; known: {', '.join(known)}")

    def _choices(self, data: Mapping[str, Any], place: Place, path: tuple[str, ...]) -> Node:
        self._unknown(data, ("choices", "name"), place, "choice")
        name = self._name(data, place, path)
        options = data["choices"]
        at = (*place, "choices")
        nodes: dict[Scalar, Node] = {}
        if isinstance(options, list):
            for index, option in enumerate(options):
                if isinstance(option, list | dict):
                    self.problem((*at, index), "an option that is more than a value needs a label: {label: space}")
                elif option in nodes:
                    self.problem((*at, index), f"the option {option!r} stands twice")
                else:
                    nodes[option] = Fixed(option, self.document.line((*at, index)))
        elif isinstance(options, Mapping):
            for label, option in options.items():
                nodes[label] = self.read(option, (*at, label), (*name, label))
        if not nodes:
            self.problem(at, "choices are a list of values or a mapping {label: space}, at least one")
            nodes = {None: Fixed(None, self.document.line(at))}
        return Choices(".".join(name), nodes, self.document.line(place))

    def _range(self, data: Mapping[str, Any], place: Place, path: tuple[str, ...]) -> Node:
        self._unknown(data, RANGE_KEYS, place, "range")
        name = self._name(data, place, path)
        line = self.document.line(place)
        before = len(self.problems)
        low, high, step, log = (data.get(key) for key in ("low", "high", "step", "log"))
        for key, value in (("low", low), ("high", high), ("step", step)):
            missing = value is None and key != "step"
            if missing or (value is not None and (isinstance(value, bool) or not isinstance(value, int | float))):
                self.problem((*place, key), f"{key} must be a number (got {value!r})")
        if log is not None and not isinstance(log, bool):
            self.problem((*place, "log"), f"log is true or false (got {log!r})")
        if len(self.problems) > before:
            return Fixed(None, line)
        if low > high:
            self.problem((*place, "low"), f"low ({low}) is above high ({high})")
        if log and (step is not None or low <= 0):
            self.problem((*place, "log"), "a log range starts above 0 and has no step")
        if step is not None and step <= 0:
            self.problem((*place, "step"), f"a step is above 0 (got {step})")
        return Range(".".join(name), low, high, step, bool(log), line)
