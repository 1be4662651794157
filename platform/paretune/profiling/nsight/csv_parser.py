"""Nsight Compute's CSV in its three dialects, as launches of kernels with their metrics in base units.

``--page raw`` is wide: a row for each launch, a column for each metric, the units in a row of their own.
``--page details`` is long: a row for each metric of a launch, cut short behind the value, and rows of rules.
``--csv --metrics`` is long too, behind whatever the program printed. Nsight Compute Command Line Interface,
sections "Output Pages" and "Command Line Options"
(https://docs.nvidia.com/nsight-compute/NsightComputeCli/index.html).
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from paretune.profiling.nsight.units import Value, ValueReader, base_unit

ABOUT_LAUNCH = (
    *("ID", "Process ID", "Process Name", "Host Name", "Kernel Name", "Function Name", "Context", "Stream"),
    *("Block Size", "Grid Size", "Device", "CC", "Section Name"),
)
"""Columns of a wide file that are no metrics."""
NAMES = ("Kernel Name", "Function Name")
VALUE = "Metric Value"
MOST = 50_000_000
"""Characters of a cell; the csv module would refuse from 131072 on."""


class NsightCsvError(Exception):
    """A text that is no whole CSV of Nsight Compute; the message says why, with the log's own errors."""


@dataclass(frozen=True)
class NsightRule:
    """What a rule of Nsight Compute says of a launch."""

    launch: int
    section: str
    name: str
    kind: str
    """``OPT``: an optimisation, ``WRN``: a warning, ``INF``: a remark."""
    text: str
    speedup: float | None
    """Estimated, in %; None where the rule estimates none."""
    scope: str
    """``global``: of the kernel, ``local``: of the part that the rule looks at, or empty."""


@dataclass(frozen=True)
class KernelLaunch:
    """One kernel that ran once."""

    id: int
    name: str
    grid: tuple[int, int, int] | None
    """Blocks."""
    block: tuple[int, int, int] | None
    """Threads."""
    metrics: Mapping[str, tuple[Value, str]]
    """Name → value and base unit. A name that sections use for different things stands there as ``Section: name``."""

    def number(self, *names: str) -> float | None:
        """Return the first of these metrics that has a number; None when none has."""
        found = (self.metrics.get(name, (None, ""))[0] for name in names)
        return next((value for value in found if isinstance(value, float)), None)


@dataclass(frozen=True)
class NsightCsv:
    """What a file says."""

    launches: tuple[KernelLaunch, ...]
    rules: tuple[NsightRule, ...]


def parse(text: str) -> NsightCsv:
    """Read a CSV of any of the three dialects.

    Raises:
        NsightCsvError: there is no header, or the file is cut off.
    """
    header, rows = _rows(text)
    if (name := next((name for name in NAMES if name in header), None)) is None:
        raise NsightCsvError(f"the header has no column {NAMES[0]!r}: {', '.join(header[:20])}")
    columns = {column: index for index, column in reversed(list(enumerate(header)))}  # the first of equal names
    cells = _Cells(columns, name)
    return _long(cells, rows) if "Metric Name" in columns else _wide(cells, rows)


def errors(log: str) -> tuple[str, ...]:
    """Return what ncu itself reports as errors, each once, without the mark in front."""
    lines = (line.strip() for line in log.splitlines())
    found = (line.removeprefix("==ERROR==").strip() for line in lines if line.startswith("==ERROR=="))
    return tuple(dict.fromkeys(line for line in found if line))


@dataclass(frozen=True)
class _Cells:
    """Cells of a row by the names of their columns; a row may end early."""

    columns: Mapping[str, int]
    name: str

    def get(self, row: Sequence[str], column: str) -> str:
        index = self.columns.get(column)
        return row[index].strip() if index is not None and index < len(row) else ""

    def launch(self, row: Sequence[str], metrics: Mapping[str, tuple[Value, str]]) -> KernelLaunch:
        shapes = (_shape(self.get(row, column)) for column in ("Grid Size", "Block Size"))
        grid, block = shapes
        return KernelLaunch(_id(row), self.get(row, self.name), grid, block, metrics)


def _rows(text: str) -> tuple[list[str], list[list[str]]]:
    """Return the header and all rows behind it, ncu's own lines left out.

    Raises:
        NsightCsvError: no line begins with a cell "ID", or the text ends within a row.
    """
    lines = [line for line in re.split(r"(?<=\n)", text) if not line.startswith("==")]
    begin = next((index for index, line in enumerate(lines) if _is_header(line)), None)
    if begin is None:
        said = "; ".join(errors(text))
        raise NsightCsvError(f'no CSV of Nsight Compute, no line begins with "ID"{f": {said}" if said else ""}')
    body = "".join(lines[begin:]).lstrip("\ufeff").replace("\0", "")
    if body and body[-1] not in '\r\n",':
        raise NsightCsvError(f"the file is cut off, it ends in {body.splitlines()[-1][-40:]!r}")
    before = csv.field_size_limit(MOST)
    try:
        header, *rows = csv.reader(io.StringIO(body, newline=""), strict=True)
    except csv.Error as error:
        raise NsightCsvError(f"the file is cut off or damaged: {error}") from error
    finally:
        csv.field_size_limit(before)
    if rows and not body.endswith(("\n", "\r")):  # each line of ncu ends in one
        last = rows[-1][:-1] if body.endswith(",") else rows[-1]  # what would come behind a comma is not known
        enough = header.index(VALUE) + 1 if VALUE in header else len(header)
        if not enough <= len(last) or (any(last[enough:]) and len(last) < len(header)):
            raise NsightCsvError(f"the file is cut off, its last row has {len(last)} cells of {len(header)}")
    return [cell.strip() for cell in header], rows


def _is_header(line: str) -> bool:
    return re.match(r'\ufeff?\s*("ID"|ID)\s*,', line) is not None


def _of_launches(rows: Iterable[list[str]]) -> Iterator[list[str]]:
    """Give the rows that begin with a number; others are units, or the program's own words."""
    return (row for row in rows if row and re.fullmatch(r"[0-9]{1,15}", row[0].strip()))


def _id(row: Sequence[str]) -> int:
    return int(row[0])


def _shape(cell: str) -> tuple[int, int, int] | None:
    """Read ``(256, 1, 1)``; numbers may have thousands separators, then blanks stand between them."""
    inner = cell.strip("() ")
    words = re.split(r",\s+", inner) if re.search(r",\s", inner) else inner.split(",")
    digits = [re.sub(r"[.,'\s]", "", word) for word in words]
    if len(digits) != 3 or not all(re.fullmatch(r"[0-9]{1,12}", word) for word in digits):
        return None
    x, y, z = map(int, digits)
    return x, y, z


def _wide(cells: _Cells, rows: Sequence[list[str]]) -> NsightCsv:
    units = next((row for row in rows if row and not row[0].strip()), [])
    launches = list(_of_launches(rows))
    metrics = {
        name: cells.get(units, name)
        for name in cells.columns
        if name and name not in ABOUT_LAUNCH and "_Range:" not in name  # ranges of NVTX
    }
    reader = ValueReader(cells.get(row, name) for row in launches for name in metrics)

    def measured(row: list[str]) -> dict[str, tuple[Value, str]]:
        return {name: reader.measure(cells.get(row, name), unit) for name, unit in metrics.items()}

    return NsightCsv(tuple(cells.launch(row, measured(row)) for row in launches), ())


def _long(cells: _Cells, rows: Sequence[list[str]]) -> NsightCsv:
    kept = list(_of_launches(rows))
    needed = cells.columns.get(VALUE, 0)
    if short := next((number for number, row in enumerate(kept, start=1) if len(row) <= needed), None):
        raise NsightCsvError(f"row {short} ends before its value: the file is cut off")
    reader = ValueReader(cells.get(row, VALUE) for row in kept)
    first: dict[tuple[str, str], list[str]] = {}
    found: dict[tuple[str, str], list[tuple[str, str, Value, str]]] = {}
    rules: list[NsightRule] = []
    for row in kept:
        key = (cells.get(row, "Process ID"), row[0].strip())
        first.setdefault(key, row)
        section, name = cells.get(row, "Section Name"), cells.get(row, "Metric Name")
        if name:
            value, unit = reader.measure(cells.get(row, VALUE), cells.get(row, "Metric Unit"))
            found.setdefault(key, []).append((section, name, value, unit))
        if rule := cells.get(row, "Rule Name"):
            kind, said = cells.get(row, "Rule Type"), cells.get(row, "Rule Description")
            speedup = reader.measure(cells.get(row, "Estimated Speedup"), "%")[0]
            estimated = speedup if isinstance(speedup, float) else None
            rules.append(
                NsightRule(_id(row), section, rule, kind, said, estimated, cells.get(row, "Estimated Speedup Type"))
            )
    launches = (cells.launch(row, _by_name(found.get(key, []))) for key, row in first.items())
    return NsightCsv(tuple(launches), tuple(rules))


def _by_name(found: Sequence[tuple[str, str, Value, str]]) -> dict[str, tuple[Value, str]]:
    """Return metrics by name, those whose name means several things with their section in front."""
    meanings: dict[str, set[tuple[Value, str]]] = {}
    for _, name, value, unit in found:
        meanings.setdefault(name, set()).add((value, unit))
    told: dict[str, tuple[Value, str]] = {}
    for section, name, value, unit in found:
        key = name if len(meanings[name]) == 1 else f"{section}: {name}"
        told.setdefault(key if told.get(key, (value, unit)) == (value, unit) else f"{key} [{unit}]", (value, unit))
    return told


__all__ = ["KernelLaunch", "NsightCsv", "NsightCsvError", "NsightRule", "base_unit", "errors", "parse"]
