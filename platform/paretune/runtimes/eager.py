"""Eager PyTorch: the plain baseline that everything else is compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

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
"""Our word for a precision → torch's."""


class Eager(Runtime):
    """The torch network as it is, operator by operator; INT8 where `quantize` has made layers so."""

    name: ClassVar[str] = "eager"
    accepts: ClassVar[Format] = "torch"
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")
    libraries: ClassVar[tuple[str, ...]] = ("torch",)

    precision: EagerPrecision = "fp32"
    """Type of the weights and activations of layers that are not INT8. A CPU without instructions for bf16 or fp16 runs
    them slower than fp32."""
    channels_last: bool = False
    """Keep the channels of a pixel side by side in memory: often faster, and the same numbers but for rounding."""

    def unsupported_reason(self, target: Target) -> str | None:
        """Tell that a GPU is asked for and torch finds none."""
        return super().unsupported_reason(target) or gpu_unsupported_reason(target)

    def scheme_unsupported_reason(self, scheme: str, target: Target) -> str | None:
        """Its INT8 layers are for a CPU."""
        return int8_unsupported_reason(scheme, target)

    def load(self, artefact: Artefact, target: Target) -> NetworkRunner:
        """Rebuild the network from its structure and weights.

        The number of threads, and on a GPU the precision of convolutions, hold for the whole process:
        torch has no other place for them.

        Raises:
            RuntimeError: torch does not take the number of threads, there is no such device, or
                something would not run in this precision.
        """
        return self._loaded(artefact, target)

    def counted(self, artefact: Artefact, target: Target) -> TimedNetworkRunner:
        """Load it with torch's profiler on, and hooks that tell which module runs."""
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
    """Tell that torch has no INT8 layers for a target; None otherwise."""
    return NO_INT8 if scheme == "int8" and target.device != "cpu" else None


def gpu_unsupported_reason(target: Target) -> str | None:
    """Tell that the target is a GPU and torch finds none; for a CPU torch is not imported."""
    if target.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            return "the target is a GPU, and torch finds none"
    return None


def set_up_torch(target: Target) -> None:
    """Give torch the target's number of threads, see to it that there is the device, and keep TF32 away.

    Raises:
        RuntimeError: torch does not take it, or finds no GPU.
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
    """Let convolutions on a GPU run in float32; torch's own default rounds their inputs to 10 bits (TF32)."""
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
    """Load an artefact's network for inference only, on the target's device, its weights of this precision.

    Raises:
        RuntimeError: it has INT8 layers, and the target is a GPU.
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
            if buffer.is_floating_point():  # a new one: the compiler refuses views of what has another type
                setattr(layer, name, buffer.to(kind))
    return network.to(target.device)


def read_facts(network: nn.Module, target: Target, precision: EagerPrecision) -> dict[str, str | int]:
    """Read back what will run.

    Raises:
        RuntimeError: weights are not of the precision asked for.
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
    """How an array becomes what a network takes, and back."""

    device: str
    precision: EagerPrecision
    channels_last: bool = False

    def tensor(self, batch: Floats) -> Tensor:
        """Array (B, ...) float32 → tensor on the device, of the precision."""
        import torch

        tensor = torch.from_numpy(batch).to(self.device, getattr(torch, _TYPES[self.precision]))
        return tensor.contiguous(memory_format=torch.channels_last) if self.channels_last else tensor

    def arrays(self, raw: tuple[Tensor, ...]) -> tuple[Floats, ...]:
        """Tensors → arrays of float32."""
        return tuple(tensor.float().cpu().numpy() for tensor in raw)


@dataclass(frozen=True)
class _Network:
    """A network as a Core."""

    network: nn.Module
    given: ArrayConversion
    facts: dict[str, str | int]
    detector: Detector

    @property
    def parts(self) -> Mapping[str, Callable[[Floats], tuple[Floats, ...]]]:
        """The network, or its parts where a detector has several."""
        return {
            name: _Network(part, self.given, self.facts, self.detector)
            for name, part in self.detector.part_modules(self.network).items()
        }

    def __call__(self, batch: Floats) -> tuple[Floats, ...]:
        import torch

        with torch.inference_mode():
            return self.given.arrays(self.network(self.given.tensor(batch)))
