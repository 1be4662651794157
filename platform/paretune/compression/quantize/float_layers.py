"""Layers of a quantized ONNX file put back into float, without quantizing it anew.

A quantized file holds pairs of QuantizeLinear and DequantizeLinear around the nodes of the float file,
which keep their names. So a layer is put back by taking its nodes from the float file; nothing is
calibrated again, whichever tool has made the pairs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import numpy as np

from paretune.compression.quantize.calibration import loaded
from paretune.core.types import Detections, Floats, InputSize, Thresholds
from paretune.detectors.base import Detector
from paretune.evaluation.matching import IOU, overlap
from paretune.runtimes.onnx_session import OnnxPart, open_session

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators with a weight, their second input."""
_PASSING = (
    "Concat", "DepthToSpace", "Flatten", "Gather", "Identity", "MaxPool", "Pad", "Reshape", "Resize", "Slice",
    "SpaceToDepth", "Split", "Squeeze", "Transpose", "Unsqueeze",
)  # fmt: skip
"""Operators that only move values: a quantizer may put its pairs before them, for what reads them."""


def layers(graph: Any) -> dict[str, tuple[str, ...]]:
    """Return the layers of a float graph: the name of the node with the weight → its own and its followers' names.

    What follows is the activation, the sum, the concatenation: all nodes without weights up to the next
    layers. One that several layers feed belongs to the last of them; those before every layer go to the first.

    Args:
        graph: an ``onnx.GraphProto`` whose nodes have names, in an order in which they can run.
    """
    weights = {tensor.name for tensor in graph.initializer}
    names = [node.name for node in graph.node if _has_weight(node, weights)]
    if not names:
        return {}
    place = {name: number for number, name in enumerate(names)}
    owner: dict[str, int] = {}
    found: dict[str, list[str]] = {name: [] for name in names}
    for node in graph.node:
        mine = place.get(node.name, max((owner.get(entry, 0) for entry in node.input), default=0))
        found[names[mine]].append(node.name)
        owner |= dict.fromkeys(node.output, mine)
    return {name: tuple(nodes) for name, nodes in found.items()}


def _has_weight(node: Any, weights: Collection[str]) -> bool:
    return node.op_type in WEIGHTED and len(node.input) > 1 and node.input[1] in weights


def integer_layers(quantized: Any, source: Any) -> dict[str, tuple[str, ...]]:
    """Return those layers of a float graph whose weights the quantized graph has as integers."""
    made = {output: node.op_type for node in quantized.node for output in node.output}
    integer = {node.name for node in quantized.node if made.get(_second(node)) == "DequantizeLinear"}
    return {name: nodes for name, nodes in layers(source).items() if name in integer}


def _second(node: Any) -> str | None:
    return node.input[1] if len(node.input) > 1 else None


def mixed(quantized: Any, source: Any, kept: Collection[str]) -> Any:
    """Return a quantized model in which some layers are those of the float model.

    A node in float reads what lies before the quantizing of its input only where the node that makes it is in
    float too: an integer kernel needs its output quantized.

    Args:
        quantized: an ``onnx.ModelProto``.
        source: the float model it was made from.
        kept: names of layers; those without integer weights are in float in any case.
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
    """Return the names of the nodes in float: those of the layers, and what moves values for such nodes only."""
    integer = integer_layers(quantized, source).keys() - set(kept)
    names = {node for layer, nodes in layers(source).items() if layer not in integer for node in nodes}
    readers: dict[str, list[str]] = {}
    for node in source.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.name)
    for node in reversed(source.node):
        mine = [reader for output in node.output for reader in readers.get(output, ())]
        if node.op_type in _PASSING and mine:
            names.discard(node.name)
            if names.issuperset(mine):
                names.add(node.name)
    return names


def _copied(node: Any) -> Any:
    import onnx

    copied = onnx.NodeProto()
    copied.CopyFrom(node)
    return copied


def _free_outputs(others: Iterable[Any], floats: Iterable[Any]) -> None:
    """Let nodes in float make the graph's outputs themselves, where a DequantizeLinear has taken the name of one."""
    wanted = {output for node in floats for output in node.output}
    before = {}
    for node in others:
        if node.op_type == "DequantizeLinear" and node.output[0] in wanted:
            before[node.input[0]] = node.output[0]
    for node in others:
        for number, name in enumerate(node.input):
            if name in wanted and name in before.values():
                node.input[number] = f"{name}.paired"
        if node.op_type == "DequantizeLinear" and node.output[0] in wanted:
            node.output[0] = f"{node.output[0]}.paired"
        elif node.op_type == "QuantizeLinear" and node.output[0] in before:
            node.input[0] = before[node.output[0]]


def _pairs(nodes: Iterable[Any]) -> dict[str, str]:
    """Return the tensor before a QuantizeLinear → the one after its DequantizeLinear."""
    nodes = list(nodes)
    after = {node.input[0]: node.output[0] for node in nodes if node.op_type == "DequantizeLinear"}
    found: dict[str, str] = {}
    for node in nodes:
        if node.op_type == "QuantizeLinear" and node.output[0] in after:
            found.setdefault(node.input[0], after[node.output[0]])
    return found


def _added(own: dict[str, Any], tensor: Any, taken: Collection[str]) -> str:
    """Add a float tensor to those of the quantized graph.

    Returns:
        Its name: another one where the quantizer has corrected it, or gives its name to what it makes of integers.
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
    """Return the nodes that the outputs need, in an order in which they can run."""
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
"""Calibration images that layers are compared on."""


SensitiveLayer = tuple[str, str]
"""A part of the detector, and the name of a layer's node with the weight in its file."""


def rank(
    detector: Detector,
    size: InputSize,
    floats: Mapping[str, Path],
    quantized: Mapping[str, Path],
    images: Sequence[Floats],
    *,
    exact: bool = False,
) -> list[SensitiveLayer]:
    """Return the integer layers of a quantized detector, those first that harm its boxes most.

    The harm is 1 - ``agreement`` with the detections of the float files, a mean over images; where it is equal,
    the relative error of the raw maps decides.

    Args:
        detector: whose files they are.
        size: of the input.
        floats: the file of each part, in float.
        quantized: the file of each part, made from those.
        images: network inputs, each (1, 3, H, W).
        exact: compute without this CPU's integer kernels, whose sums overflow where there is no VNNI: for files that
            will run elsewhere.
    """
    import onnx

    plain = {part: loaded(detector, part, open_session(file, threads=1)) for part, file in floats.items()}
    wanted = [detector.run(plain, image, size) for image in images]
    found: list[tuple[tuple[float, float], SensitiveLayer]] = []
    for part, file in quantized.items():
        integer, source = onnx.load(file), onnx.load(floats[part])
        names = integer_layers(integer.graph, source.graph).keys()
        for layer in names:
            alone = mixed(integer, source, names - {layer})
            parts = {**plain, part: _opened(detector, part, alone, file, exact=exact)}
            got = [detector.run(parts, image, size) for image in images]
            found.append((_harm(detector, size, wanted, got), (part, layer)))
    return [layer for _, layer in sorted(found, key=lambda entry: entry[0], reverse=True)]


def _opened(detector: Detector, part: str, model: Any, beside: Path, *, exact: bool) -> OnnxPart:
    """Open a model by way of a file that is gone again."""
    import onnx

    file = beside.with_suffix(".alone.onnx")
    try:
        onnx.save(model, file)
        return loaded(detector, part, open_session(file, threads=1, exact=exact))
    finally:
        file.unlink(missing_ok=True)


def _harm(
    detector: Detector, size: InputSize, wanted: Sequence[tuple[Floats, ...]], got: Sequence[tuple[Floats, ...]]
) -> tuple[float, float]:
    """Return 1 - agreement of the boxes, and the relative error of the raw maps: means over images."""
    boxes: list[float] = []
    maps: list[float] = []
    for one, other in zip(wanted, got, strict=True):
        pairs = zip(detector.decode(one, size, Thresholds()), detector.decode(other, size, Thresholds()), strict=True)
        boxes.extend(1 - agreement(a, b) for a, b in pairs)
        maps.extend(_error(a, b) for a, b in zip(one, other, strict=True))
    return round(float(np.mean(boxes)) if boxes else 0.0, 9), float(np.mean(maps))


def _error(wanted: Floats, got: Floats) -> float:
    return float(np.linalg.norm(wanted - got) / max(float(np.linalg.norm(wanted)), 1e-12))


def agreement(one: Detections, other: Detections) -> float:
    """Return how far two sets of detections of one image agree, from 0 to 1.

    Boxes of one class are matched, best score first, at IoU 0.5. Each pair counts its overlap times the lower of
    its two scores, twice, out of the sum of all scores on both sides; so a box of a low score weighs little,
    and a missing, an added, a moved and an unsure box all cost.
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
