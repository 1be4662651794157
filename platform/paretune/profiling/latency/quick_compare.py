"""Quick interleaved timing of functions in this process, for decisions on the way.

Published figures are measured in fresh processes, by ``measure`` and ``compare``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from paretune.core.target import Target

InterleavedRun = Callable[[], object]


def clock_for(target: Target) -> Callable[[], float]:
    """Return the clock for a target: CPU time if one thread of a CPU does all the work, else wall time.

    Other users of the core hardly change CPU time. Wall time exaggerates the longer of two functions, which is
    interrupted in every call.
    """
    return time.process_time if target.device == "cpu" and target.threads == 1 else time.perf_counter


def interleaved(
    runs: Sequence[InterleavedRun],
    *,
    rounds: int = 5,
    block: float = 2e-3,
    clock: Callable[[], float] = time.perf_counter,
) -> NDArray[np.float64]:
    """Time functions in turn, each order followed by its reverse, which cancels a steady drift.

    Args:
        runs: the functions; the caller keeps others off the device.
        rounds: number of turns of each function.
        block: seconds of a turn, in which a function is called at least twice.
        clock: clock in seconds.

    Returns:
        (rounds, runs) seconds of the fastest call of each turn, since disturbances only make a call longer.
    """
    counts = [int(np.clip(block / max(_fastest(run, 2, clock), 1e-9), 2, 1000)) for run in runs]
    orders = np.arange(len(runs))
    times = np.empty((rounds, len(runs)))
    for number in range(rounds):
        for index in orders if number % 2 == 0 else orders[::-1]:
            times[number, index] = _fastest(runs[index], counts[index], clock)
    return times


def quick_ratio(
    run: InterleavedRun, base: InterleavedRun, *, seconds: float = 2.0, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Return the time of one function as a share of another's, the median over rounds.

    Args:
        run: the function.
        base: the function with which it is compared.
        seconds: approximate time of the comparison, which has at least five rounds.
        clock: clock in seconds.
    """
    once = interleaved([run, base], rounds=1, block=0.0, clock=clock).sum()
    rounds = int(np.clip(seconds / max(2 * once, 1e-9), 5, 25))
    times = interleaved([run, base], rounds=rounds, block=seconds / rounds / 4, clock=clock)
    return float(np.median(times[:, 0] / times[:, 1]))


def _fastest(run: InterleavedRun, calls: int, clock: Callable[[], float]) -> float:
    def timed() -> float:
        began = clock()
        run()
        return clock() - began

    return min(timed() for _ in range(calls))
