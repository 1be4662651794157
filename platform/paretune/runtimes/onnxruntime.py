"""ONNX Runtime (https://onnxruntime.ai): the portable runtime, fast on CPUs; on NVIDIA's GPUs by CUDA or TensorRT."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

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
"""Our word for a provider → ONNX Runtime's."""
_SUFFIX = "_kernel_time"
"""What its profiler puts after the name of a node."""


class OnnxRuntime(Runtime):
    """ONNX Runtime, in the file's precision where the provider has it (INT8: CPU, TensorRT; fp16: GPU), or in fp32."""

    name: ClassVar[str] = "onnxruntime"
    accepts: ClassVar[Format] = "onnx"
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")
    libraries: ClassVar[tuple[str, ...]] = ("onnxruntime",)
    packages: ClassVar[tuple[str, ...]] = ("onnxruntime", "onnxruntime-gpu")

    provider: Literal["auto", "cpu", "cuda", "tensorrt"] = "auto"
    """What runs the operators: the CPU's own kernels, CUDA's, or TensorRT's and CUDA's for the rest; auto takes the one
    of the target's device. cuda and tensorrt need the package onnxruntime-gpu; of these only tensorrt computes INT8."""
    precision: Literal["fp32", "fp16"] = "fp32"
    """What layers that are not INT8 compute in; fp16 is for the provider tensorrt, which has no other."""

    @model_validator(mode="after")
    def _check_precision(self) -> OnnxRuntime:
        if self.precision == "fp16" and self.provider != "tensorrt":
            raise ValueError("precision: fp16 is for provider: tensorrt only")
        return self

    @property
    def own_device(self) -> Device:
        """Return the device of the provider that it asks for."""
        return "cuda" if self.provider in {"cuda", "tensorrt"} else "cpu"

    def unsupported_reason(self, target: Target) -> str | None:
        """Tell that there is no such provider, in this precision or here; for a CPU nothing is imported."""
        return super().unsupported_reason(target) or self._provider_unsupported_reason(target)

    @property
    def signed_int8(self) -> bool:
        """TensorRT does."""
        return self.provider == "tensorrt"

    def scheme_unsupported_reason(self, scheme: str, target: Target) -> str | None:
        """CUDA's kernels are in float around pairs of QuantizeLinear and DequantizeLinear, which cost time besides."""
        word = self._word(target)
        if word == "cuda" and scheme in ("int8", "int8_dynamic"):
            return (
                f"onnxruntime's provider cuda computes {scheme} in float, or on the CPU, slower than without; "
                "on a GPU take scheme int8 with runtime tensorrt, or with provider: tensorrt and precision: fp16"
            )
        return NO_DYNAMIC if word == "tensorrt" and scheme == "int8_dynamic" else None

    def load(self, artefact: Artefact, target: Target) -> NetworkRunner:
        """Load ``model.onnx`` with all graph optimizations and the target's threads.

        Raises:
            RuntimeError: another device, provider or number of threads than asked for, a file whose inputs and
                outputs are not those of the detector, or one whose INT8 TensorRT does not read.
        """
        return self._loaded(artefact, target)

    def counted(self, artefact: Artefact, target: Target) -> TimedNetworkRunner:
        """Load it with ONNX Runtime's profiler on, which keeps every event in memory: for some hundred inferences."""
        folder = scratch()
        loaded = self._loaded(artefact, target, Path(folder.name))
        return TimedRunner(loaded, _Nodes(loaded, folder, modules_of(artefact, loaded.detector)))

    @property
    def runs_single_layers(self) -> bool:
        """Whether the provider needs no engine: TensorRT takes minutes to build those of all layers."""
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
            parts[name] = OnnxPart(session, detector.part_input(name), list(detector.part_outputs(name)))
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
        """Open one file on the provider and with the target's threads, both read back; see ``open_session``.

        Raises:
            RuntimeError: it runs on something else, or holds INT8 that TensorRT does not read.
        """
        wanted = self._providers(target)
        if _PROVIDERS["tensorrt"] in wanted:
            check_tensorrt_integers(file)
        session = open_session(file, target.threads, self._options(wanted, file), profile)
        threads, providers = session.get_session_options().intra_op_num_threads, session.get_providers()
        if providers[0] != wanted[0] or threads != target.threads:
            told = f"{', '.join(providers)} with {threads} threads"
            raise RuntimeError(f"ONNX Runtime runs on {told}, not as asked for")
        return session

    def _precisions(self, artefact: Artefact, detector: Detector, target: Target) -> dict[str, str | int]:
        """Return what its layers compute in, and what the files are made for where that is something else.

        A CPU widens 16 bits before it computes; CUDA computes integers of such files in float.
        """
        made = {contents_of(artefact.file(part_file(name))).precision for name in detector.part_names}
        meant = next((kind for kind in ("int8", "fp16") if kind in made), self.precision)
        computed = {"cpu": ("int8",), "cuda": ("fp16",), "tensorrt": ("int8", "fp16")}[self._word(target)]
        found = next((kind for kind in ("int8", "fp16") if kind in made and kind in computed), self.precision)
        told: dict[str, str | int] = {"precision": found}
        return told if found == meant else {**told, "file": meant}

    def _providers(self, target: Target) -> list[str]:
        """Return ONNX Runtime's names of the providers for a target, best first.

        Raises:
            RuntimeError: this ONNX Runtime has no such provider here, or it is for another device or precision.
        """
        if problem := self._provider_unsupported_reason(target):
            raise RuntimeError(problem)
        word = self._word(target)
        return [_PROVIDERS[word], *([_PROVIDERS["cuda"]] if word == "tensorrt" else [])]

    def _word(self, target: Target) -> str:
        return target.device if self.provider == "auto" else self.provider

    def _provider_unsupported_reason(self, target: Target) -> str | None:
        word = self._word(target)
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
        """Return what each provider is told for a file; float32 on a GPU is not to be TF32, whose inputs have 10 bits.

        Each file has a folder of engines of its own: ONNX Runtime finds them by the names of file and tensors alone,
        and would run another network's.
        """
        found = {name: {"use_tf32": "0"} if name == _PROVIDERS["cuda"] else {} for name in providers}
        if _PROVIDERS["tensorrt"] in found:
            made = contents_of(file).precision
            cache = private_folder("tensorrt") / f"{sha256(file)}.{self.precision}.{library().__version__}"
            while not hold(cache):
                cache.mkdir(exist_ok=True)
            found[_PROVIDERS["tensorrt"]] = {
                "trt_engine_cache_enable": "1",
                "trt_engine_cache_path": str(cache),
                "trt_fp16_enable": "1",
                "trt_int8_enable": str(int(made == "int8")),
                "trt_sparsity_enable": "1",  # for weights that are 2:4 as they are; none is made so
            }
        return found


class _Nodes:
    """What ONNX Runtime's profiler tells.

    Args:
        loaded: sessions that were opened with a profile.
        folder: where they write it.
        modules: of the files' nodes.
    """

    def __init__(
        self, loaded: LoadedNetworks, folder: tempfile.TemporaryDirectory[str], modules: Mapping[str, ModuleNames]
    ) -> None:
        self._parts, self._folder, self._modules = loaded.parts, folder, modules
        self._skipped = dict.fromkeys(self._parts, 0)

    def reset(self, calls: Mapping[str, int]) -> None:
        """Note how many runs of each part are not to be counted."""
        self._skipped = dict(calls)

    def operators(self, calls: Mapping[str, int]) -> list[Operator]:  # noqa: ARG002 - the events tell
        """End the profiles and return their events."""
        found = []
        for part, loaded in self._parts.items():
            assert isinstance(loaded, OnnxPart)  # noqa: S101 - we have made them
            events = json.loads(Path(loaded.session.end_profiling()).read_text())
            runs = sorted(event["ts"] for event in events if event["name"] == "model_run")[self._skipped[part] :]
            nodes = [event for event in events if event["cat"] == "Node" and runs and event["ts"] >= runs[0]]
            kinds = {event["name"].removesuffix(_SUFFIX): event["args"]["op_name"] for event in nodes}
            modules = self._modules[part].of({name: (kind, [name]) for name, kind in kinds.items()})
            for event in nodes:
                name = event["name"].removesuffix(_SUFFIX)
                found.append(Operator(part, name, kinds[name], modules.get(name), event["dur"] / 1e3))
        self._folder.cleanup()
        return found

    def trace(self, file: Path) -> bool:  # noqa: ARG002 - the interface
        """None: its own events would be one, but they tell less than the table."""
        return False
