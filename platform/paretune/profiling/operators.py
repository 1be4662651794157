"""The time of each operator of an artefact, from a pass of its own, since counting slows a network down.

The pass gives shares only; times are these shares of the network's time without counting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from paretune.core.errors import FailureReason, one_line
from paretune.core.target import Target
from paretune.core.types import Image
from paretune.profiling.latency.samples import MeasurementProtocol, Mode, SampleBatch, milliseconds
from paretune.profiling.latency.shared_images import saved_images
from paretune.profiling.latency.worker_client import Worker
from paretune.runtimes.base import BETWEEN, ON_THE_HOST, Operator, is_transfer
from paretune.system.cpu_cores import contention, shares
from paretune.system.device_lock import exclusive_device
from paretune.system.machine_cache import scratch

COUNTED = "paretune.runtimes.predictor:load_timed"
LEAD_IN, INFERENCES = 20, 30
"""Inferences that warm caches and threads up, and inferences that are counted: a profiler keeps all their events."""
INFLATED = 3.0
"""Slowdown by counting above which the shares are only indicative."""
UNKNOWN_MODULE = "(not known)"
TRACE = "trace.json.gz"


@dataclass(frozen=True)
class OperatorGroup:
    """Operators of one module, or of one kind."""

    name: str
    count: int
    share: float
    """Share of the network, 0 to 1."""
    scaled_ms: float


@dataclass(frozen=True)
class OperatorTimes:
    """The operators of an artefact's network with their times."""

    operators: tuple[Operator, ...]
    """The operators, the longest first."""
    counted_ms: float
    """Mean wall time of the network while operators were counted."""
    counted_ms_p50: float
    """Median time of the network while operators were counted, in the mode of ``network_ms``."""
    network_ms: float
    """Median time of the network without counting."""
    inferences: int
    disturbed: str | None = None
    """How others used the cores during the best attempt; None if nobody did."""
    trace: bytes | None = field(default=None, repr=False)
    """Trace for https://ui.perfetto.dev as gzipped JSON; None if the runtime makes none."""

    @property
    def total_ms(self) -> float:
        """Return the total time of all operators while they were counted."""
        return sum(operator.ms for operator in self.operators)

    @property
    def coverage(self) -> float:
        """Return the operators' share of the network's wall time; the rest is mostly counting."""
        return self.total_ms / self.counted_ms

    @property
    def inflation(self) -> float:
        """Return the slowdown of the network by counting."""
        return self.counted_ms_p50 / self.network_ms

    def share(self, operators: Iterable[Operator]) -> float:
        """Return the share of some operators in the time of all, 0 to 1."""
        return sum(operator.ms for operator in operators) / self.total_ms

    def scaled_ms(self, operators: Iterable[Operator]) -> float:
        """Return the time of some operators without counting."""
        return self.share(operators) * self.network_ms

    def places(self, device: str) -> tuple[dict[str, float], float, float]:
        """Return the milliseconds of each module, of the host and of transfers, without counting.

        The host computes what lies between the networks of a detector; a CPU is its own host. Operators without a
        module are in none of the three.

        Args:
            device: device of the target.
        """
        modules: dict[str, float] = {}
        host = transfer = 0.0
        for operator in self.operators:
            ms = self.scaled_ms([operator])
            if is_transfer(operator.kind):
                transfer += ms
            elif operator.kind == ON_THE_HOST or (device == "cpu" and operator.part == BETWEEN):
                host += ms
            elif operator.module is not None:
                modules[operator.module] = modules.get(operator.module, 0.0) + ms
        return modules, host, transfer

    def by_module(self, depth: int) -> tuple[OperatorGroup, ...]:
        """Return groups by the first words of the modules' dotted names, the longest first."""
        return self._grouped(
            lambda operator: UNKNOWN_MODULE if operator.module is None else prefix(operator.module, depth)
        )

    def by_kind(self) -> tuple[OperatorGroup, ...]:
        """Return groups by kind of operator, the longest first."""
        return self._grouped(lambda operator: operator.kind)

    def _grouped(self, key: Callable[[Operator], str]) -> tuple[OperatorGroup, ...]:
        members: dict[str, list[Operator]] = {}
        for operator in self.operators:
            members.setdefault(key(operator), []).append(operator)
        groups = [
            OperatorGroup(name, len(some), self.share(some), self.scaled_ms(some)) for name, some in members.items()
        ]
        return tuple(sorted(groups, key=lambda group: -group.share))

    @property
    def notes(self) -> tuple[str, ...]:
        """Return remarks for readers of the shares."""
        slower = f"{self.inferences} inferences counted in a process of their own, {self.inflation:.2f} times as slow"
        covered = f"operators explain {self.coverage:.0%} of that; times are shares of the median that is not counted"
        indicative = f"indicative: counting made the network more than {INFLATED:g} times slower"
        remarks = [indicative] if self.inflation > INFLATED else []
        remarks += [f"contended: while operators were counted, {self.disturbed}"] if self.disturbed else []
        return (f"{slower}; {covered}", *remarks)

    def to_dict(self, depth: int = 2) -> dict[str, Any]:
        """Return all but the trace as plain data, with modules grouped by so many words of their names."""
        rows = [
            {
                **vars(operator),
                "share": self.share([operator]),
                "scaled_ms": self.scaled_ms([operator]),
            }
            for operator in self.operators
        ]
        return {
            "inferences": self.inferences,
            "counted_ms": self.counted_ms,
            "network_ms": self.network_ms,
            "inflation": self.inflation,
            "indicative": self.inflation > INFLATED,
            "coverage": self.coverage,
            "disturbed": self.disturbed,
            "operators": rows,
            "modules": [vars(group) for group in self.by_module(depth)],
            "kinds": [vars(group) for group in self.by_kind()],
        }


def prefix(module: str, depth: int) -> str:
    """Return the first words of a dotted name."""
    return ".".join(module.split(".")[:depth])


def count(
    artefact: Path,
    images: Sequence[Image] | Path,
    target: Target,
    network_ms: float,
    mode: Mode = "wall",
    protocol: MeasurementProtocol = MeasurementProtocol(),  # noqa: B008 - frozen
    *,
    loader: str = COUNTED,
) -> OperatorTimes | str:
    """Count the operators of one artefact in a fresh process, alone on the target's device.

    If others used the cores meanwhile, up to ``protocol.spare`` further attempts are made, and the least disturbed one
    is kept; a process that fails ends the attempts.

    Args:
        artefact: folder of the artefact.
        images: RGB uint8 images, or a file of ``saved_images``.
        target: device and threads.
        network_ms: median time of the network without counting.
        mode: mode of that median.
        protocol: time limits, and number of attempts.
        loader: ``module:function`` (folder, target) → predictor whose core counts.

    Returns:
        The operators, or why they are not known; a `FailureReason` if the runtime could have counted them.

    Raises:
        UserError: the artefact is damaged, or the machine has fewer cores than the target's threads.
    """
    attempts: list[tuple[float, OperatorTimes]] = []
    with exclusive_device(target.device), saved_images(images) as file:
        while not attempts or (attempts[-1][1].disturbed and len(attempts) <= protocol.spare):
            try:
                batch, operators, trace = _attempt(artefact, file, target, protocol, loader)
            except RuntimeError as error:
                if attempts:
                    break
                reason = one_line(error)
                return reason if isinstance(error, NotImplementedError) else FailureReason(reason)
            elsewhere, wall = shares([batch.elsewhere]), milliseconds(batch.rows, "network", "wall")
            times = OperatorTimes(
                operators,
                counted_ms=float(wall.mean()),
                counted_ms_p50=_median(batch, mode),
                network_ms=network_ms,
                inferences=len(wall),
                disturbed="; ".join(contention(elsewhere)) or None,
                trace=trace,
            )
            attempts.append((sum(elsewhere.values()), times))
    best = min(attempts, key=lambda entry: entry[0])[1]
    return best if best.total_ms else "the runtime's profiler told of no operator"


def _attempt(
    artefact: Path, images: Path, target: Target, protocol: MeasurementProtocol, loader: str
) -> tuple[SampleBatch, tuple[Operator, ...], bytes | None]:
    """Count in one process; returns the counted inferences, their operators, and the trace.

    Raises:
        NotImplementedError: the runtime does not count operators.
        RuntimeError: the process died or hung.
    """
    with (
        scratch() as folder,
        Worker(artefact, images, target, protocol, loader) as worker,
    ):
        trace = Path(folder) / TRACE
        batch, operators = worker.count(LEAD_IN, INFERENCES, trace)
        kept = trace.read_bytes() if trace.is_file() else None
    return batch, tuple(Operator(**entry) for entry in operators), kept


def _median(batch: SampleBatch, mode: Mode) -> float:
    """Return the network's median in a mode, or in wall time if no inference was undisturbed."""
    times = milliseconds(batch.rows, "network", mode)
    return float(np.median(times if len(times) else milliseconds(batch.rows, "network", "wall")))
