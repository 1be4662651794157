"""Torch's profiler: operators of a network as they are called, and the kernels that they start on a GPU.

Hooks around every module open a profiler range, so that operators can be attributed to the running module.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paretune.core.types import Floats
from paretune.detectors.base import Detector
from paretune.runtimes.base import BETWEEN, Operator, is_transfer
from paretune.runtimes.operator_timing import inside, numbered

if TYPE_CHECKING:
    from torch import nn

RANGE = "paretune module "
"""First words in the name of a module's range; operator names have no spaces."""
_PART = "paretune part "
"""First words in the name of the range of one of a detector's networks."""


def mark_modules(network: nn.Module) -> None:
    """Add hooks to every module of a network except itself that open a profiler range while it runs."""
    from torch.profiler import record_function

    for name, module in network.named_modules():
        if not name:
            continue
        open_: list[Any] = []  # a stack: a module may run within itself

        def before(_module: nn.Module, _inputs: Any, *, name: str = name, open_: list[Any] = open_) -> None:
            entered: Any = record_function(RANGE + name)
            entered.__enter__()
            open_.append(entered)

        def after(_module: nn.Module, _inputs: Any, _outputs: Any, *, open_: list[Any] = open_) -> None:
            open_.pop().__exit__(None, None, None)

        module.register_forward_pre_hook(before)
        module.register_forward_hook(after)


def marked(name: str, run: Callable[[Floats], tuple[Floats, ...]]) -> Callable[[Floats], tuple[Floats, ...]]:
    """Return one of a detector's networks with a profiler range around every call."""
    from torch.profiler import record_function

    def ranged(batch: Floats) -> tuple[Floats, ...]:
        with record_function(_PART + name):
            return run(batch)

    return ranged


def parts_of(detector: Detector, network: nn.Module) -> dict[str, str]:
    """Return the part that each module of a network belongs to, the smallest that contains it."""
    owners: dict[str, str] = {}
    modules = {part: inside(module, network) for part, module in detector.part_modules(network).items()}
    for part in sorted(modules, key=lambda part: -len(modules[part])):
        owners |= dict.fromkeys(modules[part].values(), part)
    return owners


class TorchProfile:
    """Operators in the profile of torch, which runs from creation to ``operators``; a process can have only one.

    Args:
        device: ``cpu``, or ``cuda`` for the times of kernels.
        parts: names of the detector's networks.
        of_modules: part of each module, for a network that runs as a whole.
        of_kernels: for a compiled network, whose kernels are listed instead of the operators that started them:
            part → numbered name of a kernel → module, where it is known.
    """

    def __init__(
        self,
        device: str,
        parts: tuple[str, ...],
        of_modules: Mapping[str, str] | None = None,
        of_kernels: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        self._device, self._parts, self._of_modules = device, parts, of_modules or {}
        self._by_kernel, self._of_kernels = of_kernels is not None, of_kernels or {}
        self._profile = self._started()

    def _started(self) -> Any:
        from torch.profiler import ProfilerActivity, profile

        kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._device == "cuda" else [])]
        started = profile(activities=kinds, acc_events=True)
        started.start()
        return started

    def reset(self, calls: Mapping[str, int]) -> None:  # noqa: ARG002 - the interface
        """Discard all times so far."""
        self._profile.stop()
        self._profile = self._started()

    def operators(self, calls: Mapping[str, int]) -> Iterator[Operator]:  # noqa: ARG002 - the interface
        """Yield the operators called by a module or a compiled program, each with everything that it called."""
        self._profile.stop()
        numbers: dict[int, int] = {}
        met: Counter[tuple[int, str]] = Counter()
        for event in self._profile.events():
            if event.device_type.name != "CPU" or _is_range(event.name):
                continue
            outer, module, part = _place(event)
            if self._by_kernel and outer.id not in numbers:  # calls of one inference differ by their order
                place = (0 if part is None else part.id, outer.name)
                met[place] += 1
                numbers[outer.id] = met[place]
            name, where = numbered(outer.name, numbers.get(outer.id, 1)), self._part(module, part)
            module = module or self._of_kernels.get(where, {}).get(name)
            if self._device == "cpu":
                yield Operator(where, name, _kind(outer.name), module, event.self_cpu_time_total / 1e3)
            for kernel in event.kernels if self._device == "cuda" else ():
                known = kernel.name if self._by_kernel else name
                itself = self._by_kernel or is_transfer(kernel.name)
                kind = _kind(kernel.name if itself else outer.name)
                yield Operator(where, known, kind, module, kernel.duration / 1e3)

    def trace(self, file: Path) -> bool:
        """Write the timeline of all events, and return True."""
        self._profile.export_chrome_trace(str(file))
        return True

    def _part(self, module: str | None, part: Any) -> str:
        """Return the part that an event belongs to, by its range or else by its module."""
        if part is not None:
            return str(part.name.removeprefix(_PART))
        return self._of_modules.get(module or "", self._parts[0] if len(self._parts) == 1 else BETWEEN)


def _is_range(name: str) -> bool:
    """Return whether a name is that of a range, not of an operator or kernel.

    Ranges of this module and of torch's compiler have spaces in their names; programs compiled ahead of time have a
    range of their own.
    """
    return name.startswith("AOTIModel") or " " in name


def _place(event: Any) -> tuple[Any, str | None, Any]:
    """Return the outermost operator around an event, the innermost module, and the range of its part."""
    outer, module, part = event, None, None
    while event is not None:
        if event.name.startswith(_PART):
            part = event
        elif event.name.startswith(RANGE):
            module = module or event.name.removeprefix(RANGE)
        elif module is None and not _is_range(event.name):
            outer = event
        event = event.cpu_parent
    return outer, module, part


def _kind(name: str) -> str:
    """Return the type of an operator or kernel: its name without namespace, graph, device and number."""
    return re.sub(r"^graph_\d+_|^aoti_torch_c(pu|uda)_|_\d+$", "", name.rpartition("::")[2])
