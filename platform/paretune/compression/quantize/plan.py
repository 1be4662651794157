"""Ways to quantize a detector's files: each makes new files from the float ones."""

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
from paretune.compression.quantize.calibration import CalibrationInputs, calibration_facts, loaded
from paretune.compression.quantize.float_layers import SensitiveLayer, mixed
from paretune.core.model import Model
from paretune.runtimes.onnx_session import open_session

Scheme = Literal["int8", "int8_dynamic", "weight_only", "fp16"]
Tool = Literal["onnxruntime", "nncf"]
Method = Literal["minmax", "percentile"]
Files = Mapping[str, Path]
"""The file of each part of a detector."""

CALIBRATION = "paretune.calibration"
"""Key of the file's metadata under which the images are named that the ranges were taken from."""
KEPT = "paretune.float"
"""Key under which the layers are named that stay in float because they do harm as integers."""


@dataclass(frozen=True)
class QuantizationPlan:
    """One way to quantize; the fields are the step's."""

    scheme: Scheme
    tool: Tool
    method: Method
    per_channel: bool
    weight_bits: int
    float_outputs: bool
    keep_float: int

    @property
    def label(self) -> str:
        """Return it in a few words."""
        if self.scheme != "int8":
            return self.scheme
        words = [f"{self.tool} {self.method}"]
        words += [] if self.weight_bits == 8 else [f"{self.weight_bits}-bit weights"]
        words += [] if self.per_channel else ["one scale for each weight"]
        words += [in_float(self.keep_float)] if self.keep_float else []
        return ", ".join(words)


def in_float(count: int) -> str:
    """Return ``1 layer in float`` or the like."""
    return f"{count} {'layer' if count == 1 else 'layers'} in float"


@dataclass(frozen=True)
class QuantizationFiles:
    """Files of one detector that are quantized in one way or another."""

    model: Model
    context: Context
    indices: Sequence[int]
    """Calibration images, of the training split."""
    folder: Path
    """Where the files go: one that is thrown away."""
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    @cached_property
    def floats(self) -> Files:
        """The float files, as quantizers want them."""
        files = self._new_files("float")
        for source, file in zip(self.model.files, files.values(), strict=True):
            quantize_onnx.prepare(source, file)
        return files

    @property
    def signed(self) -> bool:
        """Whether what will run the files reads signed integers only."""
        return self.context.runtime is not None and self.context.runtime.signed_int8

    def make(self, plan: QuantizationPlan) -> Files:
        """Quantize the float files."""
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
        """Write one file in static INT8 that names the images its ranges come from."""
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
        _tell(file, CALIBRATION, facts)

    def ranked(self, files: Files) -> list[SensitiveLayer]:
        """Return the integer layers of quantized files, the most harmful first."""
        self.context.progress("quantize: comparing layers")
        images = list(TrainingInputs(self.model, self.context, self.indices[: float_layers.IMAGES]))
        detector, size = self.context.detector, self.model.input_size
        return float_layers.rank(detector, size, self.floats, files, images, exact=self.signed)

    def with_floats(self, files: Files, kept: Sequence[SensitiveLayer]) -> Files:
        """Return quantized files with some layers put back into float, besides those that are there already."""
        import onnx

        found = self._new_files("mixed")
        for part, file in found.items():
            integer, source = onnx.load(files[part]), onnx.load(self.floats[part])
            names = [layer for owner, layer in kept if owner == part]
            onnx.save(mixed(integer, source, names), file)
            _tell(file, KEPT, [*(told(file, KEPT) or ()), *names])
        return found

    def check_finite(self, files: Files, scheme: str) -> None:
        """Run the files on a training image.

        Raises:
            RuntimeError: an output is not finite; it is named.
        """
        detector, size = self.context.detector, self.model.input_size
        parts = {part: loaded(detector, part, open_session(file, threads=1)) for part, file in files.items()}
        (image,) = training_images(self.model, self.context, 1)
        for name, raw in zip(detector.raw_names(), detector.run(parts, image, size), strict=True):
            if not np.isfinite(raw).all():
                raise RuntimeError(f"quantize: output {name!r} is not finite in {scheme}")

    def _new_files(self, kind: str) -> dict[str, Path]:
        number = next(self._numbers)
        return {part: self.folder / f"{number}.{kind}.{part}.onnx" for part in self.context.detector.part_names}


def told(file: Path, key: str) -> Any:
    """Return facts out of a file's metadata; None where there are none."""
    import onnx

    found = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
    return json.loads(found[key]) if key in found else None


def _tell(file: Path, key: str, facts: Any) -> None:
    """Write facts into a file's metadata, in place of those of the same key."""
    import onnx

    model = onnx.load(file)
    found = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, found | {key: json.dumps(facts)})
    onnx.save(model, file)
