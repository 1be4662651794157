"""Static INT8 quantization of an ONNX file by ONNX Runtime (QDQ format).

Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference, CVPR 2018 (arXiv:1712.05877). Activations are unsigned and weights signed: with both signed,
x86 is slower than in float. Entropy calibration is not offered: in ONNX Runtime it equals the smallest
and largest value.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from paretune.compression.base import Context, Step
from paretune.compression.export import part_inputs
from paretune.compression.quiet import quiet
from paretune.detectors.base import Detector
from paretune.errors import UserError
from paretune.model import Accepted, Format, Model
from paretune.runtimes.onnxruntime import Part, open_session, part_file, precision
from paretune.structures import Floats, Image, Split

CALIBRATION = "paretune.calibration"
"""Key of the file's metadata under which the images are named that the ranges were taken from."""
_PERCENTILE = 99.99
_CHUNK = 8


class Quantize(Step):
    """Turn weights and activations into 8-bit integers, with ranges from training images."""

    name: ClassVar[str] = "quantize"
    accepts: ClassVar[Accepted] = "either"
    produces: ClassVar[Format | None] = None
    closes: ClassVar[bool] = True

    scheme: Literal["int8"] = "int8"
    """int8: static, weights and activations."""
    images: int = Field(default=64, ge=1, le=100_000)
    """Images of the training split that the ranges are taken from, drawn by the seed."""
    method: Literal["minmax", "percentile"] = "minmax"
    """The range of an activation: its smallest and largest value, or all but one value in ten thousand."""
    per_channel: bool = True
    """A scale for each output channel of a weight, not one for all of them."""
    float_outputs: bool = True
    """Keep the last convolutions, whose outputs are boxes and scores, in float."""

    def apply(self, model: Model, context: Context) -> Model:
        """Quantize a copy of the file, or of the network where the runtime is torch's own.

        Raises:
            UserError: the file is quantized already, or the calibration images are each of one colour:
                no range can be taken from them.
            RuntimeError: nothing in the file could be quantized.
        """
        if self.name in model.history:
            raise UserError("quantize: the model is quantized already; name the step once")
        split = context.data.splits["train"]
        chosen = np.random.default_rng(context.seed).permutation(len(split))[: self.images]
        indices = [int(index) for index in chosen]
        if all(_is_plain(split.image(index)) for index in indices):
            raise UserError("quantize: every calibration image is of one colour; activation ranges need photographs")
        if model.network is not None:
            return self._told(self._in_torch(model, context, indices), len(indices))
        import onnx

        facts = {"images": [split.ids[index] for index in indices], "seed": context.seed, "method": self.method}
        files = {}
        for part, source in zip(context.detector.part_names, model.files, strict=True):
            files[part] = context.workdir / f"{Path(part_file(part)).stem}.int8.onnx"
            feed = _Feed(split, indices, context.detector, model, part)
            self._quantize(source, files[part], _Reader(feed, len(indices)))
            graph = onnx.load(files[part])
            graph.metadata_props.add(key=CALIBRATION, value=json.dumps(facts))
            onnx.save(graph, files[part])
        if all(precision(file) == "fp32" for file in files.values()):
            raise RuntimeError("quantize: nothing in the network could be quantized")
        before, after = (sum(file.stat().st_size for file in found) for found in (model.files, files.values()))
        file = files.pop(context.detector.part_names[0])
        made = replace(model, file=file, more=files, history=(*model.history, self.name))
        made = self._told(made, len(indices))
        if after >= before:
            made = made.noted("quantize: the file is no smaller; so small a network is mostly structure")
        return made

    def _told(self, made: Model, images: int) -> Model:
        """Note that there were fewer images than asked for."""
        if images == self.images:
            return made
        return made.noted(f"quantize: {images} calibration images, all there are in the training split")

    def _in_torch(self, model: Model, context: Context, indices: Sequence[int]) -> Model:
        """Quantize a torch network."""
        from paretune.compression.quantize_torch import quantize_model

        fields: dict[str, Any] = self.model_dump(include={"per_channel", "method", "float_outputs"})
        made = quantize_model(model, context, indices, **fields)
        return replace(made, history=(*model.history, self.name))

    def _quantize(self, source: Path, file: Path, reader: _Reader) -> None:
        """Write the quantized file."""
        import onnx

        from paretune.runtimes.onnxruntime import library

        library()
        from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        percentile = self.method == "percentile"
        # Its default takes the histogram of |x|, which fails on an activation that hardly varies around a
        # large value. The stride works for every method in spite of its name: without it, every activation
        # of every image is held in memory at once.
        options = {
            "CalibPercentile": _PERCENTILE,
            "CalibTensorRangeSymmetric": False,
            "CalibStridedMinMax": _CHUNK,
        }
        prepared = file.with_suffix(".prepared.onnx")
        try:
            with quiet(""):
                quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
                graph = onnx.load(prepared).graph
                quantize_static(
                    str(prepared),
                    str(file),
                    reader,
                    quant_format=QuantFormat.QDQ,
                    per_channel=self.per_channel,
                    activation_type=QuantType.QUInt8,
                    weight_type=QuantType.QInt8,
                    nodes_to_exclude=last_convolutions(graph) if self.float_outputs else [],
                    calibrate_method=CalibrationMethod.Percentile if percentile else CalibrationMethod.MinMax,
                    extra_options=options if percentile else {},
                )
        finally:
            prepared.unlink(missing_ok=True)


@dataclass
class _Feed:
    """Gives one part of a detector what calibration images make of it, one at a time: the parts before it run."""

    split: Split
    indices: Sequence[int]
    detector: Detector
    model: Model
    part: str
    parts: dict[str, Part] = field(default_factory=dict)

    def __call__(self, number: int) -> dict[str, Floats]:
        """Return the input that the image of this number makes, by the input's name."""
        detector, size = self.detector, self.model.input_size
        planes, _ = detector.preprocess(self.split.image(self.indices[number]), size)
        batch, name = planes[None], detector.part_input(self.part)
        if self.part == detector.part_names[0]:
            return {name: batch}
        if not self.parts:
            files = zip(detector.part_names, self.model.files, strict=True)
            self.parts = {part: self._loaded(part, file) for part, file in files}
        return {name: part_inputs(detector, self.parts, [batch], self.model)[self.part][0]}

    def _loaded(self, part: str, file: Path) -> Part:
        detector = self.detector
        return Part(open_session(file, threads=1), detector.part_input(part), list(detector.part_outputs(part)))


@dataclass
class _Reader:
    """Feeds calibration inputs to ONNX Runtime, all or a stretch of them; one at a time is in memory."""

    feed: _Feed
    count: int
    next: int = 0
    end: int | None = None

    def __len__(self) -> int:
        """Return the number of images, rounded up: ONNX Runtime wants whole chunks."""
        return -(-self.count // _CHUNK) * _CHUNK

    def set_range(self, start_index: int, end_index: int) -> None:
        """Begin a stretch."""
        self.next, self.end = start_index, end_index

    def get_next(self) -> dict[str, Floats] | None:
        """Return the next input by its name; None after the last."""
        if self.next >= (self.count if self.end is None else min(self.end, self.count)):
            return None
        self.next += 1
        return self.feed(self.next - 1)


def _is_plain(image: Image) -> bool:
    """Return whether every pixel has the same colour."""
    return bool((image == image[:1, :1]).all())


def last_convolutions(graph: Any) -> list[str]:
    """Return the names of the nodes from the graph's outputs back to the convolutions that feed them, those included.

    Args:
        graph: an ``onnx.GraphProto`` whose nodes have names.
    """
    maker = {output: node for node in graph.node for output in node.output}
    names: list[str] = []
    waiting = [output.name for output in graph.output]
    while waiting:
        node = maker.get(waiting.pop())
        if node is None or node.name in names:
            continue
        names.append(node.name)
        if node.op_type not in {"Conv", "Gemm", "MatMul"}:
            waiting.extend(node.input)
    return names
