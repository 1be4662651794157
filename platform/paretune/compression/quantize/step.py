"""Quantization of an ONNX file or a torch network: INT8 by several schemes, 16-bit floats, and an accuracy guard.

Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, CVPR 2018
(arXiv:1712.05877). Entropy calibration is not offered: in ONNX Runtime it equals the smallest and largest value.

``plan`` makes the files of one way to quantize, by ``onnx_quantizers`` or ``nncf`` with the inputs of ``calibration``;
``float_layers`` puts sensitive layers back into float; ``accuracy_guard`` chooses among several ways; ``torch_int8``
quantizes for a runtime that loads torch networks.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from paretune.compression.base import Context, ContextPart, Step
from paretune.compression.quantize.accuracy_guard import Candidate, GuardResult, evaluate_map, try_candidates
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
    read_metadata,
)
from paretune.core.errors import UserError
from paretune.core.model import Accepted, Format, Model
from paretune.core.target import Target
from paretune.runtimes.base import Runtime
from paretune.runtimes.onnx_session import part_file, process_cores_only


class Quantize(Step):
    """Convert weights, and activations with ranges from training images, to 8-bit integers or 16-bit floats."""

    name: ClassVar[str] = "quantize"
    accepts: ClassVar[Accepted] = "either"
    produces: ClassVar[Format | None] = None
    final: ClassVar[bool] = True

    scheme: Scheme = "int8"
    """Numbers that are rounded. int8: weights and activations, with ranges measured beforehand. int8_dynamic: weights
    and activations, with ranges measured during inference. weight_only: int8 weights, computed in float. fp16: 16-bit
    floats. The last two make the file smaller, but a CPU no faster."""
    tool: Tool = "onnxruntime"
    """Quantizer for scheme int8: ONNX Runtime's, or NNCF, which also corrects biases (`pip install 'paretune[nncf]'`).
    Files of both run on ONNX Runtime and OpenVINO; for a recipe that runs on TensorRT integers are signed and
    symmetric, the only form that it reads."""
    images: int = Field(default=64, ge=1, le=100_000)
    """Number of training images that ranges are measured on, drawn by the seed so that every class occurs."""
    method: Method = "minmax"
    """Range of an activation: minmax from its smallest to its largest value, percentile without one in ten thousand."""
    per_channel: bool = True
    """Give every output channel of a weight its own scale."""
    weight_bits: Literal["auto", 7, 8] = "auto"
    """Bits of a weight for scheme int8. An x86 CPU without VNNI adds pairs of products in 16 bits, which overflow with
    8-bit weights and make sums far too small. auto tests this machine's CPU and takes 7 bits if it overflows, else 8,
    as on every GPU. Runtimes of torch use 7."""
    float_outputs: bool = True
    """Keep the last convolutions, whose outputs are boxes and scores, in float; scheme fp16 converts them too."""
    keep_float: int = Field(default=0, ge=0, le=100_000)
    """Number of layers that stay in float for scheme int8: those that harm the boxes most when they alone are
    quantized. Not for runtimes of torch."""
    max_drop: float | None = Field(default=None, ge=0, le=1)
    """Largest loss of map allowed on the validation split, as a fraction (0.003 is 0.3 points). If quantization loses
    more, other ways of int8 are tried: minmax, percentile, NNCF, 1, 2, 4, … more layers in float; if all lose more, the
    file stays unchanged. Not for runtimes of torch."""

    libraries: ClassVar[tuple[str, ...]] = ("torch", "onnx", "onnxruntime", "nncf")

    def uses(self) -> frozenset[ContextPart]:
        """Return what calibration, the bits of a weight, and the accuracy guard depend on."""
        parts: set[ContextPart] = {"data", "seed", "runtime", "machine"}
        if self.max_drop is not None:
            parts |= {"target", "thresholds"}
        return frozenset(parts)

    def untrained(self) -> Self:
        """Return the step without the accuracy guard, whose choice depends on trained weights."""
        return self.model_copy(update={"max_drop": None})

    @model_validator(mode="after")
    def _check_fields(self) -> Quantize:
        if self.scheme != "int8":
            default = Quantize()
            for field in ("tool", "method", "weight_bits", "keep_float"):
                if getattr(self, field) != getattr(default, field):
                    raise ValueError(f"{field} is for scheme int8, and the scheme is {self.scheme}")
        return self

    def unsupported_fields(self, loaded: Format) -> dict[str, str]:
        """Return the fields that only quantizers of files support, where the runtime loads a torch network."""
        if loaded != "torch":
            return {}
        files_only = {"scheme": "int8", "tool": "onnxruntime", "keep_float": 0, "max_drop": None}
        unsupported = {
            field: f"{field} is of exported files, and none is made for a runtime of torch"
            for field, plain in files_only.items()
            if getattr(self, field) != plain
        }
        if self.weight_bits == 8:
            unsupported["weight_bits"] = "INT8 layers of torch have 7 bits of a weight, which no CPU overflows"
        return unsupported

    def unsupported_reason(self, runtime: Runtime, target: Target) -> str | None:
        """Return why the runtime would not compute in this scheme, or None."""
        return runtime.scheme_unsupported_reason(self.scheme, target)

    def _apply(self, model: Model, context: Context) -> Model:
        """Quantize a copy of the files, or of the network where the runtime loads torch networks.

        Raises:
            UserError: the model is quantized already, every calibration image has one colour, NNCF is not installed,
                or the validation split has no objects for the guard.
            RuntimeError: nothing in the file could be quantized, or an output is not finite.
        """
        if self.name in model.history:
            raise UserError("quantize: the model is quantized already; name the step once")
        if self.tool == "nncf" and find_spec("nncf") is None:
            raise UserError("quantize: tool nncf is not installed (pip install 'paretune[nncf]')")
        if model.network is not None:
            return self._in_torch(model, context)
        with tempfile.TemporaryDirectory(dir=context.workdir, prefix="quantize-") as folder, process_cores_only():
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
        return replace(model, file=file, more=files, calibration=read_metadata(file, CALIBRATION)).noted(*notes)

    def _in_torch(self, model: Model, context: Context) -> Model:
        """Return the model with its torch network quantized."""
        from paretune.compression.quantize.torch_int8 import quantize_model

        indices = self._images(context)
        fields: dict[str, Any] = self.model_dump(include={"per_channel", "method", "float_outputs"})
        return quantize_model(model, context, indices, **fields).noted(*self._few_images_note(len(indices)))

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
        """Return the quantized files: of the plain way, or of the one that the accuracy guard chooses.

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
        candidates = [Candidate(plan.label, lambda: first)]
        candidates += [
            Candidate(other.label, partial(work.make, other)) for other in self._others(plan, _safe_bits(work))
        ]
        map_of = partial(evaluate_map, work.model, work.context, work.folder / "evaluated")
        return try_candidates(candidates, partial(self._further, work), map_of, self.max_drop, work.context.progress)

    def _others(self, first: QuantizationPlan, bits: int) -> list[QuantizationPlan]:
        """Return further ways to quantize to static INT8, the plainest first."""
        if self.scheme != "int8":
            return []
        plain = replace(first, tool="onnxruntime", method="minmax", per_channel=True, weight_bits=bits)
        plans = [plain, replace(plain, method="percentile")]
        plans += [] if find_spec("nncf") is None else [replace(plain, tool="nncf")]
        return [plan for plan in plans if plan != first]

    def _further(self, work: QuantizationFiles, base: Candidate, files: Files) -> Iterator[Candidate]:
        """Yield candidates with more and more layers in float: 1, 2, 4, 8 and so on."""
        if self.scheme != "int8":
            return
        order, count = work.ranked(files), 1
        while count < len(order):
            label = f"{base.label}, {in_float(count)}"
            yield Candidate(label, partial(work.with_floats, files, order[:count]))
            count *= 2

    def _notes(self, model: Model, files: Files, images: int) -> list[str]:
        """Return the notes on the files."""
        notes = self._few_images_note(images)
        if self.scheme == "int8_dynamic":
            kinds = sum((small_operators(file) for file in files.values()), Counter[str]())
            convolutions, products = kinds["ConvInteger"], kinds["MatMulInteger"]
            notes.append(f"quantize: {convolutions} convolutions and {products} matrix products work on integers")
        before, after = (sum(file.stat().st_size for file in group) for group in (model.files, files.values()))
        if after >= before:
            notes.append("quantize: the file is no smaller; so small a network is mostly structure")
        return notes

    def _few_images_note(self, images: int) -> list[str]:
        """Return a note if there were fewer calibration images than requested."""
        if self.scheme != "int8" or images >= self.images:
            return []
        return [f"quantize: {images} calibration images, all there are in the training split"]


def _safe_bits(work: QuantizationFiles) -> int:
    """Return the number of bits of a weight that cannot overflow where the files will run; TensorRT adds in 32 bits."""
    return 8 if work.signed else safe_bits()
