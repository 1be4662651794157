"""Tables of the kernels by Nsight Compute."""

from __future__ import annotations

from collections.abc import Sequence

from paretune.core.metrics import UNKNOWN
from paretune.profiling.nsight.kernels import BOUND_FROM, Kernel
from paretune.profiling.nsight.run import NsightResult, NsightResults
from paretune.reports.tables import Table, number

TOP = 15
"""Kernels with a row of their own; the others are added up."""
NAME, TEXT, ADVICE = 48, 240, 3
"""Characters of a kernel's name and of a hint, and number of hints; profile.json has all of them."""
HEAD = (
    *("kernel", "runs", "ms", "share", "SM %", "mem %", "DRAM %", "warps %", "waves"),
    "bound by",
)
NEVER = "times under ncu are never latency, take the shares only: each kernel runs alone"
BOUND = (
    f"a kernel is bound by compute (SM) or memory from {BOUND_FROM:g} % of that peak on, by latency below in both: "
    "the threshold of NVIDIA's speed-of-light rule"
)


def nsight_tables(names: Sequence[str], looks: NsightResults) -> list[Table]:
    """Return a table for each artefact; one note where Nsight Compute was not run.

    Args:
        names: names of the artefacts.
        looks: their kernels.
    """
    title = "kernels by Nsight Compute"
    if looks.reason is not None:
        return [Table(title, notes=(f"not known: {looks.reason}",))]
    return [_table(f"{name}: {title} {looks.version}", look) for name, look in zip(names, looks.looks, strict=True)]


def _table(title: str, look: NsightResult) -> Table:
    if look.reason is not None:
        return Table(title, notes=(f"not known: {look.reason}",))
    top, rest = look.kernels[:TOP], look.kernels[TOP:]
    rows = [_row(kernel) for kernel in top]
    if rest:
        runs, seconds, share = (sum(getattr(x, figure) for x in rest) for figure in ("launches", "seconds", "share"))
        others = (f"the rest ({len(rest)} kernels)", str(runs), f"{seconds * 1e3:.4f}", f"{share:.1%}")
        rows.append((*others, *[UNKNOWN] * (len(HEAD) - len(others))))
    times = "" if look.passes is None else f" and {look.passes} times over"
    notes = [NEVER + times, BOUND]
    reasons = dict.fromkeys(f"{figure}: {why}" for kernel in top for figure, why in kernel.unknown.items())
    notes += [f"not known, {reason}" for reason in reasons]
    notes += [
        f"{_short(one.kernel, NAME)}: {_short(one.text, TEXT)} ({one.rule}, by its own estimate {one.saves:.0%} of all)"
        for one in look.advice[:ADVICE]
    ]
    return Table(title, HEAD, tuple(rows), tuple(notes))


def _row(kernel: Kernel) -> tuple[str, ...]:
    percents = (kernel.sm_percent, kernel.memory_percent, kernel.dram_percent, kernel.occupancy_percent)
    return (
        _short(kernel.name, NAME),
        str(kernel.launches),
        f"{kernel.seconds * 1e3:.4f}",
        f"{kernel.share:.1%}",
        *(number(percent, ".0f") for percent in percents),
        number(kernel.waves, ".2f"),
        kernel.bound or UNKNOWN,
    )


def _short(text: str, most: int) -> str:
    text = " ".join(text.removeprefix("void ").split())
    return text if len(text) <= most else f"{text[: most - 1]}…"
