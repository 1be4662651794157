"""Reading YAML: plain data, with the line of every place in it, and every mistake told at once.

PyYAML follows YAML 1.1: ``1e-4`` is a string, ``no`` is False, ``012`` is 10, ``1:30`` is 90, and of
two equal keys the last one wins. The loader here reads scalars by YAML 1.2's core schema and refuses
equal keys.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from paretune.core.errors import Problem, UserError, UserErrors, did_you_mean, one_line
from paretune.core.spec import Spec, fields_at

S = TypeVar("S", bound=Spec)
Place = tuple[str | int, ...]


class _CoreLoader(yaml.SafeLoader):
    """SafeLoader with the scalars of YAML 1.2's core schema."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own class attribute


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?(0|[1-9][0-9_]*)", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
):
    _CoreLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), list(_first))


@dataclass(frozen=True)
class Document:
    """One YAML file: its data and the line of every key and item."""

    file: str
    data: Any
    lines: Mapping[Place, int]

    def line(self, place: Place) -> int:
        """Return the line of a place, or of the nearest place above it that the file has."""
        for depth in range(len(place), -1, -1):
            if place[:depth] in self.lines:
                return self.lines[place[:depth]]
        return 1


def read_yaml(path: Path, shown: str | None = None) -> Document:
    """Read one file.

    Args:
        path: the file.
        shown: its name in messages; the path as given when None.

    Raises:
        UserError: there is no such file, or it is no text.
        UserErrors: it is no YAML, or it has equal keys.
    """
    name = shown or str(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UserError(f"{name}: cannot be read: {reason}") from error
    try:
        node = yaml.compose(text, Loader=_CoreLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserErrors([Problem(name, line, f"not valid YAML: {error.problem or error.context}")]) from error
    except yaml.YAMLError as error:
        raise UserErrors([Problem(name, 1, f"not valid YAML: {one_line(error)}")]) from error
    reader = _Reader(name)
    data = reader.read(node, ()) if node is not None else None
    if reader.problems:
        raise UserErrors(reader.problems)
    return Document(name, data, reader.lines)


class _Reader:
    """Turns composed nodes into data, remembering lines and collecting problems."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lines: dict[Place, int] = {}
        self.problems: list[Problem] = []
        self._loader = _CoreLoader("")

    def read(self, node: yaml.Node, place: Place) -> Any:
        line = node.start_mark.line + 1
        self.lines.setdefault(place, line)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, place)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(item, (*place, index)) for index, item in enumerate(node.value)]
        try:
            return self._loader.construct_object(node)
        except yaml.YAMLError as error:
            self.problems.append(Problem(self.name, line, f"not readable: {error}"))
        except ValueError as error:
            self.problems.append(Problem(self.name, line, f"not readable: {error}"))
        return None

    def _mapping(self, node: yaml.MappingNode, place: Place) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self.problems.append(Problem(self.name, line, "a key must be a word"))
                continue
            key = str(key_node.value)
            if key in found:
                first = self.lines[(*place, key)]
                self.problems.append(Problem(self.name, line, f"{key!r} stands twice (first in line {first})"))
                continue
            self.lines[(*place, key)] = line
            found[key] = self.read(value_node, (*place, key))
        return found


def validate(cls: type[S], document: Document, at: Place = ()) -> S:
    """Check a document's data against a class of records.

    Raises:
        UserErrors: every mistake, each with its line.
    """
    if not isinstance(document.data, Mapping):
        raise UserErrors(
            [Problem(document.file, 1, f"expected fields of a {cls.__name__.lower()}, `name: value` lines")]
        )
    try:
        return cls.model_validate(document.data)
    except ValidationError as error:
        raise UserErrors(problems_of(error, cls, document, at)) from None


def problems_of(error: ValidationError, cls: type[Spec], document: Document, at: Place = ()) -> list[Problem]:
    """Turn pydantic's errors into problems with lines and, for unknown fields, the nearest known one."""
    problems = []
    for e in error.errors():
        place = (*at, *e["loc"])
        message = e["msg"].removeprefix("Value error, ")
        if e["type"] == "extra_forbidden" or message == "Extra inputs are not permitted":
            known = fields_at(cls, e["loc"][:-1])
            message = f"unknown field{did_you_mean(str(e['loc'][-1]), known)}; known: {', '.join(known)}"
        elif e["type"] == "missing" or message == "Field required":
            message = "this field is required"
        elif not isinstance(e["input"], dict | list | Spec) and e["input"] is not None:
            message = f"{message} (got {e['input']!r})"
        dotted = ".".join(map(str, e["loc"]))
        problems.append(Problem(document.file, document.line(place), f"{dotted}: {message}" if dotted else message))
    return problems


def read_value(text: str, shown: str) -> Any:
    """Read one value as YAML reads it (``--set a.b=value``).

    Raises:
        UserError: it is no YAML.
    """
    try:
        node = yaml.compose(text, Loader=_CoreLoader)
    except yaml.YAMLError as error:
        raise UserError(f"{shown}: not a YAML value: {text!r}") from error
    reader = _Reader(shown)
    value = reader.read(node, ()) if node is not None else None
    if reader.problems:
        raise UserErrors(reader.problems)
    return value
