"""The work of each layer of an artefact for one image: operations, and bytes that must be moved.

Only layers with weights are counted: in a fused network the rest takes no time, and in any other network its time is
overhead. Bytes are the compulsory ones of the roofline model: input, weights and output once each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from paretune.core.spec import parse_plugin
from paretune.core.target import Target
from paretune.core.types import Floats, Image
from paretune.detectors.base import Detector
from paretune.runtimes import RUNTIMES
from paretune.runtimes.onnx_session import part_file
from paretune.runtimes.operator_timing import SAME_VALUE, ModuleNames, modules_of
from paretune.runtimes.predictor import Predictor
from paretune.storage.artefact import STRUCTURE, Artefact

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1}
WEIGHTY = ("Conv", "Gemm", "MatMul", "QLinearConv", "ConvInteger", "MatMulInteger")
"""ONNX operators with weights."""


@dataclass(frozen=True)
class LayerWork:
    """The work of one layer."""

    module: str
    flops: float
    """Multiplications and additions."""
    weights: float
    """Number of weights."""
    maps: float
    """Number of elements of input and output together."""
    precision: str
    depthwise: bool = False

    @property
    def nbytes(self) -> float:
        """Return the bytes that must be moved."""
        return (self.weights + self.maps) * BYTES[self.precision]

    def scaled(
        self, *, flops: float = 1, weights: float = 1, maps: float = 1, precision: str | None = None
    ) -> LayerWork:
        """Return the work with each quantity multiplied by its factor."""
        return replace(
            self,
            flops=self.flops * flops,
            weights=self.weights * weights,
            maps=self.maps * maps,
            precision=precision or self.precision,
        )


def work_of(predictor: Predictor, image: Image, target: Target) -> dict[str, LayerWork]:
    """Return the work of every layer with weights by the name of its module, in the order in which they run.

    Args:
        predictor: a loaded artefact.
        image: (H, W, 3) uint8 RGB; the number of regions of a second stage may depend on it.
        target: target for which the artefact is loaded.

    Raises:
        UserError: the artefact's network cannot be read.
    """
    artefact, detector = predictor.artefact, predictor.detector
    batch, _ = predictor.preprocess(image)
    if (artefact.folder / STRUCTURE).is_file():
        return _of_torch(artefact, detector, batch, _precision(artefact))
    shapes: dict[str, tuple[int, ...]] = {}

    def watched(part: str) -> Callable[[Floats], tuple[Floats, ...]]:
        def run(given: Floats) -> tuple[Floats, ...]:
            shapes[part] = given.shape
            return predictor.core.parts[part](given)

        return run

    detector.run({part: watched(part) for part in predictor.core.parts}, batch, artefact.input_size)
    fallback = str(predictor.facts.get("precision", "fp32"))
    floats = _precision(artefact) if fallback == "int8" else fallback  # precision of the float layers beside INT8 ones
    floats = "fp32" if target.device == "cpu" and floats == "fp16" else floats
    works: dict[str, LayerWork] = {}
    modules = modules_of(artefact, detector)
    for part, shape in shapes.items():
        works |= _of_onnx(artefact.file(part_file(part)), detector.part_input(part), shape, floats, modules[part])
    return works


def _precision(artefact: Artefact) -> str:
    """Return the precision that is set for an artefact's runtime; fp32 if the runtime has no such field."""
    return str(getattr(parse_plugin(artefact.runtime, RUNTIMES), "precision", "fp32"))


def _of_torch(artefact: Artefact, detector: Detector, batch: Floats, floats: str) -> dict[str, LayerWork]:
    """Return the work of a torch network, from its layers' shapes while it runs on a CPU in float32."""
    import torch
    from torch import nn

    from paretune.networks.int8_layers import Int8Layer
    from paretune.networks.layer_kinds import WEIGHTED_LAYERS, layer_flops
    from paretune.runtimes.eager import ArrayConversion, load_for_inference

    network = load_for_inference(artefact, Target(), "fp32")
    given, works = ArrayConversion("cpu", "fp32"), dict[str, LayerWork]()
    names = {module: name for name, module in network.named_modules()}

    def watch(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        weight = module.weight
        assert isinstance(weight, torch.Tensor)  # noqa: S101 - only such modules are watched
        maps, name = inputs[0].numel() + output.numel(), names[module]
        seen = works.get(name)
        if seen is not None:  # shared between levels
            maps += int(seen.maps)
        flops = float(layer_flops(module, inputs[0], output)) + (seen.flops if seen else 0)
        kind = "int8" if isinstance(module, Int8Layer) else floats
        works[name] = LayerWork(name, flops, weight.numel(), maps, kind, depthwise=_is_depthwise(weight.shape))

    watched: tuple[type[nn.Module], ...] = (*WEIGHTED_LAYERS, Int8Layer)
    hooks = [module.register_forward_hook(watch) for module in names if isinstance(module, watched)]
    parts = {
        name: (lambda images, part=part: given.arrays(part(given.tensor(images))))
        for name, part in detector.part_modules(network).items()
    }
    try:
        with torch.inference_mode():
            detector.run(parts, batch, artefact.input_size)
    finally:
        for hook in hooks:
            hook.remove()
    return works


def _of_onnx(file: Path, given: str, shape: tuple[int, ...], floats: str, modules: ModuleNames) -> dict[str, LayerWork]:
    """Return the work of an ONNX file from the shapes of its tensors for an input of this shape."""
    import onnx

    model = onnx.load(file)
    for entry in model.graph.input:
        if entry.name == given:
            for side, value in zip(entry.type.tensor_type.shape.dim, shape, strict=True):
                side.dim_value = value
    del model.graph.value_info[:]  # shapes of another input
    graph = onnx.shape_inference.infer_shapes(model).graph
    shapes = {
        entry.name: tuple(side.dim_value for side in entry.type.tensor_type.shape.dim)
        for entry in (*graph.value_info, *graph.input, *graph.output)
    }
    weights = {tensor.name: tensor for tensor in graph.initializer}
    shapes |= {name: tuple(tensor.dims) for name, tensor in weights.items()}
    makers = {output: node for node in graph.node for output in node.output}
    heavy = [node for node in graph.node if node.op_type in WEIGHTY]
    names = modules.of({node.output[0]: (node.op_type, (node.name, *node.output)) for node in heavy})
    works: dict[str, LayerWork] = {}
    for node in heavy:
        sources = [_source(name, makers, weights) for name in node.input]
        weight = next((name for name in sources if name is not None and len(shapes[name]) > 1), None)
        if weight is None:
            continue
        sides = shapes[weight]
        maps = [name for name, source in zip(node.input, sources, strict=True) if source is None]
        out, inner = prod(shapes.get(node.output[0], (0,))), prod(sides[1:]) if "Conv" in node.op_type else sides[0]
        if node.op_type == "Gemm" and any(entry.name == "transB" and entry.i for entry in node.attribute):
            inner = sides[1]
        kind = "int8" if weights[weight].data_type in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8) else floats
        module = names.get(node.output[0], node.name)
        size = out + sum(prod(shapes.get(name, (0,))) for name in maps)
        seen = works.get(module)
        flops = 2.0 * out * inner + (seen.flops if seen else 0)
        size += int(seen.maps) if seen else 0
        works[module] = LayerWork(module, flops, prod(sides), size, kind, depthwise=_is_depthwise(sides))
    return works


def _source(name: str, makers: Mapping[str, Any], weights: Mapping[str, Any]) -> str | None:
    """Return the initializer from which a tensor is made; None if it depends on the network's input."""
    while name not in weights:
        maker = makers.get(name)
        if maker is None or not maker.input or maker.op_type not in SAME_VALUE:
            return None
        name = maker.input[0]
    return name


def _is_depthwise(sides: tuple[int, ...]) -> bool:
    return len(sides) == 4 and sides[1] == 1 < sides[0]
