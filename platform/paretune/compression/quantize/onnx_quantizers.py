"""Quantizers of an ONNX file: static INT8 by ONNX Runtime, dynamic INT8, INT8 weights, and half precision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from paretune.compression.export import OPSET
from paretune.compression.quantize.calibration import CHUNK, CalibrationInputs, CalibrationReader
from paretune.compression.quantize.float_layers import WEIGHTED, ordered
from paretune.core.types import Floats
from paretune.runtimes.onnx_session import PROVIDER, library
from paretune.system.silence import quiet

PERCENTILE = 99.99
"""Share of an activation's values inside its range, in percent, for method percentile."""
_SMALL = ("QuantizeLinear", "DequantizeLinear", "ConvInteger", "MatMulInteger")


@cache
def safe_bits() -> int:
    """Return the number of bits of a weight on this CPU: 8, or 7 if products of 8-bit integers overflow.

    x86 without VNNI adds pairs of products in 16 bits (VPMADDUBSW), on every runtime; a sum can then be half of its
    true value. The test is a convolution of the largest values.
    """
    from onnx import TensorProto, helper, numpy_helper

    channels = 16
    shape = [1, channels, 4, 4]
    constants = {
        "weight": np.full((channels, channels, 1, 1), 127, np.int8),
        "weight_scale": np.float32(1 / 127),
        "activation_scale": np.float32(1 / 255),
        "sum_scale": np.float32(channels / 255),
        "zero": np.uint8(0),
    }
    edges = [
        ("QuantizeLinear", ["images", "activation_scale", "zero"], "integers"),
        ("DequantizeLinear", ["integers", "activation_scale", "zero"], "floats"),
        ("DequantizeLinear", ["weight", "weight_scale"], "float_weight"),
        ("Conv", ["floats", "float_weight"], "sums"),
        ("QuantizeLinear", ["sums", "sum_scale", "zero"], "integer_sums"),
        ("DequantizeLinear", ["integer_sums", "sum_scale", "zero"], "output"),
    ]
    graph = helper.make_graph(
        [helper.make_node(kind, given, [made]) for kind, given, made in edges],
        "probe",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    ort = library()
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=[PROVIDER])
    (sums,) = session.run(None, {"images": np.ones(shape, np.float32)})
    return 7 if sums.min() < 0.9 * channels else 8


def prepare(source: Path, prepared: Path) -> None:
    """Write a file prepared for quantizers: shapes inferred, constants and batch norms folded, every node named."""
    import onnx

    library()
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with quiet(""):
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    model = onnx.load(prepared)
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
    _close_names(model.graph)
    onnx.save(model, prepared)


def _close_names(graph: Any) -> None:
    """End the name of every constant in a full stop where another tensor has that name with a number behind it.

    ONNX Runtime's quantizer copies a bias that two nodes share, and names the copies ``val_170``, ``val_171`` for
    ``val_17`` without a look at the tensors that nodes make: the file then computes something else, or does not load.
    """
    taken = {name.rstrip("0123456789") for node in graph.node for name in node.output}
    renamed = {}
    for tensor in graph.initializer:
        if tensor.name.rstrip("0123456789") in taken:
            old = tensor.name
            renamed[old] = tensor.name = f"{old}."
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)


def static(
    prepared: Path,
    file: Path,
    feed: CalibrationInputs,
    *,
    percentile: bool,
    per_channel: bool,
    weight_bits: int,
    signed: bool,
    floats: Collection[str],
) -> None:
    """Write a file in static INT8, with pairs of QuantizeLinear and DequantizeLinear placed by ONNX Runtime.

    Weights are signed. Activations are unsigned, since with both signed x86 is slower than in float; for TensorRT they
    are signed with zero points of 0 and biases in float, the only form that it reads.

    Args:
        prepared: float file, see ``prepare``.
        file: the file to write.
        feed: inputs that ranges are measured on.
        percentile: ranges leave out one value in ten thousand.
        per_channel: a scale for each output channel of a weight.
        weight_bits: 8 or 7.
        signed: for TensorRT.
        floats: names of nodes that stay in float.
    """
    library()
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    # By default the histogram is of |x|, which fails for an activation that hardly varies around a large value. The
    # stride works for every method in spite of its name; without it, the activations of all images are in memory.
    cut = {"CalibPercentile": PERCENTILE, "CalibTensorRangeSymmetric": False, "CalibStridedMinMax": CHUNK}
    plain = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}
    with quiet(""):
        quantize_static(
            str(prepared),
            str(file),
            CalibrationReader(feed),
            quant_format=QuantFormat.QDQ,
            per_channel=per_channel,
            reduce_range=weight_bits == 7,
            activation_type=QuantType.QInt8 if signed else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=sorted(floats),
            calibrate_method=CalibrationMethod.Percentile if percentile else CalibrationMethod.MinMax,
            extra_options=(cut if percentile else {}) | (plain if signed else {}),
        )


def dynamic(prepared: Path, file: Path, *, per_channel: bool, floats: Collection[str]) -> None:
    """Write a file in dynamic INT8: inputs of matrix products and convolutions are quantized during inference."""
    library()
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with quiet(""):
        quantize_dynamic(
            str(prepared),
            str(file),
            per_channel=per_channel,
            weight_type=QuantType.QUInt8,  # its integer convolution takes no signed ones
            nodes_to_exclude=sorted(floats),
        )


def weights_only(source: Path, file: Path, *, per_channel: bool, floats: Collection[str]) -> None:
    """Write a file whose weights are signed 8-bit integers, converted to floats before use."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(source)
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    made: dict[str, Any] = {}
    for node in graph.node:
        if node.op_type not in WEIGHTED or node.name in floats or node.input[1] not in weights:
            continue
        name = node.input[1]
        axis = _channel_axis(node, len(weights[name].dims)) if per_channel else None
        restored = f"{name}.restored.{axis}"
        if restored not in made:
            parts = integers_of(numpy_helper.to_array(weights[name]), axis)
            names = [f"{restored}.int8", f"{restored}.scale"]
            graph.initializer.extend(map(numpy_helper.from_array, parts, names))
            made[restored] = onnx.helper.make_node("DequantizeLinear", names, [restored], restored, axis=axis or 0)
        node.input[1] = restored
    nodes = [*made.values(), *graph.node]
    used = {name for node in nodes for name in node.input}
    tensors = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(tensors)
    onnx.save(model, file)


def integers_of(weight: Floats, axis: int | None) -> tuple[np.ndarray[Any, Any], Floats]:
    """Return a weight as signed 8-bit integers, and one scale for each entry along an axis or for all.

    The largest magnitude becomes 127; zeros have the scale 1.
    """
    others = tuple(dim for dim in range(weight.ndim) if dim != axis)
    largest = np.abs(weight).max(axis=others, keepdims=True)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    integers = np.clip(np.rint(weight / scale), -127, 127).astype(np.int8)
    return integers, scale.reshape(-1) if axis is not None else scale.reshape(())


def _channel_axis(node: Any, dimensions: int) -> int:
    """Return the dimension of the output channels in a node's weight of this many dimensions."""
    if node.op_type == "Gemm":
        transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        return 0 if transposed else 1
    return {"Conv": 0, "ConvTranspose": 1}.get(node.op_type, dimensions - 1)


def half(source: Path, file: Path) -> None:
    """Write a file that computes in 16-bit floats, with inputs and outputs of 32 bits."""
    import onnx

    library()
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with quiet(""):
        made = convert_float_to_float16(onnx.load(source), keep_io_types=True)
    nodes = ordered(made.graph.node, [output.name for output in made.graph.output])
    del made.graph.node[:]
    made.graph.node.extend(nodes)  # the conversion appends its casts
    onnx.save(made, file)


def small_operators(file: Path) -> Counter[str]:
    """Return the number of a file's integer operators by type, and of 16-bit weights as ``half``."""
    import onnx

    graph = onnx.load(file).graph
    counts = Counter(node.op_type for node in graph.node if node.op_type in _SMALL)
    counts["half"] += sum(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in graph.initializer)
    return +counts


def last_convolutions(graph: Any) -> list[str]:
    """Return the names of the last convolutions, and of the nodes between them and the graph's last outputs.

    An output that a node of the graph reads is not a last one: Faster R-CNN pools regions from maps that its own
    predictors read too.

    Args:
        graph: an ``onnx.GraphProto`` whose nodes have names.
    """
    maker = {output: node for node in graph.node for output in node.output}
    read = {name for node in graph.node for name in node.input}
    names: list[str] = []
    waiting = [output.name for output in graph.output if output.name not in read]
    while waiting:
        node = maker.get(waiting.pop())
        if node is None or node.name in names:
            continue
        names.append(node.name)
        if node.op_type not in {"Conv", "Gemm", "MatMul"}:
            waiting.extend(node.input)
    return names
