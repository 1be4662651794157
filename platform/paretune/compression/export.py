"""Export of the network to ONNX at a fixed input shape; decoding and NMS stay outside the graph."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from paretune.compression.base import Context, ContextPart, Step
from paretune.core.model import Format, Model
from paretune.core.types import Floats
from paretune.networks.part_runner import in_eager, part_inputs
from paretune.runtimes.onnx_session import INPUT, part_file
from paretune.runtimes.operator_timing import SCOPE
from paretune.system.silence import quiet
from paretune.verification.layer_divergence import diverging_in_file, relative_error

if TYPE_CHECKING:
    from torch import nn

OPSET = 20
"""Version of ONNX's operators: every runtime here reads it, and torch exports it without a conversion."""
TOLERANCE = 1e-4
"""Largest error allowed in an output, relative to its largest value."""


class Export(Step):
    """Write the network as an ONNX file with one input, ``images`` (1, 3, H, W), and the raw maps as outputs."""

    name: ClassVar[str] = "export"
    produces: ClassVar[Format] = "onnx"

    libraries: ClassVar[tuple[str, ...]] = ("torch", "torchvision", "onnx", "onnxscript")

    def uses(self) -> frozenset[ContextPart]:
        """Return the images that the files are compared on."""
        return frozenset({"data"})

    def _apply(self, model: Model, context: Context) -> Model:
        """Export the network, and compare the files with eager on training images.

        Raises:
            RuntimeError: an output of a file differs from eager; the message names it.
        """
        import onnx

        detector, modules = context.detector, context.detector.part_modules(model.torch_network)
        images = training_images(model, context)
        inputs = part_inputs(detector, {name: in_eager(part) for name, part in modules.items()}, images, model)
        files = {}
        for name, part in modules.items():
            given, outputs = detector.part_input(name), detector.part_outputs(name)
            graph = export_graph(part, inputs[name][0], outputs, given)
            onnx.checker.check_model(graph)
            files[name] = context.workdir / part_file(name)
            onnx.save(graph, files[name])
            check_parity(part, files[name], inputs[name], outputs, given)
        file = files.pop(detector.part_names[0])
        return replace(model, network=None, file=file, more=files)


def export_graph(network: nn.Module, example: Floats, names: Sequence[str], given: str = INPUT) -> Any:
    """Return the network as an ``onnx.ModelProto``, batch norms folded.

    Args:
        network: images → tuple of maps.
        example: input of the shape that the file will take, (1, 3, H, W) for the first part of a detector.
        names: names of the outputs.
        given: name of the input.
    """
    import torch

    from paretune.networks.batchnorm_folding import folded

    images = torch.from_numpy(example)
    with quiet("torch.onnx", "onnxscript", "onnx_ir"), torch.no_grad():
        program = torch.onnx.export(
            folded(network, images),
            (images,),
            input_names=[given],
            output_names=list(names),
            opset_version=OPSET,
            dynamo=True,
        )
    assert program is not None  # noqa: S101 - None is returned by the exporter before dynamo only
    graph = program.model_proto
    _name_nodes(graph.graph)
    # torch stores the source lines of every node, with their paths on this machine: up to a quarter of a small file
    for part in (*graph.graph.node, *graph.graph.value_info, *graph.graph.initializer, graph.graph, graph):
        del part.metadata_props[:]
    return graph


def _name_nodes(graph: Any) -> None:
    """Prefix the name of every node with its module; quantizers and runtimes keep the name."""
    for node in graph.node:
        scopes_text = next(
            (entry.value for entry in node.metadata_props if entry.key == "pkg.torch.onnx.name_scopes"), None
        )
        if scopes_text and len(scopes := ast.literal_eval(scopes_text)) > 1:  # the last is the operator's own
            node.name = f"{scopes[-2]}{SCOPE}{node.output[0]}"


@dataclass(frozen=True)
class TrainingInputs:
    """Images of the training split as network inputs (1, 3, H, W), read from disk in each iteration."""

    model: Model
    context: Context
    indices: Sequence[int]

    def __iter__(self) -> Iterator[Floats]:
        split, preprocess = self.context.data.splits["train"], self.context.detector.preprocess
        return (preprocess(split.image(index), self.model.input_size)[0][None] for index in self.indices)


def training_images(model: Model, context: Context, count: int = 2) -> list[Floats]:
    """Return the first training images as network inputs (1, 3, H, W)."""
    return list(TrainingInputs(model, context, range(min(count, len(context.data.splits["train"])))))


def check_parity(
    network: nn.Module, file: Path, images: Sequence[Floats], names: Sequence[str], given: str = INPUT
) -> None:
    """Compare an exported file on ONNX Runtime with the network in eager torch.

    Args:
        network: in eval mode.
        file: exported from the network.
        images: inputs, each (1, 3, H, W).
        names: names of the outputs, in the network's order.
        given: name of the input.

    Raises:
        RuntimeError: an output differs by more than 1e-4 of its largest value; the message names the first one, and
            the first layer that differs.
    """
    from paretune.runtimes.onnx_session import open_session

    session, run = open_session(file, threads=1), in_eager(network)
    for image in images:
        for name, expected, got in zip(names, run(image), session.run(list(names), {given: image}), strict=True):
            error = relative_error(expected, got)
            if error > TOLERANCE:
                layer = diverging_in_file(network, file, image, given, TOLERANCE)
                where = f"; first diverging layer: {layer}" if layer else ""
                raise RuntimeError(
                    f"export: output {name!r} differs from eager by {error:.2e} of its largest value{where}"
                )
