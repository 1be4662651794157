"""Neighbours that the kernel does not tell of: guests of one host share its memory, and the caches before it.

Copies that no cache holds take longer while others use the memory too. On a shared host their time and a small
network's rose and fell together (correlation 0.8 over nine seconds; a tenth on the copies was a twentieth on the
network), while the cores' clock stayed the same and the hypervisor took no time. There one second
of a network of 4 ms had medians of 3.7 to 5.4 ms, and three of them together gave a result within 5 % of the usual one
in 3 of 10 cases; the calmer half of eighteen, by the faster of the copies before and after each, in 9 of 10.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median

import numpy as np

from paretune.core.target import Target
from paretune.storage.atomic_files import write_text
from paretune.system.machine_cache import private_folder

CELLS = 2**24
"""float32 numbers that are read, and as many that are written: 64 MiB each, more than caches hold."""
SECONDS = 0.5
"""Length of one look: a single copy's time varies more than what is looked for."""
KEPT, DAY = 200, 86_400.0
"""Looks that are remembered: the latest, and for how long in seconds, as a machine may be moved to another host."""
BEST = 10
"""Percentile of them that counts as what this machine can do: the very best may have been luck."""
SLOWER = 0.05
"""Share by which copies take longer when the memory counts as used by others."""


class MemoryContention:
    """How fast memory is copied, now and usually on this machine.

    Args:
        file: where looks are remembered; None does not look.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._looks: list[tuple[float, float]] = []
        if file is None:
            return
        self._source = np.ones(CELLS, np.float32)
        self._target = np.empty_like(self._source)
        with suppress(OSError, ValueError, TypeError):  # damaged or from elsewhere: then it is learnt anew
            since = time.time() - DAY
            self._looks = [(float(when), float(ms)) for when, ms in json.loads(file.read_text()) if when > since]

    def look(self) -> float | None:
        """Return the median CPU time of a copy in ms, and remember it; None where nobody looks."""
        if self._file is None:
            return None
        times: list[float] = []
        end = time.monotonic() + SECONDS
        while not times or time.monotonic() < end:
            start = time.thread_time_ns()
            np.multiply(self._source, np.float32(1.5), out=self._target)
            times.append((time.thread_time_ns() - start) / 1e6)
        self._looks = [*self._looks, (time.time(), median(times))][-KEPT:]
        return self._looks[-1][1]

    def slowed(self, looks: Sequence[float | None]) -> float | None:
        """Return by which share the fastest of these looks is slower than a copy is on this machine, at least 0.

        The fastest: any may be hit by what is over in an instant. None where nobody looked.
        """
        known = [ms for ms in looks if ms is not None]
        if not known:
            return None
        return max(0.0, min(known) / float(np.percentile([ms for _, ms in self._looks], BEST)) - 1)

    def remember(self) -> None:
        """Write the looks down for the next measurement."""
        if self._file is None:
            return
        with suppress(OSError):  # a full disk is no reason to lose what was measured
            write_text(self._file, json.dumps(self._looks))


@contextmanager
def neighbours(target: Target, patience: float) -> Iterator[MemoryContention]:
    """Watch the memory of a CPU that is measured, unless there is no patience; what was learnt of it is kept."""
    watched = target.device == "cpu" and patience > 0
    found = MemoryContention(private_folder("memory") / "looks.json" if watched else None)
    yield found
    found.remember()


def note(slowed: Sequence[float | None]) -> list[str]:
    """Say that others used the memory while it was sampled; nothing when they did not, or that is not known."""
    worst = [share for share in slowed if share is not None and share > SLOWER]
    if not worst:
        return []
    told = f"copies of memory were up to {max(worst):.0%} slower than they are on this machine"
    return [f"neighbours: {told}, {len(worst)} of {len(slowed)} times"]
