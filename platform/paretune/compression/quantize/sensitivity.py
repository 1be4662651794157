"""Which layers of a quantized detector do harm: each is quantized alone, and the boxes are compared.

One layer is quantized at a time, all others stay in float. The other way round, all but one, costs as much
and tells less: there the harm of one layer is the small difference of two large ones. Nothing is calibrated
for it: the ranges are those of the quantized file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from paretune.compression.quantize.calibration import loaded
from paretune.compression.quantize.float_layers import integer_layers, mixed
from paretune.core.types import Detections, Floats, InputSize, Thresholds
from paretune.detectors.base import Detector
from paretune.evaluation.matching import IOU, overlap
from paretune.runtimes.onnx_session import OnnxPart, open_session

IMAGES = 8
"""Calibration images that layers are compared on."""
SensitiveLayer = tuple[str, str]
"""A part of the detector, and the name of a layer's node with the weight in its file."""


def rank(
    detector: Detector,
    size: InputSize,
    floats: Mapping[str, Path],
    quantized: Mapping[str, Path],
    images: Sequence[Floats],
    *,
    exact: bool = False,
) -> list[SensitiveLayer]:
    """Return the integer layers of a quantized detector, those first that harm its boxes most.

    The harm is 1 - ``agreement`` with the detections of the float files, a mean over images; where it is equal,
    the relative error of the raw maps decides.

    Args:
        detector: whose files they are.
        size: of the input.
        floats: the file of each part, in float.
        quantized: the file of each part, made from those.
        images: network inputs, each (1, 3, H, W).
        exact: compute without this CPU's integer kernels, whose sums overflow where there is no VNNI: for files that
            will run elsewhere.
    """
    import onnx

    plain = {part: loaded(detector, part, open_session(file, threads=1)) for part, file in floats.items()}
    wanted = [detector.run(plain, image, size) for image in images]
    found: list[tuple[tuple[float, float], SensitiveLayer]] = []
    for part, file in quantized.items():
        integer, source = onnx.load(file), onnx.load(floats[part])
        names = integer_layers(integer.graph, source.graph).keys()
        for layer in names:
            alone = mixed(integer, source, names - {layer})
            parts = {**plain, part: _opened(detector, part, alone, file, exact=exact)}
            got = [detector.run(parts, image, size) for image in images]
            found.append((_harm(detector, size, wanted, got), (part, layer)))
    return [layer for _, layer in sorted(found, key=lambda entry: entry[0], reverse=True)]


def _opened(detector: Detector, part: str, model: Any, beside: Path, *, exact: bool) -> OnnxPart:
    """Open a model by way of a file that is gone again."""
    import onnx

    file = beside.with_suffix(".alone.onnx")
    try:
        onnx.save(model, file)
        return loaded(detector, part, open_session(file, threads=1, exact=exact))
    finally:
        file.unlink(missing_ok=True)


def _harm(
    detector: Detector, size: InputSize, wanted: Sequence[tuple[Floats, ...]], got: Sequence[tuple[Floats, ...]]
) -> tuple[float, float]:
    """Return 1 - agreement of the boxes, and the relative error of the raw maps: means over images."""
    boxes: list[float] = []
    maps: list[float] = []
    for one, other in zip(wanted, got, strict=True):
        pairs = zip(detector.decode(one, size, Thresholds()), detector.decode(other, size, Thresholds()), strict=True)
        boxes.extend(1 - agreement(a, b) for a, b in pairs)
        maps.extend(_error(a, b) for a, b in zip(one, other, strict=True))
    return round(float(np.mean(boxes)) if boxes else 0.0, 9), float(np.mean(maps))


def _error(wanted: Floats, got: Floats) -> float:
    return float(np.linalg.norm(wanted - got) / max(float(np.linalg.norm(wanted)), 1e-12))


def agreement(one: Detections, other: Detections) -> float:
    """Return how far two sets of detections of one image agree, from 0 to 1.

    Boxes of one class are matched, best score first, at IoU 0.5. Each pair counts its overlap times the lower of
    its two scores, twice, out of the sum of all scores on both sides; so a box of a low score weighs little,
    and a missing, an added, a moved and an unsure box all cost.
    """
    total = float(one.scores.sum() + other.scores.sum())
    if total == 0:
        return 1.0
    overlaps = overlap(one.boxes, other.boxes, np.zeros(len(other.boxes), bool))
    overlaps[(one.labels[:, None] != other.labels[None]) | (overlaps < IOU)] = 0
    shared = 0.0
    for row in np.flatnonzero(overlaps.any(axis=1)):
        column = int(overlaps[row].argmax())
        if overlaps[row, column] > 0:
            shared += float(overlaps[row, column]) * float(min(one.scores[row], other.scores[column]))
            overlaps[:, column] = 0
    return 2 * shared / total
