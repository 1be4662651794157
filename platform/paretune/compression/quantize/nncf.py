"""Static INT8 by NNCF (https://github.com/openvinotoolkit/nncf), made for OpenVINO; an optional package.

It corrects biases by the mean error of each layer's outputs (Nagel et al., Data-Free Quantization Through
Weight Equalization and Bias Correction, ICCV 2019, arXiv:1906.04721).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from paretune.compression.quantize.calibration import CalibrationInputs
from paretune.system.silence import quiet

_LOGGERS = ("nncf", "torch.utils.cpp_extension")


def library() -> Any:
    """Import NNCF with its telemetry off, and restore the class of loggers, which it replaces."""
    os.environ.setdefault("NNCF_CI", "1")
    usual = logging.getLoggerClass()
    try:
        with quiet(*_LOGGERS):
            import nncf
    finally:
        logging.setLoggerClass(usual)
    return nncf


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
    """Write a file in static INT8, with pairs of QuantizeLinear and DequantizeLinear placed by NNCF for OpenVINO.

    Args:
        prepared: float file, see ``onnx_quantizers.prepare``.
        file: the file to write.
        feed: inputs that ranges are measured on.
        percentile: ranges leave out one value in ten thousand of each image, and are means over images.
        per_channel: a scale for each output channel of a weight.
        weight_bits: 8, or 7 for half the range of the weights.
        signed: for TensorRT, which reads activations only with zero points of 0; otherwise they are unsigned.
        floats: names of nodes that stay in float.
    """
    import onnx

    nncf = library()
    from nncf.quantization.advanced_parameters import QuantizationParameters
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet as Ranges

    options = nncf.AdvancedQuantizationParameters(
        overflow_fix=nncf.OverflowFix.ENABLE if weight_bits == 7 else nncf.OverflowFix.DISABLE,
        activations_range_estimator_params=Ranges.MEAN_QUANTILE if percentile else Ranges.MINMAX,
    )
    if not per_channel:
        options.weights_quantization_params = QuantizationParameters(per_channel=False)
    with quiet(*_LOGGERS):
        made = nncf.quantize(
            onnx.load(prepared),
            nncf.Dataset(range(len(feed.indices)), feed),
            preset=nncf.QuantizationPreset.PERFORMANCE if signed else nncf.QuantizationPreset.MIXED,
            target_device=nncf.TargetDevice.CPU,
            subset_size=len(feed.indices),
            fast_bias_correction=True,
            ignored_scope=nncf.IgnoredScope(names=sorted(floats)),
            advanced_parameters=options,
        )
    (to_signed if signed else unsigned)(made)
    onnx.save(made, file)


def unsigned(model: Any) -> None:
    """Convert activations to unsigned integers in place: equal values, with zero points moved by 128.

    With signed activations that have a zero point OpenVINO's integer kernels for AVX2 are wrong (2026.4: an error of
    58 % instead of 1 %), and ONNX Runtime is slower than in float.
    """
    import onnx
    from onnx import numpy_helper

    graph = model.graph
    zeros = {node.input[2] for node in graph.node if node.op_type == "QuantizeLinear"}
    for tensor in graph.initializer:
        if tensor.name in zeros and tensor.data_type == onnx.TensorProto.INT8:
            moved = (numpy_helper.to_array(tensor).astype(np.int16) + 128).astype(np.uint8)
            tensor.CopyFrom(numpy_helper.from_array(moved, tensor.name))
    _forget_integers(graph)


def to_signed(model: Any) -> None:
    """Convert symmetric unsigned activations to signed ones in place, with half as many steps in the range."""
    import onnx
    from onnx import numpy_helper

    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    pairs = {(node.input[1], node.input[2]) for node in graph.node if node.op_type == "QuantizeLinear"}
    for scale, zero in pairs:
        if tensors[zero].data_type == onnx.TensorProto.UINT8:
            wider = numpy_helper.to_array(tensors[scale]) * np.float32(255 / 127)
            tensors[scale].CopyFrom(numpy_helper.from_array(wider, scale))
            tensors[zero].CopyFrom(numpy_helper.from_array(np.int8(0), zero))
    _forget_integers(graph)


def _forget_integers(graph: Any) -> None:
    """Remove the types of integer tensors from a graph, which have changed."""
    import onnx

    integers = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
    shapes = [entry for entry in graph.value_info if entry.type.tensor_type.elem_type not in integers]
    del graph.value_info[:]
    graph.value_info.extend(shapes)
