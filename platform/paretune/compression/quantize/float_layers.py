"""Layers of a quantized ONNX file put back into float, and the ranking of layers by the harm of quantization.

A quantized file holds pairs of QuantizeLinear and DequantizeLinear around the nodes of the float file, which keep
their names. A layer is put back by taking its nodes from the float file; nothing is calibrated again, and it works for
the files of every quantizer.

For the ranking one layer is quantized at a time, with the ranges of the quantized file, and the boxes are compared.
The reverse, all layers but one, costs as much and shows less: the harm of one layer would be the small difference of
two large ones.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import numpy as np

from paretune.core.types import Detections, Floats, InputSize, Thresholds
from paretune.detectors.base import Detector
from paretune.evaluation.matching import IOU, overlap
from paretune.runtimes.onnx_session import OnnxPart, onnx_part, open_session

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators whose second input is a weight."""
_PASSING = (
    "Concat", "DepthToSpace", "Flatten", "Gather", "Identity", "MaxPool", "Pad", "Reshape", "Resize", "Slice",
    "SpaceToDepth", "Split", "Squeeze", "Transpose", "Unsqueeze",
)  # fmt: skip
"""Operators that only move values; a quantizer may put the pairs of their readers before them."""


def layers(graph: Any) -> dict[str, tuple[str, ...]]:
    """Return the layers of a float graph: name of the node with the weight → names of all nodes of the layer.

    The activation, sum or concatenation after a node, and all nodes without weights up to the next layers, belong to
    the layer. A node that several layers feed belongs to the last of them, nodes before every layer to the first.

    Args:
        graph: an ``onnx.GraphProto`` whose nodes have names, in an order in which they can run.
    """
    weights = {tensor.name for tensor in graph.initializer}
    names = [node.name for node in graph.node if _has_weight(node, weights)]
    if not names:
        return {}
    place = {name: number for number, name in enumerate(names)}
    owner: dict[str, int] = {}
    members: dict[str, list[str]] = {name: [] for name in names}
    for node in graph.node:
        layer = place.get(node.name, max((owner.get(entry, 0) for entry in node.input), default=0))
        members[names[layer]].append(node.name)
        owner |= dict.fromkeys(node.output, layer)
    return {name: tuple(nodes) for name, nodes in members.items()}


def _has_weight(node: Any, weights: Collection[str]) -> bool:
    return node.op_type in WEIGHTED and len(node.input) > 1 and node.input[1] in weights


def integer_layers(quantized: Any, source: Any) -> dict[str, tuple[str, ...]]:
    """Return the layers of a float graph whose weights are integers in the quantized graph."""
    made = {output: node.op_type for node in quantized.node for output in node.output}
    integer = {node.name for node in quantized.node if made.get(_second(node)) == "DequantizeLinear"}
    return {name: nodes for name, nodes in layers(source).items() if name in integer}


def _second(node: Any) -> str | None:
    return node.input[1] if len(node.input) > 1 else None


def mixed(quantized: Any, source: Any, kept: Collection[str]) -> Any:
    """Return a quantized model with some layers in float.

    A float node reads the tensor before a QuantizeLinear only if a float node makes it: an integer kernel needs its
    output quantized.

    Args:
        quantized: an ``onnx.ModelProto``.
        source: the float model it was made from.
        kept: names of the layers in float; layers without integer weights are in float anyway.
    """
    import onnx

    made = onnx.ModelProto()
    made.CopyFrom(quantized)
    graph = made.graph
    names = _float_nodes(quantized.graph, source.graph, kept)
    others = [node for node in graph.node if node.name not in names]
    floats = [_copied(node) for node in source.graph.node if node.name in names]
    _free_outputs(others, floats)
    paired, taken = _pairs(others), {output for node in others for output in node.output}
    own = {tensor.name: tensor for tensor in graph.initializer}
    weights = {tensor.name: tensor for tensor in source.graph.initializer}
    raw = {output for node in floats for output in node.output}
    integer = {output for node in source.graph.node for output in node.output} - raw
    for node in floats:
        for number, name in enumerate(node.input):
            if name in integer:
                node.input[number] = paired.get(name, name)
            elif name in weights:
                node.input[number] = _added(own, weights[name], taken)
    del graph.node[:], graph.initializer[:]
    graph.node.extend(ordered([*others, *floats], [output.name for output in graph.output]))
    used = {name for node in graph.node for name in node.input}
    graph.initializer.extend(tensor for tensor in own.values() if tensor.name in used)
    return made


def _float_nodes(quantized: Any, source: Any, kept: Collection[str]) -> set[str]:
    """Return the names of the float nodes: those of float layers, and nodes that move values for these only."""
    integer = integer_layers(quantized, source).keys() - set(kept)
    names = {node for layer, nodes in layers(source).items() if layer not in integer for node in nodes}
    readers: dict[str, list[str]] = {}
    for node in source.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.name)
    for node in reversed(source.node):
        own_readers = [reader for output in node.output for reader in readers.get(output, ())]
        if node.op_type in _PASSING and own_readers:
            names.discard(node.name)
            if names.issuperset(own_readers):
                names.add(node.name)
    return names


def _copied(node: Any) -> Any:
    import onnx

    copied = onnx.NodeProto()
    copied.CopyFrom(node)
    return copied


def _free_outputs(others: Iterable[Any], floats: Iterable[Any]) -> None:
    """Rename tensors so that float nodes make the graph's outputs whose names a DequantizeLinear has taken."""
    float_outputs = {output for node in floats for output in node.output}
    before = {}
    for node in others:
        if node.op_type == "DequantizeLinear" and node.output[0] in float_outputs:
            before[node.input[0]] = node.output[0]
    for node in others:
        for number, name in enumerate(node.input):
            if name in float_outputs and name in before.values():
                node.input[number] = f"{name}.paired"
        if node.op_type == "DequantizeLinear" and node.output[0] in float_outputs:
            node.output[0] = f"{node.output[0]}.paired"
        elif node.op_type == "QuantizeLinear" and node.output[0] in before:
            node.input[0] = before[node.output[0]]


def _pairs(nodes: Iterable[Any]) -> dict[str, str]:
    """Return name of the tensor before a QuantizeLinear → name of the tensor after its DequantizeLinear."""
    nodes = list(nodes)
    after = {node.input[0]: node.output[0] for node in nodes if node.op_type == "DequantizeLinear"}
    pairs: dict[str, str] = {}
    for node in nodes:
        if node.op_type == "QuantizeLinear" and node.output[0] in after:
            pairs.setdefault(node.input[0], after[node.output[0]])
    return pairs


def _added(own: dict[str, Any], tensor: Any, taken: Collection[str]) -> str:
    """Add a float tensor to those of the quantized graph.

    Returns:
        Its name, a new one if the quantizer has changed the tensor or uses the name for a dequantized one.
    """
    name, here = tensor.name, own.get(tensor.name)
    same = here is None or here.SerializeToString(deterministic=True) == tensor.SerializeToString(deterministic=True)
    if same and name not in taken:
        own[name] = tensor
        return str(name)
    copied = type(tensor)()
    copied.CopyFrom(tensor)
    copied.name = f"{name}.float"
    own[copied.name] = copied
    return str(copied.name)


def ordered(nodes: Sequence[Any], outputs: Iterable[str]) -> list[Any]:
    """Return the nodes that the outputs depend on, in an order in which they can run."""
    maker = {output: number for number, node in enumerate(nodes) for output in node.output}
    before: dict[int, list[int]] = {}
    waiting = [maker[output] for output in outputs]
    while waiting:
        number = waiting.pop()
        if number not in before:
            before[number] = [maker[name] for name in nodes[number].input if name in maker]
            waiting.extend(before[number])
    return [nodes[number] for number in TopologicalSorter(before).static_order()]


IMAGES = 8
"""Number of calibration images that layers are compared on."""


SensitiveLayer = tuple[str, str]
"""Name of a detector's part, and name of the node with the weight in its file."""


def rank(
    detector: Detector,
    size: InputSize,
    floats: Mapping[str, Path],
    quantized: Mapping[str, Path],
    images: Sequence[Floats],
    *,
    exact: bool = False,
) -> list[SensitiveLayer]:
    """Return the quantized layers of a detector, the most harmful for its boxes first.

    The harm is 1 - ``agreement`` with the detections of the float files, a mean over images; among equal ones the
    relative error of the raw maps decides.

    Args:
        detector: of the files.
        size: of the input.
        floats: float file of each part.
        quantized: quantized file of each part.
        images: network inputs, each (1, 3, H, W).
        exact: compute without this CPU's integer kernels, whose sums overflow without VNNI; for files that will run on
            another device.
    """
    import onnx

    plain = {part: onnx_part(detector, part, open_session(file, threads=1)) for part, file in floats.items()}
    expected = [detector.run(plain, image, size) for image in images]
    ranked: list[tuple[tuple[float, float], SensitiveLayer]] = []
    for part, file in quantized.items():
        integer, source = onnx.load(file), onnx.load(floats[part])
        names = integer_layers(integer.graph, source.graph).keys()
        for layer in names:
            single = mixed(integer, source, names - {layer})
            parts = {**plain, part: _opened(detector, part, single, file, exact=exact)}
            got = [detector.run(parts, image, size) for image in images]
            ranked.append((_harm(detector, size, expected, got), (part, layer)))
    return [layer for _, layer in sorted(ranked, key=lambda entry: entry[0], reverse=True)]


def _opened(detector: Detector, part: str, model: Any, beside: Path, *, exact: bool) -> OnnxPart:
    """Return a model opened by ONNX Runtime through a temporary file."""
    import onnx

    file = beside.with_suffix(".single.onnx")
    try:
        onnx.save(model, file)
        return onnx_part(detector, part, open_session(file, threads=1, exact=exact))
    finally:
        file.unlink(missing_ok=True)


def _harm(
    detector: Detector, size: InputSize, expected: Sequence[tuple[Floats, ...]], got: Sequence[tuple[Floats, ...]]
) -> tuple[float, float]:
    """Return 1 - agreement of the boxes, and the relative error of the raw maps, both as means over images."""
    boxes: list[float] = []
    maps: list[float] = []
    for one, other in zip(expected, got, strict=True):
        pairs = zip(detector.decode(one, size, Thresholds()), detector.decode(other, size, Thresholds()), strict=True)
        boxes.extend(1 - agreement(a, b) for a, b in pairs)
        maps.extend(_error(a, b) for a, b in zip(one, other, strict=True))
    return round(float(np.mean(boxes)) if boxes else 0.0, 9), float(np.mean(maps))


def _error(expected: Floats, got: Floats) -> float:
    return float(np.linalg.norm(expected - got) / max(float(np.linalg.norm(expected)), 1e-12))


def agreement(one: Detections, other: Detections) -> float:
    """Return the agreement of two sets of detections of one image, from 0 to 1.

    Boxes of one class are matched, best score first, at IoU 0.5. Each pair counts its overlap times the lower of its
    two scores, twice, divided by the sum of all scores of both sets. A box with a low score therefore weighs little,
    and missing, additional, moved and uncertain boxes all lower the agreement.
    """
    total = float(one.scores.sum() + other.scores.sum())
    if total == 0:
        return 1.0
    overlaps = overlap(one.boxes, other.boxes, np.zeros(len(other.boxes), bool))
    overlaps[(one.labels[:, None] != other.labels[None]) | (overlaps < IOU)] = 0
    shared = 0.0
    for row in np.flatnonzero(overlaps.any(axis=1)):
        column = int(overlaps[row].argmax())
        if overlaps[row, column] > 0:
            shared += float(overlaps[row, column]) * float(min(one.scores[row], other.scores[column]))
            overlaps[:, column] = 0
    return 2 * shared / total
