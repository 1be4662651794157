"""One way to quantize a detector, and the files that it makes from the float ones."""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from paretune.compression.base import Context
from paretune.compression.export import TrainingInputs, training_images
from paretune.compression.quantize import float_layers
from paretune.compression.quantize import onnx_quantizers as quantize_onnx
from paretune.compression.quantize.calibration import CalibrationInputs, calibration_facts
from paretune.compression.quantize.float_layers import SensitiveLayer, mixed
from paretune.core.model import Model
from paretune.runtimes.onnx_session import onnx_part, open_session

Scheme = Literal["int8", "int8_dynamic", "weight_only", "fp16"]
Tool = Literal["onnxruntime", "nncf"]
Method = Literal["minmax", "percentile"]
Files = Mapping[str, Path]
"""Name of a detector's part → its file."""

CALIBRATION = "paretune.calibration"
"""Key of the file's metadata for the images that ranges were measured on."""
KEPT = "paretune.float"
"""Key of the file's metadata for the layers that stay in float because quantization harms them."""


@dataclass(frozen=True)
class QuantizationPlan:
    """One way to quantize, by fields of the step ``quantize``."""

    scheme: Scheme
    tool: Tool
    method: Method
    per_channel: bool
    weight_bits: int
    float_outputs: bool
    keep_float: int

    @property
    def label(self) -> str:
        """Return a short description."""
        if self.scheme != "int8":
            return self.scheme
        words = [f"{self.tool} {self.method}"]
        words += [] if self.weight_bits == 8 else [f"{self.weight_bits}-bit weights"]
        words += [] if self.per_channel else ["one scale for each weight"]
        words += [in_float(self.keep_float)] if self.keep_float else []
        return ", ".join(words)


def in_float(count: int) -> str:
    """Return a count in words, such as ``1 layer in float``."""
    return f"{count} {'layer' if count == 1 else 'layers'} in float"


@dataclass(frozen=True)
class QuantizationFiles:
    """Float files of one detector, and the quantized files made from them."""

    model: Model
    context: Context
    indices: Sequence[int]
    """Indices of the calibration images in the training split."""
    folder: Path
    """Temporary folder that receives the files."""
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    @cached_property
    def floats(self) -> Files:
        """Float files prepared for quantizers."""
        files = self._new_files("float")
        for source, file in zip(self.model.files, files.values(), strict=True):
            quantize_onnx.prepare(source, file)
        return files

    @property
    def signed(self) -> bool:
        """Return whether the runtime of the files reads signed integers only."""
        return self.context.runtime is not None and self.context.runtime.signed_int8

    def make(self, plan: QuantizationPlan) -> Files:
        """Return new files, quantized from the float files."""
        import onnx

        files = self._new_files(plan.scheme)
        for part, file in files.items():
            source = self.floats[part]
            outputs = quantize_onnx.last_convolutions(onnx.load(source).graph) if plan.float_outputs else []
            if plan.scheme == "int8":
                self._static(plan, part, file, outputs)
            elif plan.scheme == "int8_dynamic":
                quantize_onnx.dynamic(source, file, per_channel=plan.per_channel, floats=outputs)
            elif plan.scheme == "weight_only":
                quantize_onnx.weights_only(source, file, per_channel=plan.per_channel, floats=outputs)
            else:
                quantize_onnx.half(source, file)
        return self.with_floats(files, self.ranked(files)[: plan.keep_float]) if plan.keep_float else files

    def _static(self, plan: QuantizationPlan, part: str, file: Path, outputs: Collection[str]) -> None:
        """Write one file in static INT8; its metadata names the calibration images."""
        split = self.context.data.splits["train"]
        feed = CalibrationInputs(split, self.indices, self.context.detector, self.model, part)
        if plan.tool == "nncf":
            from paretune.compression.quantize.nncf import static
        else:
            from paretune.compression.quantize.onnx_quantizers import static
        static(
            self.floats[part],
            file,
            feed,
            percentile=plan.method == "percentile",
            per_channel=plan.per_channel,
            weight_bits=plan.weight_bits,
            signed=self.signed,
            floats=outputs,
        )
        facts = calibration_facts(self.context, self.indices, plan.method, plan.tool, plan.weight_bits)
        _write_metadata(file, CALIBRATION, facts)

    def ranked(self, files: Files) -> list[SensitiveLayer]:
        """Return the quantized layers, the most harmful first."""
        self.context.progress("quantize: comparing layers")
        images = list(TrainingInputs(self.model, self.context, self.indices[: float_layers.IMAGES]))
        detector, size = self.context.detector, self.model.input_size
        return float_layers.rank(detector, size, self.floats, files, images, exact=self.signed)

    def with_floats(self, files: Files, kept: Sequence[SensitiveLayer]) -> Files:
        """Return quantized files with some more layers put back into float."""
        import onnx

        files_with_floats = self._new_files("mixed")
        for part, file in files_with_floats.items():
            integer, source = onnx.load(files[part]), onnx.load(self.floats[part])
            names = [layer for owner, layer in kept if owner == part]
            onnx.save(mixed(integer, source, names), file)
            _write_metadata(file, KEPT, [*(read_metadata(file, KEPT) or ()), *names])
        return files_with_floats

    def check_finite(self, files: Files, scheme: str) -> None:
        """Run the files on a training image.

        Raises:
            RuntimeError: an output is not finite; the message names it.
        """
        detector, size = self.context.detector, self.model.input_size
        parts = {part: onnx_part(detector, part, open_session(file, threads=1)) for part, file in files.items()}
        (image,) = training_images(self.model, self.context, 1)
        for name, raw in zip(detector.raw_names(), detector.run(parts, image, size), strict=True):
            if not np.isfinite(raw).all():
                raise RuntimeError(f"quantize: output {name!r} is not finite in {scheme}")

    def _new_files(self, kind: str) -> dict[str, Path]:
        number = next(self._numbers)
        return {part: self.folder / f"{number}.{kind}.{part}.onnx" for part in self.context.detector.part_names}


def read_metadata(file: Path, key: str) -> Any:
    """Return the value of a key in a file's metadata; None if it is missing."""
    import onnx

    entries = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
    return json.loads(entries[key]) if key in entries else None


def _write_metadata(file: Path, key: str, facts: Any) -> None:
    """Write a value into a file's metadata, replacing an earlier one of the same key."""
    import onnx

    model = onnx.load(file)
    entries = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, entries | {key: json.dumps(facts)})
    onnx.save(model, file)
