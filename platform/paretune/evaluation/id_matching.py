"""Matching ids in files of annotations and results: as COCO's own tools do, then as text, then as names.

In Python, and so in pycocotools, 1.0 is 1 and "1" is another id. What no id equals is looked up as text, then among the
names of files or categories, where only one has the name; a note reports both.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from paretune.core.errors import did_you_mean

Id = int | float | str
SHOWN = 8
"""Ids that a message names at most."""


def is_id(value: Any) -> bool:
    """Return whether a value can be an id: a number or a text."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int | str) and not isinstance(value, bool)


@dataclass(frozen=True)
class KnownIds:
    """The ids of a ground truth's images or categories, in the order of pycocotools."""

    what: str
    """``image`` or ``category``."""
    order: tuple[Id, ...]
    names: Sequence[str]
    """Names of the images or categories, in the same order; empty where there is none."""
    places: dict[Id, int] = field(default_factory=dict)
    texts: Mapping[str, int] = field(default_factory=dict)
    called: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, what: str, names: Mapping[Id, str]) -> KnownIds:
        """Return ids with their names, in the order of pycocotools."""
        order = tuple(sorted(names, key=lambda number: (isinstance(number, str), number)))
        found = [names[number] for number in order]
        return cls(
            what,
            order,
            found,
            {number: place for place, number in enumerate(order)},
            _unique({_text(number)} for number in order),
            _unique(set(_readings(name)) for name in found),
        )

    def reader(self) -> IdReader:
        """Return what reads the ids of one file."""
        return IdReader(self)


class IdReader:
    """Reads the ids of one file, and counts those that were not simply equal."""

    def __init__(self, ids: KnownIds) -> None:
        self._ids = ids
        self._others: dict[Id, int] = {}
        self._ways: Counter[str] = Counter()
        self._examples: dict[str, str] = {}

    def place(self, given: Any) -> int | None:
        """Return the place of an id in the order of all; None where there is no such id."""
        if not is_id(given):
            return None
        index = self._ids.places.get(given)
        return index if index is not None else self._otherwise(given)

    def _otherwise(self, given: Id) -> int | None:
        way, index = "text", self._ids.texts.get(_text(given))
        if index is None and isinstance(given, str):
            called = self._ids.called
            way, index = "name", next((called[text] for text in _readings(given) if text in called), None)
        if index is not None:
            self._ways[way] += 1
            self._examples.setdefault(way, f"{given!r} is {self._ids.what} {self._ids.order[index]!r}")
        return index

    def notes(self) -> list[str]:
        """Return a line for each way of reading that was needed."""
        names = "file names" if self._ids.what == "image" else "names"
        ways = {"text": "ids of another type", "name": f"{names} in place of ids"}
        return [
            f"{count} rows have {ways[way]} ({self._examples[way]}): read as that" for way, count in self._ways.items()
        ]

    def problem(self, given: Any, every: Iterable[Any]) -> str:
        """Return what is wrong with an id that has no place; ``every`` id in the file may show why."""
        ids = self._ids
        problem = f"{ids.what}_id {given!r} is not in the ground truth"
        if ids.what == "image" or not is_id(given):
            return problem
        known = ", ".join(map(repr, ids.order[:SHOWN])) + (", …" if len(ids.order) > SHOWN else "")
        numbers = [number for number in every if isinstance(number, int | float)]
        first = int(min(numbers, default=-1))
        if first in (0, 1) and max(numbers) < len(ids.order) + first:
            hint = f"; are they places in its list, counted from {first}?"
        else:
            hint = did_you_mean(str(given), map(str, ids.order))
        return f"{problem}, whose categories are {known}{hint}"


def _unique(readings: Iterable[set[str]]) -> dict[str, int]:
    """Return text → place, of texts that only one place has."""
    every = list(readings)
    often = Counter(text for texts in every for text in texts)
    return {text: place for place, texts in enumerate(every) for text in texts if text and often[text] == 1}


def _text(number: Id) -> str:
    whole = isinstance(number, float) and number.is_integer()
    return str(int(number) if whole else number).strip()


def _readings(name: str) -> list[str]:
    """Return a name as it is, then without its folders, then without its ending too."""
    path = PurePosixPath(unicodedata.normalize("NFC", name).replace("\\", "/"))
    return [str(path), path.name, path.stem] if name else []
