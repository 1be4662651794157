"""OpenVINO (https://docs.openvino.ai): the fastest runtime on most x86 CPUs; it reads ONNX files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from paretune.core.counts import counted
from paretune.core.model import Format
from paretune.core.spec import parse_plugin
from paretune.core.target import Target, cpu_has_bfloat16
from paretune.core.types import Floats
from paretune.detectors import DETECTORS
from paretune.detectors.base import Detector
from paretune.runtimes.base import LoadedNetworks, NetworkRunner, Operator, Runtime, TimedNetworkRunner
from paretune.runtimes.onnx_session import FileInput, check_interface, part_file
from paretune.runtimes.operator_timing import ModuleNames, TimedRunner, modules_of
from paretune.storage.artefact import Artefact

if TYPE_CHECKING:
    from openvino import CompiledModel
    from torch import nn

_ASKED: dict[str, str] = {"fp32": "f32", "bf16": "bf16"}
"""Name of a precision → OpenVINO's name."""
_HEAVY = ("Convolution", "GroupConvolution", "Deconvolution", "FullyConnected", "MatMul")
"""Types of the layers whose precision is reported."""


class OpenVino(Runtime):
    """OpenVINO on the CPU in float32 or bfloat16, with INT8 layers where `quantize` has made them."""

    name: ClassVar[str] = "openvino"
    accepts: ClassVar[Format] = "onnx"
    devices: ClassVar[tuple[str, ...]] = ("cpu",)
    libraries: ClassVar[tuple[str, ...]] = ("openvino",)

    precision: Literal["fp32", "bf16"] = "fp32"
    """Type that layers compute in, except INT8 ones. OpenVINO's own default is bfloat16 if the CPU supports it."""

    def unsupported_reason(self, target: Target) -> str | None:
        """Return that the CPU lacks bfloat16, for which OpenVINO would use float32 or a slow emulation, or None."""
        if self.precision == "bf16" and not cpu_has_bfloat16():
            return (
                "openvino: this CPU does not compute bfloat16 (AVX-512 BF16 or AMX is needed), precision fp32 it does"
            )
        return super().unsupported_reason(target)

    def load(self, artefact: Artefact, target: Target) -> NetworkRunner:
        """Return the network, with every file compiled for the target's threads and this precision.

        Raises:
            RuntimeError: device, threads or precision are not the requested ones (a CPU without bfloat16 computes in
                float32), or a file has other inputs or outputs than the detector.
        """
        return self._loaded(artefact, target)

    def load_timed(self, artefact: Artefact, target: Target) -> TimedNetworkRunner:
        """Return the network, compiled with OpenVINO's counters on, which hardly slow it down."""
        loaded = self._loaded(artefact, target, count=True)
        return TimedRunner(loaded, _Nodes(loaded, modules_of(artefact, loaded.detector)))

    @property
    def runs_single_layers(self) -> bool:
        """True: a layer compiles in milliseconds."""
        return True

    @contextmanager
    def layer_runner(self, layer: nn.Module | Path, images: Floats, target: Target) -> Iterator[Callable[[], object]]:
        """Yield a call that runs an ONNX file in this precision."""
        assert isinstance(layer, Path)  # noqa: S101 - it loads files
        request = compile_file(layer, target.threads, self.precision).create_infer_request()
        yield lambda: request.infer([images], share_inputs=True)

    def _loaded(self, artefact: Artefact, target: Target, *, count: bool = False) -> LoadedNetworks:
        if target.device not in self.devices:
            raise RuntimeError(Runtime.unsupported_reason(self, target))
        detector: Detector = parse_plugin(artefact.detector, DETECTORS)
        size, parts, kinds = artefact.input_size, {}, set()
        for name in detector.part_names:
            compiled = compile_file(artefact.file(part_file(name)), target.threads, self.precision, count=count)
            # a folded cast adds its name to the port
            inputs = [
                FileInput(
                    port.get_names(),
                    tuple(port.get_partial_shape().get_max_shape()),
                    port.get_element_type().get_type_name() == "f32",
                )
                for port in compiled.inputs
            ]
            outputs = {label for port in compiled.outputs for label in port.get_names()}
            check_interface(detector, name, inputs, outputs, size)
            kinds |= executed(compiled)
            parts[name] = OpenVinoPart(compiled.create_infer_request(), tuple(detector.part_outputs(name)))
        if unasked := kinds - {self.precision, "int8"}:
            raise RuntimeError(f"OpenVINO runs layers in {', '.join(sorted(unasked))}, not in {self.precision}")
        facts: dict[str, str | int] = {
            "runtime": f"openvino {library().__version__}",
            "device": target.device,
            "threads": target.threads,
            "precision": "int8" if "int8" in kinds else self.precision,
            "layers": ", ".join(sorted(kinds)),
        }
        return LoadedNetworks(detector, parts, size, facts)


def library() -> Any:
    """Import OpenVINO with its telemetry off."""
    os.environ.setdefault("OPENVINO_TELEMETRY_OPT_OUT", "1")
    import openvino

    return openvino


def compile_file(file: Path, threads: int, precision: str, *, count: bool = False) -> CompiledModel:
    """Compile a file for one inference at a time.

    Args:
        file: ONNX.
        threads: of the only stream.
        precision: ``fp32`` or ``bf16``.
        count: whether every operator is timed.

    Raises:
        RuntimeError: the file cannot be compiled, or OpenVINO runs another number of threads.
    """
    properties: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,  # the measuring process chooses the cores
        "INFERENCE_PRECISION_HINT": _ASKED[precision],
        "PERF_COUNT": count,
    }
    compiled = library().Core().compile_model(str(file), "CPU", {key: str(value) for key, value in properties.items()})
    actual = compiled.get_property("INFERENCE_NUM_THREADS")
    if actual != threads:
        raise RuntimeError(f"OpenVINO runs {counted(actual, 'thread')}, not {threads}")
    return compiled


def executed(compiled: CompiledModel) -> set[str]:
    """Return the precisions that convolutions and matrix products of a compiled file compute in."""
    names = {"f32": "fp32", "i8": "int8", "u8": "int8", "f16": "fp16"}
    infos = [node.get_rt_info() for node in compiled.get_runtime_model().get_ordered_ops()]
    heavy = [info for info in infos if info["layerType"].astype(str) in _HEAVY]
    kinds = {info["runtimePrecision"].astype(str).lower() for info in heavy}
    return {names.get(kind, kind) for kind in kinds}


@dataclass(frozen=True)
class OpenVinoPart:
    """A compiled file as a function from its input to its outputs."""

    request: Any
    outputs: tuple[str, ...]

    def __call__(self, batch: Floats) -> tuple[Floats, ...]:
        """Return the outputs, copied out of OpenVINO's buffers, which the next inference overwrites.

        Inputs as arguments of ``infer`` cost 0.06 ms more, a twentieth of a small network.
        """
        from openvino import Tensor

        batch = np.ascontiguousarray(batch)  # kept in a variable: the request does not hold the memory
        self.request.set_input_tensor(Tensor(batch, shared_memory=True))
        self.request.infer(share_outputs=True)
        return tuple(self.request.get_tensor(name).data.copy() for name in self.outputs)


class _Nodes:
    """Operators timed by OpenVINO's counters.

    Args:
        loaded: networks compiled with counters.
        modules: modules of the files' nodes, by part.
    """

    def __init__(self, loaded: LoadedNetworks, modules: Mapping[str, ModuleNames]) -> None:
        self._requests = {name: part.request for name, part in loaded.parts.items() if isinstance(part, OpenVinoPart)}
        self._modules = modules
        self._before: dict[str, dict[str, float]] = {name: {} for name in self._requests}
        self._calls = dict.fromkeys(self._requests, 0)

    def reset(self, calls: Mapping[str, int]) -> None:
        """Note the current values of the counters."""
        self._before = {part: self._totals(part, calls[part]) for part in self._requests}

    def operators(self, calls: Mapping[str, int]) -> Iterator[Operator]:
        """Yield the operators with the increase of their counters; a fused node belongs to the module with weights."""
        for part, request in self._requests.items():
            compiled, modules = request.get_compiled_model(), self._modules[part]
            fused = {node.get_friendly_name(): _originals(node) for node in compiled.get_runtime_model().get_ops()}
            ran = [node for node in request.get_profiling_info() if node.status == node.Status.EXECUTED]
            known = modules.of({n.node_name: (n.node_type, fused.get(n.node_name, [n.node_name])) for n in ran})
            totals, before = self._totals(part, calls[part]), self._before[part]
            for node in ran:
                name = node.node_name
                gained = max(0.0, totals[name] - before.get(name, 0.0))
                yield Operator(part, name, node.node_type, known.get(name), gained)

    def trace(self, file: Path) -> bool:  # noqa: ARG002 - the interface
        """Return False: the counters have no order in time."""
        return False

    def _totals(self, part: str, calls: int) -> dict[str, float]:
        """Return the milliseconds of every node in all calls, from its counter, the mean in whole microseconds."""
        infos = self._requests[part].get_profiling_info() if calls else []
        return {info.node_name: calls * info.real_time.total_seconds() * 1e3 for info in infos}


def _originals(node: Any) -> list[str]:
    """Return the names of the file's nodes that an executed node was made of."""
    return [name for name in node.get_rt_info()["originalLayersNames"].astype(str).split(",") if name]
