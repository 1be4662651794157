"""The time of each operator of a torch module, by torch's profiler in this process."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from paretune.profiling.operators import INFERENCES, LEAD_IN, OperatorTimes
from paretune.runtimes.base import Operator
from paretune.system.device_lock import exclusive_device

if TYPE_CHECKING:
    from torch import Tensor, nn

PART = "core"


def module_operators(module: nn.Module, example: Tensor, device: str = "cuda") -> OperatorTimes:
    """Run a copy of a module in eval mode, without and with torch's profiler, and return the time of each operator.

    Args:
        module: stays unchanged.
        example: its input.
        device: torch device, such as ``cpu`` or ``cuda:0``.

    Raises:
        RuntimeError: the module does not take the example.
    """
    import copy

    import torch

    from paretune.runtimes.operator_timing_torch import TorchProfile, mark_modules

    network, given = copy.deepcopy(module).to(device).eval(), example.to(device)
    kind = torch.device(device).type

    def run() -> float:
        start = time.perf_counter_ns()
        network(given)
        if kind == "cuda":
            torch.cuda.synchronize(device)
        return (time.perf_counter_ns() - start) / 1e6

    def times(count: int) -> list[float]:
        return [run() for _ in range(count)]

    with exclusive_device(kind), torch.inference_mode():
        times(LEAD_IN)
        plain = times(INFERENCES)
        mark_modules(network)
        profile = TorchProfile(kind, (PART,))
        times(LEAD_IN)
        profile.reset({})
        counted = times(INFERENCES)
        operators = _means(profile.operators({}), INFERENCES)
    return OperatorTimes(
        operators,
        counted_ms=float(np.mean(counted)),
        counted_ms_p50=float(np.median(counted)),
        network_ms=float(np.median(plain)),
        inferences=INFERENCES,
    )


def _means(events: Any, inferences: int) -> tuple[Operator, ...]:
    """Return the mean time of each operator in one inference, the longest first."""
    totals: dict[tuple[str, str, str, str | None], float] = {}
    for event in events:
        key = (event.part, event.name, event.kind, event.module)
        totals[key] = totals.get(key, 0.0) + event.ms
    means = [Operator(*key, total / inferences) for key, total in totals.items()]
    return tuple(sorted(means, key=lambda operator: -operator.ms))
