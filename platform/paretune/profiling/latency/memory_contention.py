"""Contention of memory by other guests of the same host, of which the kernel knows nothing.

Copies that no cache holds take longer while others use the memory too. On a shared host their time and that of a small
network rose and fell together (correlation 0.8 over nine seconds; 10 % on the copies was 5 % on the network), while the
clock of the cores stayed the same and the hypervisor took no time. There one second of a network of 4 ms had medians of
3.7 to 5.4 ms. Three of them together gave a result within 5 % of the usual one in 3 of 10 cases; the calmer half of
eighteen, by the faster of the copies before and after each, in 9 of 10. ``profile`` measures artefacts alone and needs
this; a sweep measures duets, in which such slowdowns cancel.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median

import numpy as np

from paretune.core.target import Target
from paretune.storage.atomic_files import write_text
from paretune.system.machine_cache import private_folder

CELLS = 2**24
"""Number of float32 values that are read, and that are written: 64 MiB each, more than caches hold."""
SECONDS = 0.5
"""Seconds of copying for one figure: the time of a single copy varies too much."""
KEPT, DAY = 200, 86_400.0
"""Most figures that are remembered, and for how many seconds: a machine may be moved to another host."""
BEST = 10
"""Percentile of the figures that counts as the machine's speed: the very best may have been luck."""
SLOWER = 0.05
"""Slowdown of copies above which the memory counts as used by others."""


def timed_copies(cells: int = CELLS, seconds: float = SECONDS) -> Callable[[], float]:
    """Return a function that copies memory for some seconds and returns the median CPU time of a copy in ms."""
    source = np.ones(cells, np.float32)
    target = np.empty_like(source)

    def copy_ms() -> float:
        times: list[float] = []
        end = time.monotonic() + seconds
        while not times or time.monotonic() < end:
            start = time.thread_time_ns()
            np.multiply(source, np.float32(1.5), out=target)
            times.append((time.thread_time_ns() - start) / 1e6)
        return median(times)

    return copy_ms


class MemoryContention:
    """The time of memory copies, now and usually on this machine.

    Args:
        file: file in which the figures are remembered.
        copy_ms: function that takes one figure in ms; None switches copying off.
        now: clock in seconds since 1970.
    """

    def __init__(self, file: Path, copy_ms: Callable[[], float] | None, now: Callable[[], float] = time.time) -> None:
        self._file, self._copy_ms, self._now = file, copy_ms, now
        self._looks: list[tuple[float, float]] = []
        with suppress(OSError, ValueError, TypeError):  # a damaged file: the figures are taken again
            since = now() - DAY
            self._looks = [(float(when), float(ms)) for when, ms in json.loads(file.read_text()) if when > since]

    def look(self) -> float | None:
        """Return the median CPU time of a copy in ms, and remember it; None if copying is off."""
        if self._copy_ms is None:
            return None
        self._looks = [*self._looks, (self._now(), self._copy_ms())][-KEPT:]
        return self._looks[-1][1]

    def slowed(self, looks: Sequence[float | None]) -> float | None:
        """Return the slowdown of the fastest of these copies against this machine's usual time, at least 0.

        The fastest counts, since a short disturbance may hit any. None if none is known.
        """
        known = [ms for ms in looks if ms is not None]
        if not known:
            return None
        return max(0.0, min(known) / float(np.percentile([ms for _, ms in self._looks], BEST)) - 1)

    def remember(self) -> None:
        """Write the figures to the file for the next measurement."""
        if self._copy_ms is not None:
            with suppress(OSError):  # a full disk must not cost the measurement
                write_text(self._file, json.dumps(self._looks))


@contextmanager
def neighbours(target: Target, patience: float) -> Iterator[MemoryContention]:
    """Yield the contention of memory for a measurement on a CPU, off without patience; its figures are kept."""
    if target.device == "cpu" and patience > 0:
        memory = MemoryContention(private_folder("memory") / "looks.json", timed_copies())
    else:
        memory = MemoryContention(Path(os.devnull), None)
    yield memory
    memory.remember()


def note(slowed: Sequence[float | None]) -> list[str]:
    """Return a remark that others used the memory during sampling; none if they did not, or it is not known."""
    worst = [share for share in slowed if share is not None and share > SLOWER]
    if not worst:
        return []
    copies = f"copies of memory were up to {max(worst):.0%} slower than they are on this machine"
    return [f"neighbours: {copies}, {len(worst)} of {len(slowed)} times"]
