"""Export to ONNX: the core alone, at a fixed shape; decoding and NMS stay outside the graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from paretune.compression.base import Context, Step
from paretune.compression.quiet import quiet
from paretune.model import Format, Model
from paretune.structures import Floats

if TYPE_CHECKING:
    from torch import Tensor, nn

OPSET = 20
"""Of ONNX's operators: old enough for every runtime here, new enough to need no conversion."""
TOLERANCE = 1e-4
"""Largest error of an output, relative to its largest value."""
FILE = "model.onnx"


class Export(Step):
    """Write the network as an ONNX file of one input, ``images`` (1, 3, H, W), and the raw maps as outputs."""

    name: ClassVar[str] = "export"
    produces: ClassVar[Format] = "onnx"

    def apply(self, model: Model, context: Context) -> Model:
        """Export, and compare with eager on training images.

        Raises:
            RuntimeError: the file's outputs differ from eager's; the first that does is named.
        """
        import onnx

        assert model.network is not None  # noqa: S101 - the recipe's formats meet
        images = training_images(model, context)
        names = context.detector.raw_names()
        graph = exported(model.network, images[0], names)
        onnx.checker.check_model(graph)
        file = context.workdir / FILE
        onnx.save(graph, file)
        check_parity(model.network, file, images, names)
        return replace(model, network=None, file=file, history=(*model.history, self.name))


def exported(network: nn.Module, example: Floats, names: Sequence[str]) -> Any:
    """Return the network as an ``onnx.ModelProto``, batch norms folded.

    Args:
        network: images → tuple of maps.
        example: images of the shape that the file will take, (1, 3, H, W).
        names: of the outputs.
    """
    import torch

    from paretune.compression.folding import folded

    images = torch.from_numpy(example)
    with quiet("torch.onnx", "onnxscript", "onnx_ir"), torch.no_grad():
        program = torch.onnx.export(
            folded(network, images),
            (images,),
            input_names=["images"],
            output_names=list(names),
            opset_version=OPSET,
            dynamo=True,
        )
    assert program is not None  # noqa: S101 - None is returned by the exporter before dynamo only
    graph = program.model_proto
    # torch notes at every node the source lines it came from, with their paths on this machine: as
    # much as a quarter of a small file, and nobody else's business
    for part in (*graph.graph.node, *graph.graph.value_info, *graph.graph.initializer, graph.graph, graph):
        del part.metadata_props[:]
    return graph


def training_images(model: Model, context: Context, count: int = 2) -> list[Floats]:
    """Return the first training images as network inputs (1, 3, H, W)."""
    split = context.data.splits["train"]
    indices = range(min(count, len(split)))
    return [context.detector.preprocess(split.image(index), model.input_size)[0][None] for index in indices]


def check_parity(network: nn.Module, file: Path, images: Sequence[Floats], names: Sequence[str]) -> None:
    """Compare an exported file on ONNX Runtime with the network in eager torch.

    Args:
        network: in eval mode.
        file: what it was exported to.
        images: each (1, 3, H, W).
        names: of the outputs, in the network's order.

    Raises:
        RuntimeError: names the first output that differs by more than 1e-4 of its largest value.
    """
    import torch

    from paretune.runtimes.onnxruntime import open_session

    session = open_session(file, threads=1)
    for image in images:
        with torch.inference_mode():
            wanted: Sequence[Tensor] = network(torch.from_numpy(image))
        for name, eager, got in zip(names, wanted, session.run(list(names), {"images": image}), strict=True):
            scale = max(float(eager.abs().max()), 1e-6)
            error = float(np.abs(eager.numpy() - got).max()) / scale
            if not error <= TOLERANCE:  # this way round, so that NaN is an error too
                raise RuntimeError(f"export: output {name!r} differs from eager by {error:.2e} of its largest value")
