"""A network compiled ahead of time for a CPU (AOTInductor): a library that the next process only has to open.

Tracing and looking programs up takes torch's compiler half a minute and more in every process, and a measurement starts
several. What is kept here is found by what went into it: weights, code, shape of the input, and how it was compiled.
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
"""Variable that tells torch's compiler where to keep its files."""
_INNER = "program"
"""Name of the package, and so of the folder in it that holds everything."""
_TRIES = 3
"""Looks for a program, and compilations between them: others may drop or replace what was made just now."""
_KERNELS = "kernels.json"
"""Name of the file that tells the modules of its kernels."""


@dataclass
class AotProgram:
    """One of a detector's networks as a function of arrays, compiled for each shape of input that it is given.

    Args:
        part: the network, which is not run itself.
        given: how an array becomes its input.
        key: tells it, its weights and its code from all others (``ahead_key.key_of``).
        names: where torch's profiler is to see its kernels: its modules → their names in the network it is a part of.
    """

    part: nn.Module
    given: ArrayConversion
    key: str
    names: Mapping[str, str] | None = None
    kernels: dict[str, str] = field(default_factory=dict)
    """Those that the profiler sees, as ``ahead_kernels`` numbers them → module of the network, where it is known."""
    _programs: dict[tuple[int, ...], Callable[[list[Tensor]], list[Tensor]]] = field(default_factory=dict)

    def __call__(self, batch: Floats) -> tuple[Floats, ...]:
        """Run it, on input of a new shape after compiling it or reading what an earlier process compiled.

        Raises:
            RuntimeError: it cannot be compiled.
        """
        images = self.given.tensor(batch)
        program = self._programs.get(batch.shape)
        if program is None:
            program = self._programs[batch.shape] = self._program(images)
        return self.given.arrays(tuple(program([images])))

    def _program(self, images: Tensor) -> Callable[[list[Tensor]], list[Tensor]]:
        how: dict[str, Any] = {
            **surroundings(),
            "key": self.key,
            "shape": list(images.shape),
            "precision": self.given.precision,
            "options": self._options,
        }
        name = hashlib.sha256(json.dumps(how, sort_keys=True).encode()).hexdigest()[:32]
        folder = private_folder("compiled") / name
        for made in range(_TRIES):
            program = self._kept(folder)
            if program is None:
                self._compile(images, folder)  # what is there then may be of another process that made it, too
            else:
                if made:
                    make_room(folder.parent)
                return program
        return self._opened(folder)

    def _kept(self, folder: Path) -> Callable[[list[Tensor]], list[Tensor]] | None:
        """Open a compiled program, which nobody drops from then on; None, and it is removed, where it is not whole."""
        if not hold(folder):
            return None
        try:
            return self._opened(folder)
        except (OSError, RuntimeError):  # somebody cleaned up, file by file
            shutil.rmtree(folder, ignore_errors=True)
            return None

    def _opened(self, folder: Path) -> Callable[[list[Tensor]], list[Tensor]]:
        """Open a compiled program.

        Raises:
            OSError: a file is missing.
            RuntimeError: it is not whole.
        """
        if self.names is not None:
            told: dict[str, str] = json.loads((folder / _KERNELS).read_text())
            self.kernels |= {kernel: self.names[module] for kernel, module in told.items() if module in self.names}
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
            with torch.no_grad():  # the compiler takes weights as constants only so
                traced = torch.export.export(self.part, (images,), strict=False)
                with _cache_in(private_folder("compiled") / "checks"):
                    pick_vec_isa()  # the same for all: to try what CPU and C++ compiler know takes 6 s
                # Its copy of the program, weights included, nobody reads, and all networks of one form have the same
                # name for it: two processes would take each other's.
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
    """Open a compiled program.

    Raises:
        RuntimeError: it is not whole.
    """
    from torch._C._aoti import AOTIModelPackageLoader

    # What `torch._inductor.aoti_load_package` makes of a folder, without importing the compiler: 3 s and 150 MiB.
    # A folder, for a package would be unpacked anew by each process, and left behind by one that is killed.
    opened = AOTIModelPackageLoader(str(folder / _INNER), "model", True)
    run: Callable[[list[Tensor]], list[Tensor]] = opened.boxed_run
    return run


@contextmanager
def _cache_in(folder: Path) -> Iterator[None]:
    """Let torch's compiler keep its files in a folder for the block."""
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
"""A call as the program tells torch's profiler of it, or of a kernel of the compiler's own."""


_HEAVY = re.compile(r"conv|(?<!bi)(?<!tri)linear|matmul|mm(?![a-z])")
"""What the names of operators with weights hold, torch's and oneDNN's."""


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
