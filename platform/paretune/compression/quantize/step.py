"""Quantization of an ONNX file: INT8 in several ways, 16 bits, and a guard over what is lost.

Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference, CVPR 2018 (arXiv:1712.05877). Entropy calibration is not offered: in ONNX Runtime it equals the
smallest and largest value.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from paretune.compression.base import Context, Step
from paretune.compression.quantize.accuracy_guard import Candidate, GuardResult, climb, judge
from paretune.compression.quantize.calibration import calibration_images
from paretune.compression.quantize.onnx_quantizers import safe_bits, small_operators
from paretune.compression.quantize.plan import (
    CALIBRATION,
    Files,
    Method,
    QuantizationFiles,
    QuantizationPlan,
    Scheme,
    Tool,
    in_float,
    told,
)
from paretune.core.errors import UserError
from paretune.core.model import Accepted, Format, Model
from paretune.core.target import Target
from paretune.runtimes.base import Runtime
from paretune.runtimes.onnx_session import on_own_cores, part_file


class Quantize(Step):
    """Turn weights, and activations with ranges from training images, into 8-bit integers or 16-bit floats."""

    name: ClassVar[str] = "quantize"
    accepts: ClassVar[Accepted] = "either"
    produces: ClassVar[Format | None] = None
    final: ClassVar[bool] = True

    scheme: Scheme = "int8"
    """int8: weights and activations, with ranges known beforehand. int8_dynamic: the same, with ranges taken while it
    runs. weight_only: weights alone, int8 on disk, computed in float. fp16: 16-bit floats. The last two make a
    file smaller and a CPU no faster."""
    tool: Tool = "onnxruntime"
    """What places the integers for scheme int8: ONNX Runtime's quantizer, or NNCF, which also corrects biases
    (`pip install 'paretune[nncf]'`). Either's file runs on ONNX Runtime and OpenVINO, or on TensorRT where that is the
    recipe's runtime or provider: integers are signed and symmetric then, as it alone reads them."""
    images: int = Field(default=64, ge=1, le=100_000)
    """Images of the training split that the ranges are taken from, drawn by the seed so that every class is seen."""
    method: Method = "minmax"
    """The range of an activation: its smallest and largest value, or all but one value in ten thousand."""
    per_channel: bool = True
    """A scale for each output channel of a weight, not one for all of them."""
    weight_bits: Literal["auto", 7, 8] = "auto"
    """Bits of a weight for scheme int8. An x86 CPU without VNNI adds up pairs of products in 16 bits, which 8-bit
    weights overflow: sums are then far too small. auto tries this machine's CPU: 7 bits where it does so, else 8, as on
    every GPU. On a runtime of torch they are 7."""
    float_outputs: bool = True
    """Keep the last convolutions, whose outputs are boxes and scores, in float; fp16 is of all of them."""
    keep_float: int = Field(default=0, ge=0, le=100_000)
    """Layers that stay in float for scheme int8: those that harm the boxes most when they alone are quantized. Not on a
    runtime of torch."""
    max_drop: float | None = Field(default=None, ge=0, le=1)
    """Most map that may be lost on the validation split, as a fraction (0.003 is 0.3 points). Where more is lost,
    other ways of int8 are tried: minmax, percentile, NNCF, 1, 2, 4, … more layers in float; if none keeps it, the
    file stays as it was. Not on a runtime of torch."""

    @model_validator(mode="after")
    def _check_fields(self) -> Quantize:
        if self.scheme != "int8":
            default = Quantize()
            for field in ("tool", "method", "weight_bits", "keep_float"):
                if getattr(self, field) != getattr(default, field):
                    raise ValueError(f"{field} is for scheme int8, and the scheme is {self.scheme}")
        return self

    def unsupported_fields(self, loaded: Format) -> dict[str, str]:
        """Name what only quantizers of files do, where the runtime loads a torch network."""
        if loaded == "onnx":
            return {}
        files_only = {"scheme": "int8", "tool": "onnxruntime", "keep_float": 0, "max_drop": None}
        found = {
            field: f"{field} is of exported files, and none is made for a runtime of torch"
            for field, plain in files_only.items()
            if getattr(self, field) != plain
        }
        if self.weight_bits == 8:
            found["weight_bits"] = "INT8 layers of torch have 7 bits of a weight, which no CPU overflows"
        return found

    def unsupported_reason(self, runtime: Runtime, target: Target) -> str | None:
        """Tell that the runtime would compute it in something else, or not at all."""
        return runtime.scheme_unsupported_reason(self.scheme, target)

    def _apply(self, model: Model, context: Context) -> Model:
        """Quantize a copy of the files, or of the network where the runtime is torch's own.

        Raises:
            UserError: the file is quantized already, the calibration images are each of one colour, NNCF is not
                installed, or the guard finds no objects to judge by.
            RuntimeError: nothing in the file could be quantized, or what comes out is not finite.
        """
        if self.name in model.history:
            raise UserError("quantize: the model is quantized already; name the step once")
        if self.tool == "nncf" and find_spec("nncf") is None:
            raise UserError("quantize: tool nncf is not installed (pip install 'paretune[nncf]')")
        if model.network is not None:
            return self._in_torch(model, context)
        with tempfile.TemporaryDirectory(dir=context.workdir, prefix="quantize-") as folder, on_own_cores():
            work = QuantizationFiles(model, context, self._images(context), Path(folder))
            outcome = self._outcome(work)
            if outcome.files is None:
                return model.unchanged("; ".join(outcome.notes))
            work.check_finite(outcome.files, self.scheme)
            files = {}
            for part, file in outcome.files.items():
                files[part] = file.replace(context.workdir / f"{Path(part_file(part)).stem}.{self.scheme}.onnx")
        notes = (*outcome.notes, *self._notes(model, files, len(work.indices)))
        file = files.pop(context.detector.part_names[0])
        return replace(model, file=file, more=files, calibration=told(file, CALIBRATION)).noted(*notes)

    def _in_torch(self, model: Model, context: Context) -> Model:
        """Quantize a torch network."""
        from paretune.compression.quantize.torch_int8 import quantize_model

        indices = self._images(context)
        fields: dict[str, Any] = self.model_dump(include={"per_channel", "method", "float_outputs"})
        return quantize_model(model, context, indices, **fields).noted(*self._few(len(indices)))

    def _plan(self, work: QuantizationFiles) -> QuantizationPlan:
        bits = _safe_bits(work) if self.weight_bits == "auto" else self.weight_bits
        return QuantizationPlan(
            self.scheme, self.tool, self.method, self.per_channel, bits, self.float_outputs, self.keep_float
        )

    def _images(self, context: Context) -> list[int]:
        if self.scheme != "int8":
            return []
        return calibration_images(context.data.splits["train"], self.images, context.seed)

    def _outcome(self, work: QuantizationFiles) -> GuardResult:
        """Quantize as asked, or as the guard allows.

        Raises:
            RuntimeError: nothing could be quantized.
        """
        plan = self._plan(work)
        first = work.make(plan)
        if not any(small_operators(file) for file in first.values()):
            if self.keep_float == 0:
                raise RuntimeError("quantize: nothing in the network could be quantized")
            return GuardResult(
                None, (f"quantize changed nothing: keep_float {self.keep_float} keeps every layer in float",)
            )
        if self.max_drop is None:
            return GuardResult(first, ())
        rungs = [Candidate(plan.label, lambda: first)]
        rungs += [Candidate(other.label, partial(work.make, other)) for other in self._others(plan, _safe_bits(work))]
        judged = partial(judge, work.model, work.context, work.folder / "judged")
        return climb(rungs, partial(self._further, work), judged, self.max_drop, work.context.progress)

    def _others(self, first: QuantizationPlan, bits: int) -> list[QuantizationPlan]:
        """Return further ways of static INT8, the plainest first."""
        if self.scheme != "int8":
            return []
        plain = replace(first, tool="onnxruntime", method="minmax", per_channel=True, weight_bits=bits)
        found = [plain, replace(plain, method="percentile")]
        found += [] if find_spec("nncf") is None else [replace(plain, tool="nncf")]
        return [plan for plan in found if plan != first]

    def _further(self, work: QuantizationFiles, rung: Candidate, files: Files) -> Iterator[Candidate]:
        """Give ever more layers back to float: 1, 2, 4, 8 layers and so on."""
        if self.scheme != "int8":
            return
        order, count = work.ranked(files), 1
        while count < len(order):
            label = f"{rung.label}, {in_float(count)}"
            yield Candidate(label, partial(work.with_floats, files, order[:count]))
            count *= 2

    def _notes(self, model: Model, files: Files, images: int) -> list[str]:
        """Return what a reader must know of the files."""
        notes = self._few(images)
        if self.scheme == "int8_dynamic":
            kinds = sum((small_operators(file) for file in files.values()), Counter[str]())
            convolutions, products = kinds["ConvInteger"], kinds["MatMulInteger"]
            notes.append(f"quantize: {convolutions} convolutions and {products} matrix products work on integers")
        before, after = (sum(file.stat().st_size for file in found) for found in (model.files, files.values()))
        if after >= before:
            notes.append("quantize: the file is no smaller; so small a network is mostly structure")
        return notes

    def _few(self, images: int) -> list[str]:
        """Return a note where there were fewer calibration images than asked for."""
        if self.scheme != "int8" or images >= self.images:
            return []
        return [f"quantize: {images} calibration images, all there are in the training split"]


def _safe_bits(work: QuantizationFiles) -> int:
    """Return how many bits a weight may have where the files will run: TensorRT adds up in 32 bits."""
    return 8 if work.signed else safe_bits()
