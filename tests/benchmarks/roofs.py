"""Whether the roofs that advice is worked out from are those of the machine: beside a stopwatch, in turns."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import torch
from figures import Figures
from torch.utils.benchmark import Timer

from paretune.profiling.roofline import hardware_peaks as roofs

SIDE = 512
"""Of the square matrices."""
BYTES = 1 << 19
"""Working set of the copy: a cache holds it."""
TURNS = 15
"""Ours and the stopwatch take turns so often, so that neighbours slow both."""
SECONDS = 0.2
OFF = 0.10
"""Share by which the median ratio may be off."""


def fill(figures: Figures) -> None:
    """Measure each roof and the same work by a stopwatch, in turns, and compare them pair by pair."""
    torch.set_num_threads(1)
    one, other = torch.randn(SIDE, SIDE), torch.randn(SIDE, SIDE)
    source, into = torch.randn(BYTES // 8), torch.empty(BYTES // 8)
    whole, turned = (torch.randint(-127, 127, (SIDE, SIDE), dtype=torch.int8) for _ in range(2))
    cases: dict[str, tuple[Callable[[], float], str, float]] = {
        "fp32": (lambda: roofs._products("fp32", SIDE, "cpu"), "torch.mm(one, other, out=out)", 2 * SIDE**3),
        "int8": (lambda: roofs._products("int8", SIDE, "cpu"), "torch._int_mm(whole, turned)", 2 * SIDE**3),
        "copies": (lambda: roofs._copies(BYTES, "cpu"), "into.copy_(source)", 2 * source.nbytes),
    }
    given = {"one": one, "other": other, "out": torch.empty_like(one), "source": source, "into": into}
    given |= {"whole": whole, "turned": turned.t()}
    for name, (ours, statement, work) in cases.items():
        watch = Timer(statement, globals={"torch": torch, **given})
        ratios = []
        for _ in range(TURNS):
            found = watch.blocked_autorange(min_run_time=SECONDS)
            ratios.append(ours() / (work / min(found.times)))
        title = f"roof of {name}: median of {TURNS} from a stopwatch taken in turns"
        figures.add(title, 100 * abs(median(ratios) - 1), "%", at_most=100 * OFF)
        figures.more[title] = ratios
