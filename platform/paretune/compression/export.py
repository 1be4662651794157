"""Export to ONNX: the core alone, at a fixed shape; decoding and NMS stay outside the graph."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from paretune.compression.base import Context, Step
from paretune.model import Format, Model
from paretune.structures import Floats

if TYPE_CHECKING:
    from torch import Tensor, nn

OPSET = 20
TOLERANCE = 1e-4


class Export(Step):
    """Write the network as an ONNX file of one input, ``images`` (1, 3, H, W), and the raw maps as outputs."""

    name: ClassVar[str] = "export"
    produces: ClassVar[Format] = "onnx"

    def apply(self, model: Model, context: Context) -> Model:
        """Export and compare with eager on training images.

        Raises:
            RuntimeError: the file's outputs differ from eager's; the first that does is named.
        """
        import onnx
        import torch

        assert model.network is not None  # noqa: S101 - the recipe's formats meet
        network = model.network.eval()
        file = context.workdir / "model.onnx"
        shape = (1, 3, model.input_size.height, model.input_size.width)
        names = list(context.detector.raw_names())
        with _quiet(), torch.no_grad():
            torch.onnx.export(
                network,
                (torch.zeros(shape),),
                file,
                input_names=["images"],
                output_names=names,
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
            )
        onnx.checker.check_model(str(file))
        check_parity(network, file, training_images(model, context), names)
        return replace(model, network=None, file=file, history=(*model.history, self.name))


def training_images(model: Model, context: Context, count: int = 2) -> list[Floats]:
    """Return the first training images as network inputs (1, 3, H, W)."""
    split = context.data.splits["train"]
    indices = range(min(count, len(split)))
    return [context.detector.preprocess(split.image(index), model.input_size)[0][None] for index in indices]


def check_parity(network: nn.Module, file: Path, images: Sequence[Floats], names: Sequence[str]) -> None:
    """Compare an exported file with the network, by ONNX's own reference semantics on ONNX Runtime.

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
            if not error <= TOLERANCE:
                raise RuntimeError(f"export: output {name!r} differs from eager by {error:.2e} of its largest value")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress to itself; errors come through."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
