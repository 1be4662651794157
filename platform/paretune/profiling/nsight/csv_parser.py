"""Reports of Nsight Compute, as the CSV that ``ncu --import REPORT --csv --print-units base`` prints of them.

The page ``raw`` has a row for each launch of a kernel and a column for each metric, with the units in a row of their
own; the page ``details`` has, among others, a row for each rule of each launch. Older versions of ncu
write nanoseconds as ``nsecond``, newer ones (2025.3 does) as ``ns``. In the locale ``C``,
which ``run`` sets, numbers are English ones, with commas between thousands. See
https://docs.nvidia.com/nsight-compute/NsightComputeCli/index.html, sections "Output Pages" and "Command Line Options".

NVIDIA's Python module ``ncu_report`` would read a report without CSV, but it lies outside of Python's path, in the
folder of an installation that may be anywhere, and is compiled for a few versions of Python only.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass

BASE_UNITS = {"ns": 1e-9, "nsecond": 1e-9}
"""Units of time → seconds."""


class NsightCsvError(Exception):
    """A text that is no whole CSV of Nsight Compute; the message is the reason, with the errors that ncu printed."""


@dataclass(frozen=True)
class NsightRule:
    """The result of one of Nsight Compute's rules for a launch."""

    launch: int
    name: str
    kind: str
    """``OPT``: an optimisation, ``WRN``: a warning, ``INF``: a remark."""
    text: str
    speedup: float | None
    """Estimated speed-up in %; None where the rule estimates none."""
    scope: str
    """``global``: the speed-up is the kernel's, ``local``: that of a part of it, or empty."""


@dataclass(frozen=True)
class KernelLaunch:
    """One run of a kernel."""

    id: int
    name: str
    metrics: Mapping[str, float]
    """Metric → value, a time in seconds; words and unknown values are left out."""

    def number(self, *names: str) -> float | None:
        """Return the value of the first of these metrics that the launch has; None if it has none of them."""
        return next((self.metrics[name] for name in names if name in self.metrics), None)


def launches(raw: str) -> tuple[KernelLaunch, ...]:
    """Return the launches on a page ``raw``.

    Raises:
        NsightCsvError: there is no header, the text is cut off, or a row has not one cell for each column.
    """
    rows = _rows(raw)
    units = next((row for row in rows if not row["ID"]), {})
    launched = [row for row in rows if row["ID"].isdecimal()]
    if uneven := next((row for row in launched if None in row or None in row.values()), None):
        raise NsightCsvError(f"the file is damaged: the row of ID {uneven['ID']} has not one cell for each column")
    return tuple(KernelLaunch(int(row["ID"]), row["Kernel Name"], _metrics(row, units)) for row in launched)


def rules(details: str) -> tuple[NsightRule, ...]:
    """Return the results of rules on a page ``details``.

    Raises:
        NsightCsvError: there is no header, or the text is cut off.
    """
    return tuple(
        NsightRule(
            int(row["ID"]),
            row["Rule Name"],
            row["Rule Type"],
            row["Rule Description"],
            _number(row["Estimated Speedup"]),
            row.get("Estimated Speedup Type") or "",
        )
        for row in _rows(details)
        if row["ID"].isdecimal() and row.get("Estimated Speedup") is not None and row["Rule Name"]
    )


def errors(log: str) -> tuple[str, ...]:
    """Return the errors that ncu printed, each once, without the mark before them."""
    marked = (line.strip() for line in log.splitlines() if line.strip().startswith("==ERROR=="))
    return tuple(dict.fromkeys(text for line in marked if (text := line.removeprefix("==ERROR==").strip())))


def _rows(text: str) -> list[dict[str, str]]:
    """Return the rows by column, the row of units among them; a row may lack its last columns (they are None)."""
    lines = [line for line in text.splitlines(keepends=True) if not line.startswith("==")]  # ncu's own messages
    begin = next((number for number, line in enumerate(lines) if line.startswith('"ID",')), None)
    if begin is None:
        printed = "; ".join(errors(text))
        raise NsightCsvError(f'no CSV of Nsight Compute, no line begins with "ID"{f": {printed}" if printed else ""}')
    if not lines[-1].endswith("\n"):
        raise NsightCsvError(f"the file is cut off, it ends in {lines[-1][-40:]!r}")
    try:
        reader = csv.DictReader(lines[begin:], strict=True)
        rows = list(reader)
    except csv.Error as error:
        raise NsightCsvError(f"the file is cut off or damaged: {error}") from error
    if "Kernel Name" not in (reader.fieldnames or ()):
        raise NsightCsvError(f"the header has no column 'Kernel Name': {', '.join((reader.fieldnames or ())[:20])}")
    return rows


def _metrics(row: Mapping[str, str], units: Mapping[str, str]) -> dict[str, float]:
    values = {name: _number(cell) for name, cell in row.items() if "__" in name}  # other columns are no metrics
    return {
        name: value * BASE_UNITS.get(units.get(name, ""), 1.0) for name, value in values.items() if value is not None
    }


def _number(cell: str) -> float | None:
    """Return the number in a cell; None for words, such as ``n/a`` or a name, and for what is not finite."""
    try:
        value = float(cell.replace(",", ""))
    except ValueError:
        return None
    return value if math.isfinite(value) else None
