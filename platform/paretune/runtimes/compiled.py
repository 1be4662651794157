"""Compiled PyTorch: TorchInductor writes one program for the whole network, in C++ for a CPU, in Triton for a GPU.

A CPU's program is compiled ahead of time, a GPU's in its first run, which is necessary for a CUDA graph.

Ansel et al., PyTorch 2: Faster Machine Learning Through Dynamic Python Bytecode Transformation and Graph
Compilation, ASPLOS 2024 (https://doi.org/10.1145/3620665.3640366).
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from paretune.core.errors import UserError
from paretune.core.model import Format
from paretune.core.spec import parse_plugin
from paretune.core.target import Target
from paretune.core.types import Floats
from paretune.detectors import DETECTORS
from paretune.detectors.base import Detector
from paretune.runtimes.aot_cache_key import key_of
from paretune.runtimes.aot_program import CACHE, AotProgram
from paretune.runtimes.base import LoadedNetworks, NetworkRunner, Runtime, TimedNetworkRunner
from paretune.runtimes.eager import (
    ArrayConversion,
    EagerPrecision,
    gpu_unsupported_reason,
    int8_unsupported_reason,
    load_for_inference,
    read_facts,
    set_up_torch,
    torch_dtype,
)
from paretune.runtimes.operator_timing import TimedRunner, inside
from paretune.storage.artefact import Artefact
from paretune.system.machine_cache import hold, make_room, private_folder

if TYPE_CHECKING:
    from torch import Tensor, nn


class Compiled(Runtime):
    """The torch network, compiled by TorchInductor for its input size; needs a C++ compiler, for a GPU a C compiler."""

    name: ClassVar[str] = "compiled"
    accepts: ClassVar[Format] = "torch"
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")
    libraries: ClassVar[tuple[str, ...]] = ("torch",)

    precision: EagerPrecision = "fp32"
    """Type of weights and activations, except in INT8 layers."""

    def unsupported_reason(self, target: Target) -> str | None:
        """Return that a compiler or the GPU is missing, or None."""
        return (
            super().unsupported_reason(target) or gpu_unsupported_reason(target) or _compiler_unsupported_reason(target)
        )

    def scheme_unsupported_reason(self, scheme: str, target: Target) -> str | None:
        """Return that torch has INT8 layers for CPUs only, or None."""
        return int8_unsupported_reason(scheme, target)

    def load(self, artefact: Artefact, target: Target) -> NetworkRunner:
        """Return the network with every part compiled as one graph, by running it once.

        Compiled programs are cached on this machine, so that a second process only reads them.

        Raises:
            UserError: there is no compiler.
            RuntimeError: a part cannot be compiled, torch does not accept the number of threads, or there is no such
                device.
        """
        return self._loaded(artefact, target)

    def load_timed(self, artefact: Artefact, target: Target) -> TimedNetworkRunner:
        """Return the network, compiled with profiler ranges around kernels; modules of GPU kernels are unknown."""
        from paretune.runtimes.operator_timing_torch import TorchProfile, marked

        loaded = self._loaded(artefact, target, count=True)
        ranged = replace(loaded, parts={name: marked(name, part) for name, part in loaded.parts.items()})
        modules = {name: part.kernels for name, part in loaded.parts.items() if isinstance(part, AotProgram)}
        return TimedRunner(ranged, TorchProfile(target.device, loaded.detector.part_names, of_kernels=modules))

    @contextmanager
    def layer_runner(self, layer: nn.Module | Path, images: Floats, target: Target) -> Iterator[Callable[[], object]]:
        """Yield a call that runs a module, compiled in this precision, which takes many seconds."""
        assert not isinstance(layer, Path)  # noqa: S101 - it loads torch models
        set_up_torch(target)
        weights = b"".join(weight.numpy().tobytes() for weight in layer.state_dict().values())
        key = hashlib.sha256(repr(layer).encode() + weights).hexdigest()
        given = ArrayConversion(target.device, self.precision)
        network = layer.to(target.device, torch_dtype(self.precision)).eval().requires_grad_(False)
        part = graphed(network, given) if target.device == "cuda" else AotProgram(network, given, key)
        part(images)
        yield lambda: part(images)

    def _loaded(self, artefact: Artefact, target: Target, *, count: bool = False) -> LoadedNetworks:
        if problem := _compiler_unsupported_reason(target):
            raise UserError(problem)
        if target.device != "cpu":
            _keep_graphs()
        set_up_torch(target)
        detector: Detector = parse_plugin(artefact.detector, DETECTORS)
        network = load_for_inference(artefact, target, self.precision)
        given = ArrayConversion(target.device, self.precision)
        parts: dict[str, Callable[[Floats], tuple[Floats, ...]]] = {}
        for name, part in detector.part_modules(network).items():
            if target.device == "cuda":
                parts[name] = graphed(part, given)
            else:
                names = inside(part, network) if count else None
                parts[name] = AotProgram(part, given, key_of(artefact.folder, detector, name, part), names)
        made = LoadedNetworks(detector, parts, artefact.input_size, read_facts(network, target, self.precision))
        made(np.zeros((1, 3, artefact.input_size.height, artefact.input_size.width), np.float32))
        if target.device == "cuda":
            make_room(private_folder("compiled"))
        return made


def _keep_graphs() -> None:
    """Let torch's compiler keep its kernels in one folder for all processes, since networks share kernels."""
    folder = private_folder("compiled") / "graphs"
    while not hold(folder):
        folder.mkdir(exist_ok=True)
    os.environ[CACHE] = str(folder)


def graphed(part: nn.Module, given: ArrayConversion) -> Callable[[Floats], tuple[Floats, ...]]:
    """Return a part as a function of arrays that is compiled and recorded as a CUDA graph in its first call.

    A part that is not one graph is an error; the weights become constants that the compiler may reorder.
    """
    import torch

    # one thread compiles: a pool of processes would outlive the compilation on cores that are being measured
    options: dict[str, Any] = {"freezing": True, "compile_threads": 1, "triton.cudagraphs": True}
    compile_: Any = torch.compile  # its stub lacks some arguments
    program: Callable[[Tensor], tuple[Tensor, ...]] = compile_(
        part,
        fullgraph=True,
        dynamic=False,
        options=options,
        isolate_recompiles=True,  # otherwise the ninth network of a family in one process is refused
    )

    def run(batch: Floats) -> tuple[Floats, ...]:
        with torch.no_grad():  # otherwise the compiler does not treat weights as constants
            return given.arrays(program(given.tensor(batch)))

    return run


def _compiler_unsupported_reason(target: Target) -> str | None:
    """Return which compiler is missing, in one line, before torch fails with many; None if there is one.

    A CPU's program is C++. Triton writes a GPU's kernels itself, but compiles their launchers with a C compiler.
    """
    if target.device == "cpu":
        language, variable, known = "C++", "CXX", ["g++"]
        named = shlex.split(os.environ.get(variable, ""))[:1]  # a command may be "ccache g++"
    else:
        language, variable, known = "C", "CC", ["gcc", "clang"]
        named = [command for command in [os.environ.get(variable)] if command]  # Triton takes it as one word
    commands = named if variable in os.environ else known
    if any(map(shutil.which, commands)):
        return None
    there = " or ".join(map(repr, commands))
    missing = f"there is no {there} here" if commands else f"the environment variable {variable} is empty"
    return (
        f"runtime 'compiled' needs a {language} compiler, and {missing}: install {known[0]}, or name another in the "
        f"environment variable {variable}, or take another runtime"
    )
