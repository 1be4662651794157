"""Which module of a network each kernel of its compiled program came from.

The compiler writes above each call of a library's kernel which nodes of the traced network it stands for, and each node
knows its module. A layer with weights that was fused with what follows is found as in an exported file
(``operator_timing.ModuleNames``); kernels that the compiler has made itself span modules, and are known by their own
names only.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from paretune.runtimes.operator_timing import ModuleNames

if TYPE_CHECKING:
    from torch import fx

_SOURCES = re.compile(r"// (?:Topologically Sorted|Unsorted) Source Nodes: \[(.*?)\]")
_KERNEL = re.compile(r'RAIIAtenRecordFunctionHandle \w+\("([\w.]+)"|^\s*(cpp_\w+)\(')
"""A call as the program tells torch's profiler of it, or of a kernel of the compiler's own."""
_HEAVY = re.compile(r"conv|(?<!bi)(?<!tri)linear|matmul|mm(?![a-z])")
"""What the names of operators with weights hold, torch's and oneDNN's."""


def numbered(name: str, number: int) -> str:
    """Name one of several calls of a kernel in an inference, by its order."""
    return name if number == 1 else f"{name} {number}"


def kernel_modules(graph: fx.Graph, written: str) -> dict[str, str]:
    """Return the modules that are known of the kernels of a program.

    Args:
        graph: the network as it was traced.
        written: the program's C++, with calls that the profiler is told of.

    Returns:
        Name of a kernel, ``numbered`` → module, by the names of the network that was traced.
    """
    known, layers = _origins(graph)
    heavy = {node.name for node in graph.nodes if _is_heavy(node)}
    nodes: dict[str, tuple[str, list[str]]] = {}
    calls: dict[str, int] = {}
    sources: list[str] = []
    for line in written.splitlines():
        if told := _SOURCES.search(line):
            sources = told[1].split(", ")
            sources = [name for name in sources if name in heavy] or sources
        elif called := _KERNEL.search(line):
            if name := called[1]:
                calls[name] = calls.get(name, 0) + 1
                nodes[numbered(name, calls[name])] = ("conv" if _HEAVY.search(name) else "other", sources)
            sources = []
    return ModuleNames(known, layers).of(nodes)


def _origins(graph: fx.Graph) -> tuple[dict[str, str], dict[str, frozenset[str]]]:
    """Return ``Modules.known`` and ``Modules.sources`` of a traced network."""
    known: dict[str, str] = {}
    sources: dict[str, frozenset[str]] = {}
    for node in graph.nodes:
        stack = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
        module = stack[-1].partition("@")[0] if stack else ""  # @1: called again
        if module:
            known[node.name] = module
        if module and _is_heavy(node):
            sources[node.name] = frozenset([module])
        else:
            sources[node.name] = frozenset().union(*(sources[given.name] for given in node.all_input_nodes))
    return known, sources


def _is_heavy(node: fx.Node) -> bool:
    return node.op == "call_function" and _HEAVY.search(str(node.target)) is not None
