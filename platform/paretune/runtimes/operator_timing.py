"""Timing of single operators: the common part of the runtimes' profilers."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from paretune.core.types import Floats
from paretune.detectors.base import Detector
from paretune.runtimes.base import BETWEEN, ON_THE_HOST, LoadedNetworks, NetworkRunner, Operator
from paretune.storage.artefact import Artefact

if TYPE_CHECKING:
    from torch import nn

SCOPE = "::"
"""Separator between module and node in the name of an exported node."""
SAME_VALUE = ("DequantizeLinear", "QuantizeLinear", "Cast", "Reshape", "Transpose", "Identity")
"""Operators that only change the form of a parameter."""
_HEAVY = ("conv", "gemm", "matmul", "fullyconnected")
"""Words in the types of operators with weights, in files and in runtimes."""
_BEFORE = re.compile(r"^(?:dq_output|q_output|scale|zero_point)_")
_AFTER = re.compile(r"\.(?:float|restored)(?:\..*)?$")
"""Suffixes that quantizers add to the name of a parameter; ``_BEFORE`` has their prefixes."""
_ADDED = re.compile(r"(?:_nchwc|_token_\d+|/.*)$")
"""Suffixes that runtimes add to the name of a node that they have changed."""


class OperatorProfiler(Protocol):
    """A runtime's profiler; ``calls`` is the number of calls of each part so far."""

    def reset(self, calls: Mapping[str, int]) -> None:
        """Discard all times so far."""

    def operators(self, calls: Mapping[str, int]) -> Iterable[Operator]:
        """Return the operators since the reset and end the profile; entries of one node are added up later."""

    def trace(self, file: Path) -> bool:
        """Write a timeline, and return whether there is one."""


@dataclass
class _Clock:
    """A part of a detector that counts and times its calls."""

    part: Callable[[Floats], tuple[Floats, ...]]
    calls: int = 0
    ns: int = 0

    def __call__(self, batch: Floats) -> tuple[Floats, ...]:
        start = time.perf_counter_ns()
        raw = self.part(batch)
        self.ns += time.perf_counter_ns() - start
        self.calls += 1
        return raw


class TimedRunner:
    """A loaded network whose operators are timed (``base.TimedNetworkRunner``).

    Args:
        core: network, loaded with its runtime's profiler on.
        counter: the profiler.
    """

    def __init__(self, core: NetworkRunner, counter: OperatorProfiler) -> None:
        self._clocks: dict[str, _Clock] = {}
        if isinstance(core, LoadedNetworks):
            self._clocks = {name: _Clock(part) for name, part in core.parts.items()}
            core = replace(core, parts=self._clocks)
        self._core, self._counter = core, counter
        self._calls = self._ns = 0

    @property
    def facts(self) -> dict[str, str | int]:
        """Facts read back from the runtime."""
        return self._core.facts

    @property
    def parts(self) -> Mapping[str, Callable[[Floats], tuple[Floats, ...]]]:
        """The detector's loaded networks by name."""
        return self._core.parts

    def __call__(self, batch: Floats) -> tuple[Floats, ...]:
        """Return the raw maps of one batch."""
        start = time.perf_counter_ns()
        raw = self._core(batch)
        self._ns += time.perf_counter_ns() - start
        self._calls += 1
        return raw

    def reset(self) -> None:
        """Discard all times so far."""
        self._counter.reset({name: clock.calls for name, clock in self._clocks.items()})
        self._calls = self._ns = 0
        for clock in self._clocks.values():
            clock.ns = 0

    def operators(self) -> list[Operator]:
        """Return the operators since creation or reset, the longest first."""
        totals: dict[Operator, float] = {}
        for operator in self._counter.operators({name: clock.calls for name, clock in self._clocks.items()}):
            node = replace(operator, ms=0.0)
            totals[node] = totals.get(node, 0.0) + operator.ms
        if len(self._clocks) > 1:
            inside = sum(clock.ns for clock in self._clocks.values())
            totals[Operator(BETWEEN, "on the host", ON_THE_HOST, None, 0.0)] = (self._ns - inside) / 1e6
        means = [replace(node, ms=total / self._calls) for node, total in totals.items() if self._calls]
        return sorted(means, key=lambda operator: -operator.ms)

    def trace(self, file: Path) -> bool:
        """Write a timeline, and return whether there is one."""
        return self._counter.trace(file)


@dataclass(frozen=True)
class ModuleNames:
    """Modules of the network that the nodes of a file came from."""

    known: Mapping[str, str]
    """Name of a node or of its output → its module."""
    sources: Mapping[str, frozenset[str]]
    """Name of a node or output → modules of the last layers with weights on all paths to it, including its own."""
    roots: Mapping[str, str] = field(default_factory=dict)
    """Module's name in the exported part → its name in the network, where they differ."""

    def of(self, nodes: Mapping[str, tuple[str, Sequence[str]]]) -> dict[str, str]:
        """Return the known modules of executed nodes.

        A convolution that was fused with its successors may have the name of one of them; its module is then the
        candidate before it that no other node has.

        Args:
            nodes: name in the runtime → type of the node, and names of the nodes it was made of.

        Returns:
            Name in the runtime → module, for the nodes whose module is known.
        """
        modules: dict[str, str] = {}
        heavy = {name: self._layers(made_of) for name, (kind, made_of) in nodes.items() if _is_heavy(kind)}
        claimed: set[str] = set()
        for _ in heavy:  # each round may settle further nodes
            for name, candidates in heavy.items():
                left = candidates if len(candidates) == 1 else candidates - claimed
                if name not in modules and len(left) == 1:
                    (modules[name],) = left
            claimed = set(modules.values())
        for name, (_, made_of) in nodes.items():
            if name not in heavy and (module := next(filter(None, map(self._module, made_of)), "")):
                modules[name] = module
        return {name: self._in_network(module) for name, module in modules.items()}

    def _layers(self, made_of: Sequence[str]) -> frozenset[str]:
        """Return the modules with weights that a fused node may come from."""
        sets = [self.sources.get(name) or self.sources.get(plain(name)) or frozenset() for name in made_of]
        return next((some for some in sets if len(some) == 1), frozenset().union(*sets))

    def _module(self, name: str) -> str:
        return self.known.get(name) or self.known.get(plain(name)) or scope_of(plain(name))

    def _in_network(self, module: str) -> str:
        """Return a module's name in the network, by the longest known prefix of its name."""
        start = module
        while start and start not in self.roots:
            start = start.rpartition(".")[0]
        return (self.roots[start] + module[len(start) :]).removeprefix(".") if start else module


def modules_of(artefact: Artefact, detector: Detector) -> dict[str, ModuleNames]:
    """Return the modules of the nodes in an artefact's ONNX files, by part."""
    import onnx

    from paretune.runtimes.onnx_session import part_file

    roots = _roots(detector, len(artefact.classes)) if len(detector.part_names) > 1 else {}
    modules = {}
    for part in detector.part_names:
        graph = onnx.load(artefact.file(part_file(part))).graph
        modules[part] = ModuleNames(*nodes_of(graph), roots.get(part, {}))
    return modules


def nodes_of(graph: Any) -> tuple[dict[str, str], dict[str, frozenset[str]]]:
    """Return ``ModuleNames.known`` and ``ModuleNames.sources`` of an ``onnx.GraphProto``.

    The module of a node is that of its parameters, whose names survive with prefixes and suffixes; otherwise the one
    that ``compression.export`` has put before the node's name.
    """
    owners = {tensor.name: owner for tensor in graph.initializer if (owner := owner_of(tensor.name))}
    known: dict[str, str] = {}
    sources: dict[str, frozenset[str]] = {}
    for node in graph.node:
        names = (*filter(None, [node.name]), *node.output)
        owner = next((owners[name] for name in (*node.input[1:], *node.input[:1]) if name in owners), "")
        if owner and node.op_type in SAME_VALUE:
            owners[node.output[0]] = owner
        if owner and _is_heavy(node.op_type):
            before = frozenset([owner])
        else:
            before = frozenset().union(*(sources.get(name, frozenset()) for name in node.input))
        sources |= dict.fromkeys(names, before)
        if owner := owner or scope_of(node.name):
            known |= dict.fromkeys(names, owner)
    return known, sources


def _is_heavy(kind: str) -> bool:
    """Return whether an operator has weights, by its type in a file or a runtime."""
    return any(word in kind.lower() for word in _HEAVY)


def plain(node: str) -> str:
    """Return a node's name without the additions of a runtime."""
    return _ADDED.sub("", node.removeprefix("fused "))


def scope_of(node: str) -> str:
    """Return the module in the name of an exported node, or an empty string."""
    before, mark, _ = node.partition(SCOPE)
    return before if mark else ""


def owner_of(parameter: str) -> str:
    """Return the module of a parameter by its name in a file, or an empty string."""
    return _AFTER.sub("", _BEFORE.sub("", parameter)).rpartition(".")[0]


def _roots(detector: Detector, classes: int) -> dict[str, dict[str, str]]:
    """Return, by part, the names of its modules → their names in the network."""
    import torch

    with torch.random.fork_rng(devices=[]):
        network = detector.build(classes)
    return {part: inside(module, network) for part, module in detector.part_modules(network).items()}


def inside(part: nn.Module, network: nn.Module) -> dict[str, str]:
    """Return the names of a part's modules → their names in the network."""
    names = {id(module): name for name, module in network.named_modules()}
    return {name: names[id(module)] for name, module in part.named_modules() if name and id(module) in names}


def numbered(name: str, number: int) -> str:
    """Return the name of one of several calls of a kernel in an inference, by its order."""
    return name if number == 1 else f"{name} {number}"
