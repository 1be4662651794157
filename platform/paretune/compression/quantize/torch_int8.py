"""Static INT8 quantization of a torch network: layers that compute in 8 bits replace its own.

Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, CVPR 2018
(arXiv:1712.05877). Batch norms are folded first; the range of each layer's input is measured on calibration images.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from paretune.compression.base import Context
from paretune.compression.export import TrainingInputs
from paretune.compression.quantize.calibration import calibration_facts
from paretune.core.model import Model
from paretune.core.types import Floats, InputSize
from paretune.detectors.base import Detector
from paretune.networks.batchnorm_folding import fold
from paretune.networks.int8_layers import LARGEST_INPUT, LARGEST_WEIGHT, PAIRS, Int8Conv2d, Int8Linear
from paretune.networks.layer_chain import Chain, FoldedBatchNorm
from paretune.networks.network_files import copy_network
from paretune.networks.part_runner import in_eager, part_inputs

_CUT = 5e-5
"""Share of the values that `percentile` leaves out at either end, one in ten thousand together."""
_BINS = 8192


def quantize_model(
    model: Model,
    context: Context,
    indices: Sequence[int],
    *,
    per_channel: bool,
    method: Literal["minmax", "percentile"],
    float_outputs: bool,
) -> Model:
    """Return a torch model with its network in INT8, for a runtime that loads torch networks.

    Args:
        model: not exported yet.
        context: of the trial.
        indices: calibration images in the training split.
        per_channel: see ``quantize_network``.
        method: see ``quantize_network``.
        float_outputs: keep the layers whose outputs are boxes and scores in float.
    """
    keep = predictors(model.torch_network, context.detector) if float_outputs else []
    network = quantize_network(
        model.torch_network,
        context.detector,
        TrainingInputs(model, context, indices),
        per_channel=per_channel,
        method=method,
        keep=keep,
    )
    facts = calibration_facts(context, indices, method, "torch", LARGEST_WEIGHT.bit_length() + 1)
    return replace(model, network=network, calibration=facts)


def quantize_network(
    network: nn.Module,
    detector: Detector,
    images: Iterable[Floats],
    *,
    per_channel: bool = True,
    method: Literal["minmax", "percentile"] = "minmax",
    keep: Collection[str] = (),
) -> nn.Module:
    """Return a copy whose convolutions and linear layers compute in INT8.

    Args:
        network: float, in eval mode on the CPU.
        detector: of the network.
        images: network inputs to measure ranges on, each (1, 3, H, W); iterated more than once.
        per_channel: a scale for each output channel of a weight.
        method: range of an input, from its smallest to its largest value or without one in ten thousand.
        keep: names of layers that stay in float.

    Raises:
        ValueError: there are no images, or ``keep`` names no layer.
    """
    first = next(iter(images), None)
    if first is None:
        raise ValueError("no images to take ranges from")
    copied = _folded(network, detector, first)
    layers = {name: module for name, module in copied.named_modules() if type(module) in {nn.Conv2d, nn.Linear}}
    if unknown := sorted(set(keep) - layers.keys()):
        raise ValueError(f"no convolution or linear layer is called {unknown[0]!r}")
    chosen = {name: layer for name, layer in layers.items() if name not in keep and _is_supported(layer)}
    ranges = input_ranges(copied, detector, chosen, images, method)
    for name, (low, high) in ranges.items():
        copied.set_submodule(name, int8_of(layers[name], low, high, per_channel=per_channel))
    for name in _with_new_bias(network, layers.keys() - ranges.keys(), copied):
        copied.set_submodule(name, Chain(layers[name]))
    return copied


def predictors(network: nn.Module, detector: Detector) -> list[str]:
    """Return the names of the layers whose outputs are boxes and scores."""
    protected = {id(module) for module in detector.protected(network)}
    return [name for name, module in network.named_modules() if id(module) in protected]


def int8_of(layer: nn.Module, low: float, high: float, *, per_channel: bool) -> nn.Module:
    """Return a float layer in INT8.

    Args:
        layer: ``nn.Conv2d`` or ``nn.Linear``.
        low: smallest input, at most 0.
        high: largest input, at least 0.
        per_channel: a scale for each output channel.
    """
    scale = (high - low) / LARGEST_INPUT or 1.0  # any scale suits an input that is always 0
    fields: dict[str, Any] = {"input_scale": scale, "input_zero_point": round(-low / scale)}
    made: Int8Conv2d | Int8Linear
    if isinstance(layer, nn.Conv2d):
        fields |= {"channels": [layer.in_channels, layer.out_channels], "groups": layer.groups}
        fields |= {name: list(getattr(layer, name)) for name in PAIRS}
        made = Int8Conv2d.empty(fields, device=None)
    elif isinstance(layer, nn.Linear):
        made = Int8Linear.empty(fields | {"channels": [layer.in_features, layer.out_features]}, device=None)
    else:
        raise TypeError(f"{type(layer).__name__} is neither a convolution nor a linear layer")
    weight = layer.weight.detach()
    largest = weight.flatten(1).abs().amax(1) if per_channel else weight.abs().max().expand(len(weight))
    made.weight_scale = (largest / LARGEST_WEIGHT).where(largest > 0, torch.ones_like(largest)).contiguous()
    rounded = (weight / made.weight_scale.view(-1, *(1,) * (weight.ndim - 1))).round()
    made.weight = rounded.clamp(-LARGEST_WEIGHT, LARGEST_WEIGHT).to(torch.int8)
    if layer.bias is not None:
        made.bias = layer.bias.detach().clone()
    return made.eval()


def _folded(network: nn.Module, detector: Detector, image: Floats) -> nn.Module:
    """Return a copy with its batch norms folded, part by part, or with none folded if that changes its outputs."""
    copied = copy_network(network).eval().requires_grad_(False)
    parts = {name: in_eager(part) for name, part in detector.part_modules(copied).items()}
    for name, inputs in part_inputs(detector, parts, [image], Model(copied, None, _size(image))).items():
        if not fold(detector.part_modules(copied)[name], torch.from_numpy(inputs[0]), FoldedBatchNorm):
            return copy_network(network).eval().requires_grad_(False)
    return copied


def _run(network: nn.Module, detector: Detector, images: Iterable[Floats]) -> None:
    """Run a network, part by part, on each image."""
    parts = {name: in_eager(part) for name, part in detector.part_modules(network).items()}
    for image in images:
        detector.run(parts, image, _size(image))


def _size(image: Floats) -> InputSize:
    return InputSize(image.shape[3], image.shape[2])


def _is_supported(layer: nn.Module) -> bool:
    """Return whether an INT8 layer can replace this one, which needs zero padding of a number of cells."""
    return not isinstance(layer, nn.Conv2d) or (str(layer.padding_mode), type(layer.padding)) == ("zeros", tuple)


def _with_new_bias(network: nn.Module, names: Collection[str], copied: nn.Module) -> list[str]:
    """Return the layers that have a bias only because a norm was folded into them."""
    biased = {name for name in names if getattr(copied.get_submodule(name), "bias", None) is not None}
    return [name for name in sorted(biased) if getattr(network.get_submodule(name), "bias", None) is None]


@dataclass
class _InputRange:
    """Range and histogram of a layer's inputs so far."""

    low: float = 0.0
    """Smallest input, at most 0, which maps are padded with."""
    high: float = 0.0
    counts: Tensor | None = None

    def widen(self, x: Tensor) -> None:
        """Widen the range by a batch."""
        low, high = x.aminmax()
        self.low, self.high = min(self.low, float(low)), max(self.high, float(high))

    def count(self, x: Tensor) -> None:
        """Add a batch to the histogram."""
        batch = torch.histc(x.float(), _BINS, self.low, self.high) if self.high > self.low else torch.zeros(_BINS)
        self.counts = batch if self.counts is None else self.counts + batch

    def within(self) -> tuple[float, float]:
        """Return the range without the rarest values at either end."""
        if self.counts is None or not self.counts.any():
            return self.low, self.high
        share = self.counts.double().cumsum(0) / self.counts.double().sum()
        step = (self.high - self.low) / _BINS
        first, last = int((share <= _CUT).sum()), int((share < 1 - _CUT).sum())
        return min(self.low + first * step, 0.0), max(self.low + (last + 1) * step, 0.0)


def input_ranges(
    network: nn.Module,
    detector: Detector,
    layers: dict[str, nn.Module],
    images: Iterable[Floats],
    method: Literal["minmax", "percentile"],
) -> dict[str, tuple[float, float]]:
    """Return the range of the inputs of every layer that runs, by name."""
    seen: dict[str, _InputRange] = {}
    with _input_hooks(layers, lambda name, x: seen.setdefault(name, _InputRange()).widen(x)):
        _run(network, detector, images)
    if method == "minmax":
        return {name: (entry.low, entry.high) for name, entry in seen.items()}
    with _input_hooks(layers, lambda name, x: seen[name].count(x)):
        _run(network, detector, images)
    return {name: entry.within() for name, entry in seen.items()}


@contextmanager
def _input_hooks(layers: dict[str, nn.Module], note: Any) -> Iterator[None]:
    """Call ``note(name, input)`` whenever one of the layers runs."""

    def noting(name: str) -> Any:
        return lambda _, inputs: note(name, inputs[0])

    hooks = [layer.register_forward_pre_hook(noting(name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
