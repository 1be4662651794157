"""Whether work on other cores disturbs a duet: two artefacts measured alone and beside such work, in turns.

Two artefacts on unlike runtimes take turns in the same two processes while the work beside them runs and stops, in the
order A B B A. What the work does to both alike leaves their ratio as it is. What remains is the shift of the ratio,
which a duet would not notice. Work is allowed beside duets only if the whole interval of the shift lies within a bound
(an equivalence test by two one-sided tests: Schuirmann, Journal of Pharmacokinetics and Biopharmaceutics 15(6), 1987).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from paretune.core.target import Target
from paretune.core.types import Image
from paretune.profiling.environment import environment
from paretune.profiling.gpu.contention import monitor_device
from paretune.profiling.latency.compare import levels, summarised
from paretune.profiling.latency.median_interval import NORMAL, student_quantile
from paretune.profiling.latency.rounds import MeasuringRound, turn
from paretune.profiling.latency.samples import MeasurementProtocol
from paretune.profiling.latency.shared_images import saved_images
from paretune.profiling.latency.worker_client import Worker
from paretune.system.device_lock import exclusive_device

BOUND = 0.03
"""Largest shift of the ratio that is allowed, as a share: the width to which a duet knows its ratio on a CPU."""
ROUNDS, PAIRS, BLOCKS = 4, 4, 4
"""Pairs of fresh processes; pairs of phases, alone and beside the work, in each; blocks of each artefact in a phase."""
BUSY = 0.5
"""Share of a phase for which the work beside must have had a core; with less it disturbed nothing because it slept."""


class BesideWork(Protocol):
    """Work that a probe runs beside a measurement."""

    def running(self) -> AbstractContextManager[None]:
        """Return a context in which the work runs; it stands still outside of it."""

    def cpu_seconds(self) -> float:
        """Return the CPU time that the work has taken so far."""


@dataclass(frozen=True)
class RatioShift:
    """Shift of the ratio of two latencies by work beside them, as a share (0.01 is 1 %), with its 95 % interval."""

    shift: float
    low: float
    high: float

    def within(self, bound: float = BOUND) -> bool:
        """Return whether the whole interval lies within a bound, which is one of ratios: both ways count alike."""
        return 1 / (1 + bound) < 1 + self.low and 1 + self.high < 1 + bound

    def tree(self) -> dict[str, float]:
        """Return the shift and its ends as plain data."""
        return asdict(self)


def shift_of(alone: NDArray[np.float64], beside: NDArray[np.float64]) -> RatioShift:
    """Return by how much a ratio is larger beside work than alone.

    The interval is Student's over the rounds, and at least as wide as that over all pairs, since a few rounds may agree
    by chance.

    Args:
        alone: (rounds, pairs) logarithms of the ratio, at least two rounds.
        beside: (rounds, pairs) those of the neighbouring phases with work beside.
    """
    pairs = beside - alone
    rounds = pairs.mean(axis=1)
    between = student_quantile(len(rounds) - 1) * float(rounds.std(ddof=1)) / len(rounds) ** 0.5
    within = NORMAL * float(pairs.std(ddof=1)) / pairs.size**0.5
    centre, half = float(rounds.mean()), max(between, within)
    return RatioShift(math.expm1(centre), math.expm1(centre - half), math.expm1(centre + half))


def measure_shift(
    artefacts: Sequence[Path],
    images: Sequence[Image] | Path,
    target: Target,
    cores: Sequence[int],
    work: BesideWork,
    protocol: MeasurementProtocol = MeasurementProtocol(),  # noqa: B008 - frozen
    *,
    rounds: int = ROUNDS,
    pairs: int = PAIRS,
) -> RatioShift:
    """Measure the shift of the ratio of two artefacts by work beside them.

    Args:
        artefacts: folders of two artefacts on unlike runtimes.
        images: RGB uint8 images, or a file of ``saved_images``.
        target: a CPU, and threads.
        cores: to measure on.
        work: that stands still now, and runs on other cores.
        protocol: warm-up, length of a block, time limits.
        rounds: pairs of fresh processes, at least two.
        pairs: pairs of phases of each round.

    Raises:
        RuntimeError: a measuring process died or hung, or the work beside mostly slept.
    """
    rng, surroundings = np.random.default_rng(0), environment(target)
    phases: list[MeasuringRound] = []
    with saved_images(images) as file, monitor_device(target):
        for _ in range(rounds):
            with exclusive_device(target.device, alone=True), ExitStack() as stack:
                workers = [
                    stack.enter_context(Worker(folder, file, target, protocol, cores=cores)) for folder in artefacts
                ]
                for worker in workers:
                    worker.warm_up()
                phase = partial(_phase, workers, rng, protocol)
                for pair in range(pairs):
                    phases += _pair(phase, work, beside_first=pair % 2 == 1)
    medians = summarised(phases, target, surroundings, None).latency
    logs = levels(medians)[0]
    ratios = (logs[:, 0] - logs[:, 1]).reshape(rounds, pairs, 2)
    return shift_of(ratios[:, :, 0], ratios[:, :, 1])


def _phase(workers: Sequence[Worker], rng: np.random.Generator, protocol: MeasurementProtocol) -> MeasuringRound:
    """Return blocks of warm processes in turn, each order followed by its reverse."""
    orders = [rng.permutation(len(workers)) for _ in range(BLOCKS // 2)]
    rows = [row for order in orders for row in (order, order[::-1])]
    batches = tuple(turn(workers, row, protocol, number) for number, row in enumerate(rows))
    return MeasuringRound(batches, True, tuple(worker.facts for worker in workers), ())


def _pair(phase: Callable[[], MeasuringRound], work: BesideWork, *, beside_first: bool) -> list[MeasuringRound]:
    """Return a phase alone and one beside work, in this order, measured in either.

    Raises:
        RuntimeError: the work mostly slept.
    """
    if not beside_first:
        alone = phase()
    before = work.cpu_seconds()
    with work.running():
        beside = phase()
    seconds = sum(batch.elsewhere["seconds"] for row in beside.batches for batch in row)
    if (spent := work.cpu_seconds() - before) < BUSY * seconds:
        raise RuntimeError(f"the work beside had a core for {spent:.2f} s of {seconds:.2f} s only")
    if beside_first:
        alone = phase()
    return [alone, beside]


def shift_text(shift: RatioShift) -> str:
    """Return a shift with its interval as text, such as ``+0.4 % (-0.6 to +1.4 %)``."""
    return f"{100 * shift.shift:+.1f} % ({100 * shift.low:+.1f} to {100 * shift.high:+.1f} %)"


def sharing_facts(shift: RatioShift) -> dict[str, Any]:
    """Return the decision by a shift, with the shift and its bound, as plain data."""
    text = f"the ratio of the baselines' latencies shifts by {shift_text(shift)}"
    allowed = shift.within()
    reason = f"{text}, {'' if allowed else 'not '}within ±{100 * BOUND:g} %"
    return {"allowed": allowed, "reason": reason, **shift.tree(), "bound": BOUND}
