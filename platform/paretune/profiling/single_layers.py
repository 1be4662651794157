"""Single layers on a runtime: a few equal convolutions in a row, so that the overhead around them is small."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from paretune.core.target import Target
from paretune.profiling.latency.quick_compare import InterleavedRun
from paretune.runtimes.base import Runtime

LayerKind = Literal["1x1", "3x3", "depthwise"]
SIDE = 20
"""Side of the maps in pixels, that of a detector's middle level at an input of 320."""
DEPTH = 3
"""Convolutions in a row."""
OPSET = 20


@dataclass(frozen=True)
class SquareConvolution:
    """A convolution with equal numbers of input and output channels."""

    kind: LayerKind
    channels: int

    @property
    def kernel(self) -> int:
        """Return the side of the kernel."""
        return 1 if self.kind == "1x1" else 3

    @property
    def groups(self) -> int:
        """Return the number of groups."""
        return self.channels if self.kind == "depthwise" else 1

    @property
    def images(self) -> NDArray[np.float32]:
        """Return a random input."""
        shape = (1, self.channels, SIDE, SIDE)
        return np.random.default_rng(0).standard_normal(shape, np.float32)

    def weights(self) -> list[NDArray[np.float32]]:
        """Return random weights for each convolution in the row."""
        random = np.random.default_rng(1)
        shape = (self.channels, self.channels // self.groups, self.kernel, self.kernel)
        scale = np.float32((2 / np.prod(shape[1:])) ** 0.5)
        return [random.standard_normal(shape, np.float32) * scale for _ in range(DEPTH)]


RunIn = Callable[[SquareConvolution, Runtime, Target, Path], AbstractContextManager[InterleavedRun]]
"""(layer, runtime, target, folder for files) → context of a function that runs the layer once."""


@contextmanager
def _in_torch(layer: SquareConvolution, runtime: Runtime, target: Target, folder: Path) -> Iterator[InterleavedRun]:  # noqa: ARG001
    import torch
    from torch import nn

    from paretune.runtimes.eager import Eager, kind_of

    assert isinstance(runtime, Eager)  # noqa: S101 - by the table
    dtype = kind_of(runtime.precision)
    form = torch.channels_last if runtime.channels_last else torch.contiguous_format
    threads = torch.get_num_threads()
    torch.set_num_threads(target.threads)
    parts: list[nn.Module] = []
    for weight in layer.weights():
        convolution = nn.Conv2d(
            layer.channels, layer.channels, layer.kernel, padding="same", groups=layer.groups, bias=False
        )
        convolution.weight = nn.Parameter(torch.from_numpy(weight), requires_grad=False)
        parts += [convolution, nn.ReLU()]
    network, images = nn.Sequential(*parts).to(target.device, dtype), torch.from_numpy(layer.images)
    network, images = network.to(memory_format=form), images.to(target.device, dtype, memory_format=form)

    def run() -> Any:
        with torch.inference_mode():
            return network(images).cpu()

    try:
        yield run
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _in_onnxruntime(
    layer: SquareConvolution, runtime: Runtime, target: Target, folder: Path
) -> Iterator[InterleavedRun]:
    from paretune.runtimes.onnx_session import INPUT
    from paretune.runtimes.onnxruntime import OnnxRuntime

    assert isinstance(runtime, OnnxRuntime)  # noqa: S101 - by the table
    session, given = runtime.session(_file(layer, folder), target), {INPUT: layer.images}
    yield lambda: session.run(None, given)


@contextmanager
def _in_openvino(layer: SquareConvolution, runtime: Runtime, target: Target, folder: Path) -> Iterator[InterleavedRun]:
    from paretune.runtimes.openvino import OpenVino, compile_file

    precision = runtime.precision if isinstance(runtime, OpenVino) else "fp32"
    request = compile_file(_file(layer, folder), target.threads, precision).create_infer_request()
    images = layer.images
    yield lambda: request.infer([images], share_inputs=True)


def _file(layer: SquareConvolution, folder: Path) -> Path:
    """Write a layer as an ONNX file and return its path."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from paretune.runtimes.onnx_session import INPUT

    nodes, weights, now = [], [], INPUT
    for number, weight in enumerate(layer.weights()):
        weights.append(numpy_helper.from_array(weight, f"weight_{number}"))
        sides = {"kernel_shape": [layer.kernel] * 2, "pads": [layer.kernel // 2] * 4}
        inputs = [now, f"weight_{number}"]
        nodes.append(helper.make_node("Conv", inputs, [f"sum_{number}"], group=layer.groups, **sides))
        now = f"map_{number}"
        nodes.append(helper.make_node("Relu", [f"sum_{number}"], [now]))
    shape = [1, layer.channels, SIDE, SIDE]
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)] for name in (INPUT, now)]
    graph = helper.make_graph(nodes, "layer", *ends, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    file = folder / f"{layer.kind}-{layer.channels}.onnx"
    onnx.save(model, file)
    return file


LAYERS_IN: dict[str, RunIn] = {"eager": _in_torch, "onnxruntime": _in_onnxruntime, "openvino": _in_openvino}
"""Name of a runtime → function that prepares a layer for it."""


def runs_layers(runtime: Runtime) -> bool:
    """Return whether single layers can be run; TensorRT would build an engine for each of them, for minutes."""
    from paretune.runtimes.onnxruntime import OnnxRuntime

    in_engines = isinstance(runtime, OnnxRuntime) and runtime.provider == "tensorrt"
    return runtime.name in LAYERS_IN and not in_engines
