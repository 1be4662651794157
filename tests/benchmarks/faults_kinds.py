"""The kinds of faults, and what came of one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Outcome:
    """What came of one fault."""

    moment: str
    """Where or when it happened."""
    wrong: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Kind:
    """One kind of fault."""

    number: str
    """That of the list in the issue, such as F1."""
    title: str
    run: Callable[[Any, int | None], Iterator[Outcome]]
    """Function of the bench and the number of moments (None: all of them) that yields outcomes."""
    at_most: int | None = None
    """Most moments that make a difference; None for no limit."""
