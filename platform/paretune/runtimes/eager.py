"""Eager PyTorch: the baseline of all comparisons."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from paretune.core.devices import devices_of_torch
from paretune.core.model import Format
from paretune.core.spec import parse_plugin
from paretune.core.target import Target
from paretune.core.types import Floats
from paretune.detectors import DETECTORS
from paretune.detectors.base import Detector
from paretune.runtimes.base import NetworkRunner, Runtime, TimedNetworkRunner
from paretune.runtimes.operator_timing import TimedRunner
from paretune.storage.artefact import Artefact

if TYPE_CHECKING:
    from torch import Tensor, nn

EagerPrecision = Literal["fp32", "bf16", "fp16"]
NO_INT8 = (
    "torch has INT8 layers for a CPU only; on a GPU take runtime tensorrt, or onnxruntime's "
    "{provider: tensorrt, precision: fp16}"
)
_TYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""Name of a precision → name of torch's type."""


class Eager(Runtime):
    """The unchanged torch network, run operator by operator, with INT8 layers where `quantize` has made them."""

    name: ClassVar[str] = "eager"
    accepts: ClassVar[Format] = "torch"
    devices: ClassVar[tuple[str, ...]] = devices_of_torch()
    libraries: ClassVar[tuple[str, ...]] = ("torch",)

    precision: EagerPrecision = "fp32"
    """Type of weights and activations, except in INT8 layers. A CPU without instructions for bf16 or fp16 is slower
    with them than with fp32."""
    channels_last: bool = False
    """Store the channels of a pixel next to each other in memory: often faster, with equal results up to rounding."""

    def unsupported_reason(self, target: Target) -> str | None:
        """Return that torch finds no GPU for a target that is one, or None."""
        return super().unsupported_reason(target) or gpu_unsupported_reason(target)

    def scheme_unsupported_reason(self, scheme: str, target: Target) -> str | None:
        """Return that torch has INT8 layers for CPUs only, or None."""
        return int8_unsupported_reason(scheme, target)

    def load(self, artefact: Artefact, target: Target) -> NetworkRunner:
        """Return the network, rebuilt from its structure and weights.

        torch keeps the number of threads, and on a GPU the precision of convolutions, for the whole process.

        Raises:
            RuntimeError: torch does not accept the number of threads, there is no such device, or a layer would not
                run in this precision.
        """
        return self._loaded(artefact, target)

    def load_timed(self, artefact: Artefact, target: Target) -> TimedNetworkRunner:
        """Return the network, loaded with torch's profiler on and hooks that record the running module."""
        from paretune.runtimes.operator_timing_torch import TorchProfile, mark_modules, parts_of

        loaded = self._loaded(artefact, target)
        of_modules = parts_of(loaded.detector, loaded.network)
        mark_modules(loaded.network)
        profile = TorchProfile(target.device, loaded.detector.part_names, of_modules)
        return TimedRunner(loaded, profile)

    @property
    def runs_single_layers(self) -> bool:
        """True: a layer needs no preparation."""
        return True

    @contextmanager
    def layer_runner(self, layer: nn.Module | Path, images: Floats, target: Target) -> Iterator[Callable[[], object]]:
        """Yield a call that runs a module in this precision and layout."""
        import torch

        assert not isinstance(layer, Path)  # noqa: S101 - it loads torch models
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        dtype, threads = torch_dtype(self.precision), torch.get_num_threads()
        torch.set_num_threads(target.threads)
        network = layer.to(target.device, dtype).to(memory_format=layout)
        batch = torch.from_numpy(images).to(target.device, dtype, memory_format=layout)

        def run() -> Tensor:
            with torch.inference_mode():
                output: Tensor = network(batch)
                return output.cpu()

        try:
            yield run
        finally:
            torch.set_num_threads(threads)

    def _loaded(self, artefact: Artefact, target: Target) -> _Network:
        import torch

        set_up_torch(target)
        network = load_for_inference(artefact, target, self.precision)
        if self.channels_last:
            network = network.to(memory_format=torch.channels_last)
        facts = read_facts(network, target, self.precision)
        facts["layout"] = "channels last" if self.channels_last else "channels first"
        return _Network(
            network,
            ArrayConversion(target.device, self.precision, self.channels_last),
            facts,
            parse_plugin(artefact.detector, DETECTORS),
        )


def int8_unsupported_reason(scheme: str, target: Target) -> str | None:
    """Return that torch has INT8 layers for CPUs only, or None."""
    return NO_INT8 if scheme == "int8" and target.device != "cpu" else None


def gpu_unsupported_reason(target: Target) -> str | None:
    """Return that torch finds no such device for a target, or None; for a CPU torch is not imported."""
    if target.device == "cpu":
        return None
    import torch

    with suppress(RuntimeError):  # this torch has no module for such devices
        if torch.get_device_module(target.device).is_available():
            return None
    gpu = target.device == "cuda"
    return "the target is a GPU, and torch finds none" if gpu else f"torch finds no {target.device}"


def set_up_torch(target: Target) -> None:
    """Set torch's number of threads and turn TF32 off, after checking that the device exists.

    Raises:
        RuntimeError: torch does not accept the number of threads, or finds no GPU.
    """
    import torch

    torch.set_num_threads(target.threads)
    if torch.get_num_threads() != target.threads:
        raise RuntimeError(f"torch runs {torch.get_num_threads()} threads, not {target.threads}")
    if problem := gpu_unsupported_reason(target):
        raise RuntimeError(problem)
    if target.device == "cuda":
        _forbid_tf32()


def _forbid_tf32() -> None:
    """Let convolutions on a GPU run in float32; by default torch rounds their inputs to 10 bits (TF32)."""
    import torch

    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    if torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32:
        raise RuntimeError("torch does not leave TF32, so this would not be float32")


def torch_dtype(precision: EagerPrecision) -> Any:
    """Return torch's type of a precision."""
    import torch

    return getattr(torch, _TYPES[precision])


def load_for_inference(artefact: Artefact, target: Target, precision: EagerPrecision) -> nn.Module:
    """Return an artefact's network for inference, on the target's device, with weights of this precision.

    Raises:
        RuntimeError: it has INT8 layers, and the target is not a CPU.
    """
    from paretune.networks.int8_layers import is_int8
    from paretune.networks.network_files import load_network

    network = load_network(parse_plugin(artefact.detector, DETECTORS), len(artefact.classes), artefact.folder)
    network = network.eval().requires_grad_(False)
    layers = [module for module in network.modules() if not is_int8(module)]
    if target.device != "cpu" and len(layers) < len(list(network.modules())):
        raise RuntimeError(NO_INT8)
    kind = torch_dtype(precision)
    for layer in layers:  # not `network.to`: the scales of INT8 layers stay float32
        for weight in layer.parameters(recurse=False):
            if weight.is_floating_point():
                weight.data = weight.data.to(kind)
        for name, buffer in list(layer.named_buffers(recurse=False)):
            if buffer.is_floating_point():  # a new buffer: the compiler refuses views of another type
                setattr(layer, name, buffer.to(kind))
    return network.to(target.device)


def read_facts(network: nn.Module, target: Target, precision: EagerPrecision) -> dict[str, str | int]:
    """Return facts read back from a loaded network: version, device, threads, precision.

    Raises:
        RuntimeError: weights are not of the requested precision.
    """
    import torch

    from paretune.networks.int8_layers import is_int8

    words = {kind: word for word, kind in _TYPES.items()}
    kinds = {
        "int8" if is_int8(module) else words.get(str(tensor.dtype).removeprefix("torch."), str(tensor.dtype))
        for module in network.modules()
        for tensor in module.parameters(recurse=False)
    } | {"int8" for module in network.modules() if is_int8(module)}
    if unasked := kinds - {precision, "int8"}:
        raise RuntimeError(f"the network's weights are {', '.join(sorted(unasked))}, not {precision}")
    return {
        "runtime": f"torch {torch.__version__}",
        "device": torch.cuda.get_device_name() if target.device == "cuda" else target.device,
        "threads": torch.get_num_threads(),
        "precision": "int8" if "int8" in kinds else precision,
        "layers": ", ".join(sorted(kinds)),
    }


@dataclass(frozen=True)
class ArrayConversion:
    """Conversion between arrays and a network's tensors."""

    device: str
    precision: EagerPrecision
    channels_last: bool = False

    def tensor(self, batch: Floats) -> Tensor:
        """Return an array (B, ...) float32 as a tensor on the device in the precision."""
        import torch

        tensor = torch.from_numpy(batch).to(self.device, getattr(torch, _TYPES[self.precision]))
        return tensor.contiguous(memory_format=torch.channels_last) if self.channels_last else tensor

    def arrays(self, raw: tuple[Tensor, ...]) -> tuple[Floats, ...]:
        """Return tensors as arrays of float32."""
        return tuple(tensor.float().cpu().numpy() for tensor in raw)


@dataclass(frozen=True)
class _Network:
    """A torch network as a function of arrays."""

    network: nn.Module
    given: ArrayConversion
    facts: dict[str, str | int]
    detector: Detector

    @property
    def parts(self) -> Mapping[str, Callable[[Floats], tuple[Floats, ...]]]:
        """The parts of the network by name, one for most detectors."""
        return {
            name: _Network(part, self.given, self.facts, self.detector)
            for name, part in self.detector.part_modules(self.network).items()
        }

    def __call__(self, batch: Floats) -> tuple[Floats, ...]:
        import torch

        with torch.inference_mode():
            return self.given.arrays(self.network(self.given.tensor(batch)))
