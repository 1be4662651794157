"""Reader of search spaces, which reports every mistake with its line."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from paretune.core.errors import Problem, UserErrors, did_you_mean
from paretune.core.yaml_document import Document, Place
from paretune.search.space import Choices, Fields, Fixed, Items, Node, Range, Scalar, Space, parameters_of

RANGE_KEYS = ("low", "high", "step", "log", "name")


def read_space(document: Document, *, kept: bool = False, renamed: Mapping[str, str] = MappingProxyType({})) -> Space:
    """Build a space from a YAML document.

    Args:
        document: the file.
        kept: whether it is the copy in a sweep's folder, whose first points are not checked again.
        renamed: older last part of a parameter's name → its present one; first points may use either.

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
    known = {node.name for node in parameters_of(root)}
    points = ({_present(name, known, renamed): value for name, value in p.items()} for p in reader.points(first))
    space = Space(root, document.file, tuple(points))
    if not kept:
        reader.check_points(space)
    reader.check_names(root)
    if reader.problems:
        raise UserErrors(reader.problems)
    return space


def _present(name: str, known: Collection[str], renamed: Mapping[str, str]) -> str:
    """Return the name that a space has for a parameter which a point may name by its older or its present name."""
    if name in known:
        return name
    for pair in renamed.items():
        for one, other in (pair, pair[::-1]):
            if f".{name}".endswith(f".{one}") and (same := name.removesuffix(one) + other) in known:
                return same
    return name


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
        """Report every value of a first point that its parameter cannot take."""
        for index, point in enumerate(space.first):
            for message in space.point_problems(point):
                self.problem(("first", index), message)

    def check_names(self, root: Node) -> None:
        """Report parameters of equal names."""
        lines: dict[str, int] = {}
        for node in parameters_of(root):
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
        return path if key == "steps" else (*path, key)

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
        if len(self.problems) > before or low is None or high is None:
            return Fixed(None, line)
        if low > high:
            self.problem((*place, "low"), f"low ({low}) is above high ({high})")
        if log and (step is not None or low <= 0):
            self.problem((*place, "log"), "a log range starts above 0 and has no step")
        if step is not None and step <= 0:
            self.problem((*place, "step"), f"a step is above 0 (got {step})")
        return Range(".".join(name), low, high, step, bool(log), line)
