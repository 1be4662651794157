"""ONNX Runtime (https://onnxruntime.ai): portable, fast on CPUs, on NVIDIA GPUs by CUDA or TensorRT."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from paretune.core.counts import counted
from paretune.core.fields import model_validator
from paretune.core.model import Format
from paretune.core.spec import parse_plugin
from paretune.core.target import Device, Target
from paretune.core.types import Floats
from paretune.detectors import DETECTORS
from paretune.detectors.base import Detector
from paretune.runtimes.base import LoadedNetworks, NetworkRunner, Operator, Runtime, TimedNetworkRunner
from paretune.runtimes.onnx_header import NO_DYNAMIC, NO_FP32, check_tensorrt_integers, contents_of
from paretune.runtimes.onnx_session import (
    INPUT,
    PROVIDER,
    FileInput,
    OnnxPart,
    check_interface,
    library,
    load_libraries,
    onnx_part,
    open_session,
    part_file,
)
from paretune.runtimes.operator_timing import ModuleNames, TimedRunner, modules_of
from paretune.storage.artefact import Artefact
from paretune.storage.atomic_files import sha256
from paretune.system.machine_cache import hold, make_room, private_folder, scratch

if TYPE_CHECKING:
    from onnxruntime import InferenceSession
    from torch import nn

_PROVIDERS = {"cpu": PROVIDER, "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
"""Value of the field ``provider`` → ONNX Runtime's name."""
_SUFFIX = "_kernel_time"
"""Suffix of node names in its profile."""


class OnnxRuntime(Runtime):
    """ONNX Runtime in the file's precision, if the provider has it (INT8: CPU, TensorRT; fp16: GPU), else in fp32."""

    name: ClassVar[str] = "onnxruntime"
    accepts: ClassVar[Format] = "onnx"
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")
    libraries: ClassVar[tuple[str, ...]] = ("onnxruntime",)
    packages: ClassVar[tuple[str, ...]] = ("onnxruntime", "onnxruntime-gpu")

    provider: Literal["auto", "cpu", "cuda", "tensorrt"] = "auto"
    """Kernels that run the operators: the CPU's, CUDA's, or TensorRT's with CUDA's for the rest; auto chooses by the
    target's device. cuda and tensorrt need the package onnxruntime-gpu; only tensorrt computes INT8 on a GPU."""
    precision: Literal["fp32", "fp16"] = "fp32"
    """Type that layers compute in, except INT8 ones; fp16 is for provider tensorrt, which supports no other."""

    @model_validator(mode="after")
    def _check_precision(self) -> OnnxRuntime:
        if self.precision == "fp16" and self.provider != "tensorrt":
            raise ValueError("precision: fp16 is for provider: tensorrt only")
        return self

    @property
    def own_device(self) -> Device:
        """Return the device of its provider."""
        return "cuda" if self.provider in {"cuda", "tensorrt"} else "cpu"

    def unsupported_reason(self, target: Target) -> str | None:
        """Return why the provider does not run here in this precision, or None; for a CPU nothing is imported."""
        return super().unsupported_reason(target) or self._provider_unsupported_reason(target)

    @property
    def signed_int8(self) -> bool:
        """Return whether the provider is TensorRT."""
        return self.provider == "tensorrt"

    def scheme_unsupported_reason(self, scheme: str, target: Target) -> str | None:
        """Return that the provider computes INT8 in float or needs fixed ranges, or None."""
        word = self._provider_word(target)
        if word == "cuda" and scheme in ("int8", "int8_dynamic"):
            return (
                f"onnxruntime's provider cuda computes {scheme} in float, or on the CPU, slower than without; "
                "on a GPU take scheme int8 with runtime tensorrt, or with provider: tensorrt and precision: fp16"
            )
        return NO_DYNAMIC if word == "tensorrt" and scheme == "int8_dynamic" else None

    def load(self, artefact: Artefact, target: Target) -> NetworkRunner:
        """Return the network, loaded with all graph optimizations and the target's threads.

        Raises:
            RuntimeError: device, provider or threads are not the requested ones, a file has other inputs or outputs
                than the detector, or TensorRT does not read its INT8.
        """
        return self._loaded(artefact, target)

    def load_timed(self, artefact: Artefact, target: Target) -> TimedNetworkRunner:
        """Return the network, loaded with ONNX Runtime's profiler on, which holds all events in memory."""
        folder = scratch()
        loaded = self._loaded(artefact, target, Path(folder.name))
        return TimedRunner(loaded, _Nodes(loaded, folder, modules_of(artefact, loaded.detector)))

    @property
    def runs_single_layers(self) -> bool:
        """Return whether the provider needs no engine: TensorRT takes minutes to build those of all layers."""
        return self.provider != "tensorrt"

    @contextmanager
    def layer_runner(self, layer: nn.Module | Path, images: Floats, target: Target) -> Iterator[Callable[[], object]]:
        """Yield a call that runs an ONNX file on this provider."""
        assert isinstance(layer, Path)  # noqa: S101 - it loads files
        session = self.session(layer, target)
        yield lambda: session.run(None, {INPUT: images})

    def _loaded(self, artefact: Artefact, target: Target, profile: Path | None = None) -> LoadedNetworks:
        detector: Detector = parse_plugin(artefact.detector, DETECTORS)
        size = artefact.input_size
        parts = {}
        for name in detector.part_names:
            session = self.session(artefact.file(part_file(name)), target, profile)
            inputs = [FileInput([p.name], tuple(p.shape), p.type == "tensor(float)") for p in session.get_inputs()]
            check_interface(detector, name, inputs, {port.name for port in session.get_outputs()}, size)
            parts[name] = onnx_part(detector, name, session)
        if self.provider == "tensorrt":
            make_room(private_folder("tensorrt"))
        facts: dict[str, str | int] = {
            "runtime": f"onnxruntime {library().__version__}",
            "provider": self._providers(target)[0],
            "device": target.device,
            "threads": target.threads,
        }
        return LoadedNetworks(detector, parts, size, facts | self._precisions(artefact, detector, target))

    def session(self, file: Path, target: Target, profile: Path | None = None) -> InferenceSession:
        """Return a session of one file on the provider with the target's threads, both read back.

        Raises:
            RuntimeError: provider or threads are not the requested ones, or TensorRT does not read the file's INT8.
        """
        requested = self._providers(target)
        if _PROVIDERS["tensorrt"] in requested:
            check_tensorrt_integers(file)
        session = open_session(file, target.threads, self._options(requested, file), profile)
        threads, providers = session.get_session_options().intra_op_num_threads, session.get_providers()
        if providers[0] != requested[0] or threads != target.threads:
            actual = f"{', '.join(providers)} with {counted(threads, 'thread')}"
            raise RuntimeError(f"ONNX Runtime runs on {actual}, not as asked for")
        return session

    def _precisions(self, artefact: Artefact, detector: Detector, target: Target) -> dict[str, str | int]:
        """Return the precision that layers compute in, and that of the files if it differs.

        A CPU converts 16-bit floats to 32 bits before it computes; CUDA computes INT8 in float.
        """
        made = {contents_of(artefact.file(part_file(name))).precision for name in detector.part_names}
        meant = next((kind for kind in ("int8", "fp16") if kind in made), self.precision)
        computed = {"cpu": ("int8",), "cuda": ("fp16",), "tensorrt": ("int8", "fp16")}[self._provider_word(target)]
        actual = next((kind for kind in ("int8", "fp16") if kind in made and kind in computed), self.precision)
        facts: dict[str, str | int] = {"precision": actual}
        return facts if actual == meant else {**facts, "file": meant}

    def _providers(self, target: Target) -> list[str]:
        """Return ONNX Runtime's names of the providers for a target, best first.

        Raises:
            RuntimeError: the provider is missing here, or does not support the device or the precision.
        """
        if problem := self._provider_unsupported_reason(target):
            raise RuntimeError(problem)
        word = self._provider_word(target)
        return [_PROVIDERS[word], *([_PROVIDERS["cuda"]] if word == "tensorrt" else [])]

    def _provider_word(self, target: Target) -> str:
        return target.device if self.provider == "auto" else self.provider

    def _provider_unsupported_reason(self, target: Target) -> str | None:
        word = self._provider_word(target)
        if (word == "cpu") != (target.device == "cpu"):
            return f"onnxruntime: provider {word} does not run on {target.device}, the target's device"
        if word == "cpu":
            return None
        if word == "tensorrt" and self.precision == "fp32":
            return NO_FP32
        missing = load_libraries(word)
        if _PROVIDERS[word] not in (known := library().get_available_providers()):
            return f"this onnxruntime has no provider {word}, only {', '.join(known)}: not on {target.device}"
        return f"onnxruntime: provider {word} needs {', '.join(missing)}: not found here" if missing else None

    def _options(self, providers: Sequence[str], file: Path) -> dict[str, dict[str, str]]:
        """Return the options of each provider for a file; float32 on a GPU must not be TF32, whose inputs have 10 bits.

        Each file has its own folder of engines: ONNX Runtime identifies engines by the names of file and tensors only,
        and could otherwise run that of another network.
        """
        options = {name: {"use_tf32": "0"} if name == _PROVIDERS["cuda"] else {} for name in providers}
        if _PROVIDERS["tensorrt"] in options:
            made = contents_of(file).precision
            cache = private_folder("tensorrt") / f"{sha256(file)}.{self.precision}.{library().__version__}"
            while not hold(cache):
                cache.mkdir(exist_ok=True)
            options[_PROVIDERS["tensorrt"]] = {
                "trt_engine_cache_enable": "1",
                "trt_engine_cache_path": str(cache),
                "trt_fp16_enable": "1",
                "trt_int8_enable": str(int(made == "int8")),
                "trt_sparsity_enable": "1",  # only weights that already have pattern 2:4 are sparse
            }
        return options


class _Nodes:
    """Operators in the profiles of ONNX Runtime.

    Args:
        loaded: sessions that were opened with a profile.
        folder: temporary folder of the profiles.
        modules: modules of the files' nodes, by part.
    """

    def __init__(
        self, loaded: LoadedNetworks, folder: tempfile.TemporaryDirectory[str], modules: Mapping[str, ModuleNames]
    ) -> None:
        self._parts, self._folder, self._modules = loaded.parts, folder, modules
        self._skipped = dict.fromkeys(self._parts, 0)

    def reset(self, calls: Mapping[str, int]) -> None:
        """Note the number of runs of each part to skip."""
        self._skipped = dict(calls)

    def operators(self, calls: Mapping[str, int]) -> list[Operator]:  # noqa: ARG002 - the events count them
        """Return the operators of the profiles, which end here."""
        operators = []
        for part, loaded in self._parts.items():
            assert isinstance(loaded, OnnxPart)  # noqa: S101 - loaded by this module
            events = json.loads(Path(loaded.session.end_profiling()).read_text())
            runs = sorted(event["ts"] for event in events if event["name"] == "model_run")[self._skipped[part] :]
            nodes = [event for event in events if event["cat"] == "Node" and runs and event["ts"] >= runs[0]]
            kinds = {event["name"].removesuffix(_SUFFIX): event["args"]["op_name"] for event in nodes}
            modules = self._modules[part].of({name: (kind, [name]) for name, kind in kinds.items()})
            for event in nodes:
                name = event["name"].removesuffix(_SUFFIX)
                operators.append(Operator(part, name, kinds[name], modules.get(name), event["dur"] / 1e3))
        self._folder.cleanup()
        return operators

    def trace(self, file: Path) -> bool:  # noqa: ARG002 - the interface
        """Return False: the profile's timeline would show less than the table of operators."""
        return False
