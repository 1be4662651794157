"""TensorRT (https://docs.nvidia.com/deeplearning/tensorrt): NVIDIA's runtime for its GPUs; an optional package."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from paretune.core.model import Format
from paretune.core.spec import parse_plugin
from paretune.core.target import Target
from paretune.core.types import Floats
from paretune.detectors import DETECTORS
from paretune.detectors.base import Detector
from paretune.runtimes.base import LoadedNetworks, NetworkRunner, Runtime, TimedNetworkRunner
from paretune.runtimes.eager import gpu_unsupported_reason
from paretune.runtimes.onnx_header import NO_DYNAMIC, check_tensorrt_integers, contents_of
from paretune.runtimes.onnx_session import FileInput, check_interface, part_file
from paretune.storage.artefact import Artefact
from paretune.storage.atomic_files import sha256
from paretune.system.machine_cache import hold, make_room, private_folder

if TYPE_CHECKING:
    from torch import Tensor


class TensorRt(Runtime):
    """TensorRT on an NVIDIA GPU. The engine is built when an artefact is first loaded, and cached on the machine."""

    name: ClassVar[str] = "tensorrt"
    accepts: ClassVar[Format] = "onnx"
    devices: ClassVar[tuple[str, ...]] = ("cuda",)
    libraries: ClassVar[tuple[str, ...]] = ("tensorrt", "torch")

    precision: Literal["fp32", "fp16"] = "fp32"
    """Type that layers compute in, except INT8 ones."""

    def unsupported_reason(self, target: Target) -> str | None:
        """Return that the GPU is missing, or None."""
        return super().unsupported_reason(target) or gpu_unsupported_reason(target)

    @property
    def signed_int8(self) -> bool:
        """True: it reads no other INT8."""
        return True

    def scheme_unsupported_reason(self, scheme: str, target: Target) -> str | None:  # noqa: ARG002 - it has one device
        """Return that an engine needs ranges beforehand, for int8_dynamic, or None."""
        return NO_DYNAMIC if scheme == "int8_dynamic" else None

    def load(self, artefact: Artefact, target: Target) -> NetworkRunner:
        """Return the network, with an engine built from each file of the artefact or read from the cache.

        Raises:
            RuntimeError: the target is no GPU or there is none, TensorRT does not read a file (such as one with INT8
                for CPUs), or a file has other inputs or outputs than the detector.
        """
        if target.device not in self.devices:
            raise RuntimeError(f"tensorrt runs on {', '.join(self.devices)}, not on {target.device}")
        if problem := gpu_unsupported_reason(target):
            raise RuntimeError(problem)
        import tensorrt
        import torch

        detector: Detector = parse_plugin(artefact.detector, DETECTORS)
        files = {name: artefact.file(part_file(name)) for name in detector.part_names}
        parts: dict[str, Callable[[Floats], tuple[Floats, ...]]] = {}
        for name, file in files.items():
            check_tensorrt_integers(file)
            engine = _engine(file, self.precision)
            names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
            given = [label for label in names if engine.get_tensor_mode(label) == tensorrt.TensorIOMode.INPUT]
            floats = tensorrt.float32
            inputs = [
                FileInput([label], tuple(engine.get_tensor_shape(label)), engine.get_tensor_dtype(label) == floats)
                for label in given
            ]
            check_interface(detector, name, inputs, set(names) - set(given), artefact.input_size, exact=True)
            parts[name] = TensorRtPart(engine, detector.part_input(name), tuple(detector.part_outputs(name)))
        made = {contents_of(file).precision for file in files.values()}
        facts: dict[str, str | int] = {
            "runtime": f"tensorrt {tensorrt.__version__}",
            "device": torch.cuda.get_device_name(),
            "threads": target.threads,
            "precision": next((kind for kind in ("int8", "fp16") if kind in made), self.precision),
        }
        return LoadedNetworks(detector, parts, artefact.input_size, facts)

    def load_timed(self, artefact: Artefact, target: Target) -> TimedNetworkRunner:
        """Raise an error, since the layers of an engine are not timed here.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            "tensorrt: layers of an engine are not timed one by one here; "
            "`trtexec --loadEngine --dumpProfile --separateProfileRun` does it for an engine"
        )


def _engine(file: Path, kind: str) -> Any:
    """Return the engine of a file for this GPU, built now or read from the cache."""
    import tensorrt
    import torch

    code = sha256(Path(__file__))  # this file decides how the engine is built
    made_of = (tensorrt.__version__, torch.cuda.get_device_name(), kind, sha256(file), code)
    kept = private_folder("tensorrt") / f"{hashlib.sha256(repr(made_of).encode()).hexdigest()[:32]}.engine"
    made = False
    while not hold(kept):
        draft = kept.with_name(f".{kept.name}.{os.getpid()}.part")
        draft.write_bytes(_built(file, kind))
        draft.replace(kept)
        made = True
    if made:
        make_room(kept.parent)
    engine = tensorrt.Runtime(tensorrt.Logger(tensorrt.Logger.ERROR)).deserialize_cuda_engine(kept.read_bytes())
    if engine is None:
        raise RuntimeError(f"TensorRT does not load its own engine {kept}; delete it, and it is built again")
    return engine


def _built(file: Path, kind: str) -> bytes:
    """Return an engine in which every tensor has the type given in the file.

    Raises:
        RuntimeError: TensorRT does not read the file or builds no engine; the message gives its first reason.
    """
    import tensorrt as trt

    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
    if not parser.parse(file.read_bytes() if kind == "fp32" else halved(file)):
        raise RuntimeError(f"TensorRT does not read {file.name}: {parser.get_error(0).desc()}")
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # float32 must not be rounded to 10 bits
    config.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)  # only weights that already have pattern 2:4 are sparse
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise RuntimeError(f"TensorRT builds no engine of {file.name}")
    return bytes(engine)


def halved(file: Path) -> bytes:
    """Return the content of an ONNX file with its tensors in float16; inputs and outputs stay float32."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    return bytes(convert_float_to_float16(onnx.load(file), keep_io_types=True).SerializeToString())


class TensorRtPart:
    """An engine as a function from its input to its outputs, in GPU memory that all calls share.

    Args:
        engine: with static shapes.
        given: name of its input.
        outputs: names of its outputs, in the order of the result.
    """

    def __init__(self, engine: Any, given: str, outputs: tuple[str, ...]) -> None:
        import torch

        self._engine, self._given, self._outputs = engine, given, outputs
        self._context = engine.create_execution_context()
        self._stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # in no stub
        self._memory: dict[str, Tensor] = {}
        for name in (given, *outputs):
            self._memory[name] = torch.empty(tuple(engine.get_tensor_shape(name)), device="cuda")
            self._context.set_tensor_address(name, self._memory[name].data_ptr())

    def __call__(self, batch: Floats) -> tuple[Floats, ...]:
        """Return the outputs for one input.

        Raises:
            RuntimeError: TensorRT could not run the engine.
        """
        import torch

        with torch.cuda.stream(self._stream):
            self._memory[self._given].copy_(torch.from_numpy(batch))
            if not self._context.execute_async_v3(self._stream.cuda_stream):
                raise RuntimeError("TensorRT could not run the engine")
            return tuple(self._memory[name].cpu().numpy() for name in self._outputs)
