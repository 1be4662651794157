"""Single layers on a runtime: a few equal convolutions in a row, so that the overhead around them is small."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from paretune.core.target import Target
from paretune.profiling.latency.quick_compare import InterleavedRun
from paretune.runtimes.base import Runtime

if TYPE_CHECKING:
    from torch import nn

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


def layer_on(
    layer: SquareConvolution, runtime: Runtime, target: Target, folder: Path
) -> AbstractContextManager[InterleavedRun]:
    """Return a context in which a call runs the layer once on a runtime.

    Args:
        layer: convolutions in a row, each followed by ReLU.
        runtime: one that runs single layers.
        target: device and threads.
        folder: receives the layer's file.
    """
    made = _module(layer) if runtime.accepts == "torch" else _file(layer, folder)
    return runtime.layer_runner(made, layer.images, target)


def _module(layer: SquareConvolution) -> nn.Module:
    """Return the layer as a torch module."""
    import torch
    from torch import nn

    parts: list[nn.Module] = []
    for weight in layer.weights():
        convolution = nn.Conv2d(
            layer.channels, layer.channels, layer.kernel, padding="same", groups=layer.groups, bias=False
        )
        convolution.weight = nn.Parameter(torch.from_numpy(weight), requires_grad=False)
        parts += [convolution, nn.ReLU()]
    return nn.Sequential(*parts)


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
