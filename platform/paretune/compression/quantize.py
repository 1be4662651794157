"""Static INT8 quantization of an ONNX file by ONNX Runtime (QDQ format).

Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference, CVPR 2018 (arXiv:1712.05877). Activations are unsigned and weights signed: the other way
round is slower than float on x86.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from paretune.compression.base import Context, Step
from paretune.errors import UserError
from paretune.model import Format, Model
from paretune.structures import Floats


class Quantize(Step):
    """Turn weights and activations into 8-bit integers, with ranges from training images."""

    name: ClassVar[str] = "quantize"
    accepts: ClassVar[Format] = "onnx"
    produces: ClassVar[Format] = "onnx"

    scheme: Literal["int8"] = "int8"
    """int8: static, weights and activations."""
    images: int = Field(default=64, ge=1, le=100_000)
    """Images of the training split that the ranges are taken from."""
    method: Literal["minmax", "percentile"] = "minmax"
    """The range of an activation: its smallest and largest value, or all but one value in ten thousand."""
    per_channel: bool = True
    """A scale for each output channel of a weight, not one for all of them."""
    float_outputs: bool = True
    """Keep the last convolutions, whose outputs are boxes and scores, in float."""

    def apply(self, model: Model, context: Context) -> Model:
        """Quantize a copy of the file.

        Raises:
            UserError: the calibration images are all of one grey: no range can be taken from them.
            RuntimeError: nothing in the file could be quantized.
        """
        import onnx
        from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        assert model.file is not None  # noqa: S101 - the recipe's formats meet
        images = self.calibration(model, context)
        prepared, file = context.workdir / "prepared.onnx", context.workdir / "model.int8.onnx"
        root = logging.getLogger()
        level = root.level
        root.setLevel(logging.ERROR)  # it advises preprocessing, which has just been done
        try:
            quant_pre_process(str(model.file), str(prepared), skip_symbolic_shape=True)
            graph = onnx.load(str(prepared)).graph
            quantize_static(
                str(prepared),
                str(file),
                _Reader(images),
                quant_format=QuantFormat.QDQ,
                per_channel=self.per_channel,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=_last_convolutions(graph) if self.float_outputs else [],
                calibrate_method=CalibrationMethod.MinMax if self.method == "minmax" else CalibrationMethod.Percentile,
                extra_options={"CalibPercentile": 99.99} if self.method == "percentile" else {},
            )
        finally:
            root.setLevel(level)
            prepared.unlink(missing_ok=True)
        if not any(node.op_type == "QuantizeLinear" for node in onnx.load(str(file)).graph.node):
            raise RuntimeError("quantize: nothing in the network could be quantized")
        made = replace(model, file=file, history=(*model.history, self.name))
        if len(images) < self.images:
            return made.noted(f"quantize: {len(images)} calibration images, all there are in the training split")
        return made

    def calibration(self, model: Model, context: Context) -> list[Floats]:
        """Return the calibration images as network inputs (1, 3, H, W): drawn by seed from the training split."""
        split = context.data.splits["train"]
        order = np.random.default_rng(context.seed).permutation(len(split))[: self.images]
        images = [split.image(int(index)) for index in order]
        if all(int(image.max()) == int(image.min()) for image in images):
            raise UserError("quantize: every calibration image is of one colour; activation ranges need photographs")
        return [context.detector.preprocess(image, model.input_size)[0][None] for image in images]


class _Reader:
    """Feeds calibration images to ONNX Runtime."""

    def __init__(self, images: list[Floats]) -> None:
        self._images = images
        self._left: Iterator[Floats] = iter(images)

    def get_next(self) -> dict[str, Floats] | None:
        """Return the next input, None after the last."""
        image = next(self._left, None)
        return None if image is None else {"images": image}

    def rewind(self) -> None:
        """Begin again."""
        self._left = iter(self._images)


def _last_convolutions(graph: Any) -> list[str]:
    """Return the names of the nodes between each output and the convolution that feeds it, that one included."""
    maker = {output: node for node in graph.node for output in node.output}
    names: list[str] = []
    for output in graph.output:
        node = maker.get(output.name)
        while node is not None:
            names.append(node.name)
            node = None if node.op_type in ("Conv", "Gemm", "MatMul") else maker.get(node.input[0])
    return names
