"""YAML files as plain data with the line of every place; all mistakes are reported together.

PyYAML follows YAML 1.1: ``1e-4`` is a string, ``no`` is False, ``012`` is 10, ``1:30`` is 90, and of
two equal keys the last one wins. The loader here reads scalars by YAML 1.2's core schema and refuses
equal keys.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from paretune.core.errors import Problem, UserError, UserErrors, did_you_mean, one_line
from paretune.core.spec import Spec, fields_at, older_names

S = TypeVar("S", bound=Spec)
Place = tuple[str | int, ...]
_noted: set[tuple[str, str]] = set()
"""Files and older names for which a note was printed."""


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
    """Data of one YAML file, and the line of every key and item."""

    file: str
    data: Any
    lines: Mapping[Place, int]
    numbered: bool = True
    """Whether lines are told in messages: those of a file that was written by a program tell a reader nothing."""

    def line(self, place: Place) -> int:
        """Return the line of a place, or of the nearest place above it in the file; 0 if lines are not told."""
        if not self.numbered:
            return 0
        for depth in range(len(place), -1, -1):
            if place[:depth] in self.lines:
                return self.lines[place[:depth]]
        return 1


def read_yaml(path: Path, shown: str | None = None) -> Document:
    """Read one YAML file.

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
    return parse_yaml(text, name)


def parse_yaml(text: str, name: str) -> Document:
    """Return the data of a YAML text.

    Args:
        text: the text.
        name: its name in messages.

    Raises:
        UserErrors: it is no YAML, or it has equal keys.
    """
    try:
        node = yaml.compose(text, Loader=_CoreLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserErrors([Problem(name, line, f"not valid YAML: {error.problem or error.context}")]) from error
    except yaml.YAMLError as error:
        raise UserErrors([Problem(name, 1, f"not valid YAML: {one_line(error)}")]) from error
    except RecursionError:
        raise UserErrors([Problem(name, 1, "nested too deep to be read")]) from None
    reader = _Reader(name)
    data = reader.read(node, ()) if node is not None else None
    if reader.problems:
        raise UserErrors(reader.problems)
    return Document(name, data, reader.lines, numbered=not name.endswith(".json"))


MOST_VALUES = 200_000
"""Values of one file, far more than anybody writes."""


class _Reader:
    """Converts composed nodes to data, with their lines and problems."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lines: dict[Place, int] = {}
        self.problems: list[Problem] = []
        self._count = 0
        self._loader = _CoreLoader("")

    def read(self, node: yaml.Node, place: Place) -> Any:
        line = node.start_mark.line + 1
        self._count += 1
        if self._count > MOST_VALUES:  # anchors of anchors grow without bound
            raise UserErrors([Problem(self.name, line, f"more than {MOST_VALUES} values, those of anchors included")])
        self.lines.setdefault(place, line)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, place)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(item, (*place, index)) for index, item in enumerate(node.value)]
        try:
            return self._loader.construct_object(node)
        except yaml.MarkedYAMLError as error:
            self.problems.append(Problem(self.name, line, f"not readable: {error.problem}"))
        except (yaml.YAMLError, ValueError) as error:
            self.problems.append(Problem(self.name, line, f"not readable: {error}"))
        return None

    def _mapping(self, node: yaml.MappingNode, place: Place) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self.problems.append(Problem(self.name, line, "a key must be a word"))
                continue
            key = str(key_node.value)
            if key in mapping:
                first = self.lines[(*place, key)]
                self.problems.append(Problem(self.name, line, f"{key!r} stands twice (first in line {first})"))
                continue
            self.lines[(*place, key)] = line
            mapping[key] = self.read(value_node, (*place, key))
        return mapping


def validate(cls: type[S], document: Document, at: Place = ()) -> S:
    """Check a document's data against a class of records.

    Raises:
        UserErrors: every mistake, each with its line.
    """
    if not isinstance(document.data, Mapping):
        raise UserErrors(
            [Problem(document.file, 1, f"expected fields of a {cls.__name__.lower()}, `name: value` lines")]
        )
    with noting_older_names(document.file):
        try:
            return cls.model_validate(document.data)
        except ValidationError as error:
            raise UserErrors(problems_of(error, cls, document, at)) from None


@contextmanager
def noting_older_names(file: str) -> Iterator[None]:
    """Print a note to stderr for each older name of a field in a file that is read while the block runs, once each."""
    with older_names() as seen:
        try:
            yield
        finally:
            for old, new in seen.items():
                if (file, old) not in _noted:
                    _noted.add((file, old))
                    note = f"note: {old} is called {new} now; the older name is accepted in this version only"
                    print(f"{file}: {note}", file=sys.stderr, flush=True)


def problems_of(error: ValidationError, cls: type[Spec], document: Document, at: Place = ()) -> list[Problem]:
    """Return pydantic's errors as problems with lines and, for unknown fields, the nearest known one."""
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
