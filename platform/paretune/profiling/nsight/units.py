"""Cells of Nsight Compute's CSV as numbers in base units: seconds, bytes, bytes per second, Hz, %."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from functools import cache

Value = float | str | None
"""A number, a word (the name of a chip, a policy), or None: not known."""
UNKNOWN = frozenset(("", "n/a", "na", "nan", "-nan", "inf", "-inf", "none", "-", "(null)", "no data"))
SECONDS = {
    "s": 1.0,
    "sec": 1.0,
    "second": 1.0,
    "ms": 1e-3,
    "msecond": 1e-3,
    "us": 1e-6,
    "µs": 1e-6,
    "usecond": 1e-6,
    "ns": 1e-9,
    "nsecond": 1e-9,
    "minute": 60.0,
}
PREFIXES = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "p": 1e15}
"""Decimal: ncu prints 1024 bytes as 1.02 Kbyte."""
BASES = {"byte": "byte", "hz": "Hz"}
ENGLISH = re.compile(r"-?(\d{1,3}(,\d{3}){2,}(\.\d+)?|\d{1,3}(,\d{3})+\.\d+|\d+\.(\d{1,2}|\d{4,}))")
CONTINENTAL = re.compile(r"-?(\d{1,3}(\.\d{3}){2,}(,\d+)?|\d{1,3}(\.\d{3})+,\d+|\d+,(\d{1,2}|\d{4,}))")
"""Numbers that only one way of writing allows; ``1,234`` and ``1.234`` are not among them."""
BLANKS = re.compile(r"(?<=\d)[\s\u00a0\u202f'\u2019](?=\d{3}(\D|$))")
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


class ValueReader:
    """Reads the values of one file, in the way of writing numbers that the file shows."""

    def __init__(self, cells: Iterable[str]) -> None:
        """Look at all values: each that can be written in one way only has a vote."""
        english = continental = 0
        for cell in cells:
            word = BLANKS.sub("", cell.strip())
            english += ENGLISH.fullmatch(word) is not None
            continental += CONTINENTAL.fullmatch(word) is not None
        self.decimal_comma = continental > english

    def measure(self, cell: str, unit: str) -> tuple[Value, str]:
        """Return a cell's value in its base unit, and that unit."""
        factor, base = base_unit(unit)
        value = self.value(cell)
        return (value * factor if isinstance(value, float) else value), base

    def value(self, cell: str) -> Value:
        """Return what a cell says, in its own unit.

        A cell of several instances (``240; 240; 240``) is a number only if they agree: whether their sum or
        their mean would be meant, the file does not say. In ``720 (240; 240; 240)`` the first number is the metric.
        """
        word = cell.strip()
        if word.lower() in UNKNOWN:
            return None
        if (number := self._number(word)) is not None:
            return number if math.isfinite(number) else None
        before, bracket, inside = word.partition("(")
        instances = [self._number(part.strip()) for part in (inside.rstrip(") ") if bracket else word).split(";")]
        if None in instances or (not bracket and len(instances) < 2):
            return word
        if bracket:
            return self._number(before.strip())
        return instances[0] if len(set(instances)) == 1 else None

    def _number(self, word: str) -> float | None:
        """Return a number however it is written; None if it is none."""
        plain = BLANKS.sub("", word)
        thousands, decimal = ".," if self.decimal_comma else ",."
        plain = plain.replace(thousands, "").replace(decimal, ".")
        return float(plain) if plain.isascii() and NUMBER.fullmatch(plain) else None


@cache
def base_unit(unit: str) -> tuple[float, str]:
    """Return what a number in this unit is to be multiplied by, and the base unit; unknown ones stay as they are."""
    above, slash, below = unit.strip().partition("/")
    factor, name = _one(above)
    if not slash:
        return factor, name
    divisor, under = _one(below)
    return factor / divisor, "Hz" if (name, under) == ("cycle", "s") else f"{name}/{under}"


def _one(unit: str) -> tuple[float, str]:
    if unit in SECONDS:
        return SECONDS[unit], "s"
    lower = unit.lower()
    for end, base in BASES.items():
        if lower.endswith(end) and (prefix := lower.removesuffix(end)) in PREFIXES:
            return PREFIXES[prefix], base
    return 1.0, unit
