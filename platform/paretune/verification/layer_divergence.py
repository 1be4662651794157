"""The first layer of a model whose output differs from that of the original network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paretune.core.types import Floats

if TYPE_CHECKING:
    from torch import nn

_SHOWN = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators of an ONNX file that weighted layers become."""


def relative_error(wanted: Floats, got: Floats) -> float:
    """Return the largest difference as a share of the largest value; infinite for different shapes or NaN."""
    if wanted.shape != got.shape:
        return float("inf")
    error = float(np.abs(wanted - got).max()) / max(float(np.abs(wanted).max()), 1e-6)
    return error if np.isfinite(error) else float("inf")


def diverging_in_file(part: nn.Module, file: Path, batch: Floats, given: str, tolerance: float) -> str | None:
    """Return the first layer whose output in an ONNX file differs from the network's.

    The file's convolutions and matrix products are in the order in which torch ran them, with batch norms folded. The
    layer cannot be found if their number or shapes differ.

    Args:
        part: the network in eval mode.
        file: the exported file.
        batch: an input of both.
        given: name of the input.
        tolerance: largest ``relative_error``.

    Returns:
        Name of the layer in the network; None if every layer agrees, or the layer cannot be found.
    """
    import torch

    from paretune.networks.batchnorm_folding import folded

    expected = layer_outputs(folded(part, torch.from_numpy(batch)), batch)
    outputs = _inner_outputs(file, batch, given)
    if [array.shape for _, array in expected] != [array.shape for array in outputs]:
        return None
    pairs = zip(expected, outputs, strict=True)
    return next((name for (name, array), got in pairs if not relative_error(array, got) <= tolerance), None)


def diverging_in_network(part: nn.Module, other: nn.Module, batch: Floats, tolerance: float) -> str | None:
    """Return the first layer whose output differs in another network of the same layers, or None."""
    for (name, expected), (_, got) in zip(layer_outputs(part, batch), layer_outputs(other, batch), strict=False):
        if not relative_error(expected, got) <= tolerance:
            return name
    return None


def layer_outputs(network: nn.Module, batch: Floats) -> list[tuple[str, Floats]]:
    """Return name and output of every weighted layer, call by call, for this batch."""
    import torch

    from paretune.networks.layer_kinds import WEIGHTED_LAYERS

    seen: list[tuple[str, Floats]] = []

    def noting(name: str) -> Any:
        return lambda _module, _inputs, output: seen.append((name, output.detach().numpy().copy()))

    layers = [(name, module) for name, module in network.named_modules() if isinstance(module, WEIGHTED_LAYERS)]
    hooks = [module.register_forward_hook(noting(name)) for name, module in layers]
    try:
        with torch.no_grad():
            network(torch.from_numpy(batch))
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def _inner_outputs(file: Path, batch: Floats, given: str) -> Sequence[Floats]:
    """Return the outputs of the convolutions and matrix products of an ONNX file in their order."""
    import onnx

    from paretune.runtimes.onnx_session import library

    model = onnx.load(file)
    names = list(_shown(model.graph))
    own = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names if name not in own)
    ort = library()
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(names, {given: batch})  # type: ignore[no-any-return]


def _shown(graph: Any) -> Iterator[str]:
    """Yield the names of the layers' outputs in an ``onnx.GraphProto``; a matrix product and its bias are one layer."""
    takers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            takers.setdefault(name, []).append(node)
    for node in graph.node:
        if node.op_type in _SHOWN:
            name = node.output[0]
            after = takers.get(name, [])
            biased = node.op_type == "MatMul" and len(after) == 1 and after[0].op_type == "Add"
            yield after[0].output[0] if biased else name
