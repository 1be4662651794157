"""A network compiled ahead of time for a CPU (AOTInductor), cached as a library that other processes only open.

torch's compiler needs half a minute and more for tracing and for its own cache in every process, and a measurement
starts several. The key of the cache is a hash of weights, code, input shape and compiler options.

For the timing of operators the module of each kernel is recorded. The compiler writes the traced nodes above each call
of a library's kernel, and each node knows its module; fused layers are resolved as in an exported file
(``operator_timing.ModuleNames``). Kernels written by the compiler span modules and have only their own names.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paretune.core.types import Floats
from paretune.runtimes.aot_cache_key import surroundings
from paretune.runtimes.eager import ArrayConversion
from paretune.runtimes.operator_timing import ModuleNames, numbered
from paretune.storage.atomic_files import new_folder
from paretune.system.machine_cache import hold, make_room, private_folder

if TYPE_CHECKING:
    from torch import Tensor, fx, nn

CACHE = "TORCHINDUCTOR_CACHE_DIR"
"""Environment variable for the folder of torch's compiler."""
_INNER = "program"
"""Name of the package and of the folder inside it."""
_TRIES = 3
"""Attempts to open a program, with compilations in between: other processes may remove or replace it."""
_KERNELS = "kernels.json"
"""File with the modules of a program's kernels."""


@dataclass
class AotProgram:
    """One of a detector's networks as a function of arrays, compiled for each input shape.

    Args:
        part: the network.
        given: conversion of arrays to its input.
        key: hash of the network, its weights and its code (``aot_cache_key.key_of``).
        names: name of a module in the part → its name in the network, to let torch's profiler see kernels; or None.
    """

    part: nn.Module
    given: ArrayConversion
    key: str
    names: Mapping[str, str] | None = None
    kernels: dict[str, str] = field(default_factory=dict)
    """Numbered name of a kernel → module of the network, where it is known."""
    _programs: dict[tuple[int, ...], Callable[[list[Tensor]], list[Tensor]]] = field(default_factory=dict)

    def __call__(self, batch: Floats) -> tuple[Floats, ...]:
        """Return the outputs for one input; for a new shape the program is compiled or read from the cache first.

        Raises:
            RuntimeError: the network cannot be compiled.
        """
        images = self.given.tensor(batch)
        program = self._programs.get(batch.shape)
        if program is None:
            program = self._programs[batch.shape] = self._program(images)
        return self.given.arrays(tuple(program([images])))

    def _program(self, images: Tensor) -> Callable[[list[Tensor]], list[Tensor]]:
        facts: dict[str, Any] = {
            **surroundings(),
            "key": self.key,
            "shape": list(images.shape),
            "precision": self.given.precision,
            "options": self._options,
        }
        name = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
        folder = private_folder("compiled") / name
        for made in range(_TRIES):
            program = self._kept(folder)
            if program is None:
                self._compile(images, folder)  # another process may have compiled it meanwhile
            else:
                if made:
                    make_room(folder.parent)
                return program
        return self._opened(folder)

    def _kept(self, folder: Path) -> Callable[[list[Tensor]], list[Tensor]] | None:
        """Return a cached program and protect it from removal; an incomplete one is deleted, and None returned."""
        if not hold(folder):
            return None
        try:
            return self._opened(folder)
        except (OSError, RuntimeError):  # some of its files were deleted
            shutil.rmtree(folder, ignore_errors=True)
            return None

    def _opened(self, folder: Path) -> Callable[[list[Tensor]], list[Tensor]]:
        """Return a compiled program.

        Raises:
            OSError: a file is missing.
            RuntimeError: it is incomplete.
        """
        if self.names is not None:
            kernels: dict[str, str] = json.loads((folder / _KERNELS).read_text())
            self.kernels |= {kernel: self.names[module] for kernel, module in kernels.items() if module in self.names}
        return _opened(folder)

    @property
    def _options(self) -> dict[str, Any]:
        # one thread compiles: a pool of processes would outlive the compilation on cores that are being measured
        return {"freezing": True, "compile_threads": 1, "cpp.enable_kernel_profile": self.names is not None}

    def _compile(self, images: Tensor, folder: Path) -> None:
        import torch
        from torch._inductor import aoti_compile_and_package
        from torch._inductor.cpu_vec_isa import pick_vec_isa

        with new_folder(folder, replace=True) as draft:
            hold(draft)
            packed = draft / f"{_INNER}.pt2"
            with torch.no_grad():  # otherwise the compiler does not treat weights as constants
                traced = torch.export.export(self.part, (images,), strict=False)
                with _cache_in(private_folder("compiled") / "checks"):
                    pick_vec_isa()  # equal for all networks; testing CPU and C++ compiler takes 6 s
                # The compiler's own copy of the program is never read, and has one name for all networks of one
                # structure, so that two processes would read each other's.
                with _cache_in(draft / "cache"):
                    aoti_compile_and_package(traced, package_path=str(packed), inductor_configs=self._options)
            shutil.rmtree(draft / "cache")
            with zipfile.ZipFile(packed) as package:
                package.extractall(draft)
            packed.unlink()
            if self.names is not None:
                written = "".join(source.read_text() for source in draft.rglob("*.wrapper.cpp"))
                (draft / _KERNELS).write_text(json.dumps(kernel_modules(traced.graph, written)))
            for source in draft.rglob("*.cpp"):
                source.unlink()


def _opened(folder: Path) -> Callable[[list[Tensor]], list[Tensor]]:
    """Return a compiled program.

    Raises:
        RuntimeError: it is incomplete.
    """
    from torch._C._aoti import AOTIModelPackageLoader

    # The same call as in `torch._inductor.aoti_load_package`, without importing the compiler (3 s and 150 MiB).
    # It opens a folder, since each process would unpack a package, and leave the files behind if it is killed.
    opened = AOTIModelPackageLoader(str(folder / _INNER), "model", True)
    run: Callable[[list[Tensor]], list[Tensor]] = opened.boxed_run
    return run


@contextmanager
def _cache_in(folder: Path) -> Iterator[None]:
    """Let torch's compiler keep its files in a folder during the context."""
    before = os.environ.get(CACHE)
    os.environ[CACHE] = str(folder)
    try:
        yield
    finally:
        os.environ.pop(CACHE)
        if before is not None:
            os.environ[CACHE] = before


_SOURCES = re.compile(r"// (?:Topologically Sorted|Unsorted) Source Nodes: \[(.*?)\]")


_KERNEL = re.compile(r'RAIIAtenRecordFunctionHandle \w+\("([\w.]+)"|^\s*(cpp_\w+)\(')
"""A call that the profiler is notified of, or of a kernel written by the compiler."""


_HEAVY = re.compile(r"conv|(?<!bi)(?<!tri)linear|matmul|mm(?![a-z])")
"""Words in the names of operators with weights, of torch and oneDNN."""


def kernel_modules(graph: fx.Graph, written: str) -> dict[str, str]:
    """Return the known modules of a program's kernels.

    Args:
        graph: traced network.
        written: C++ of the program, with the calls that notify the profiler.

    Returns:
        Numbered name of a kernel → module, by its name in the traced network.
    """
    known, layers = _origins(graph)
    heavy = {node.name for node in graph.nodes if _is_heavy(node)}
    nodes: dict[str, tuple[str, list[str]]] = {}
    calls: dict[str, int] = {}
    sources: list[str] = []
    for line in written.splitlines():
        if comment := _SOURCES.search(line):
            sources = comment[1].split(", ")
            sources = [name for name in sources if name in heavy] or sources
        elif called := _KERNEL.search(line):
            if name := called[1]:
                calls[name] = calls.get(name, 0) + 1
                nodes[numbered(name, calls[name])] = ("conv" if _HEAVY.search(name) else "other", sources)
            sources = []
    return ModuleNames(known, layers).of(nodes)


def _origins(graph: fx.Graph) -> tuple[dict[str, str], dict[str, frozenset[str]]]:
    """Return ``ModuleNames.known`` and ``ModuleNames.sources`` of a traced network."""
    known: dict[str, str] = {}
    sources: dict[str, frozenset[str]] = {}
    for node in graph.nodes:
        stack = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
        module = stack[-1].partition("@")[0] if stack else ""  # @1 marks a second call
        if module:
            known[node.name] = module
        if module and _is_heavy(node):
            sources[node.name] = frozenset([module])
        else:
            sources[node.name] = frozenset().union(*(sources[given.name] for given in node.all_input_nodes))
    return known, sources


def _is_heavy(node: fx.Node) -> bool:
    return node.op == "call_function" and _HEAVY.search(str(node.target)) is not None
