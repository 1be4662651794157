"""Parity of an artefact on its runtime with the network from which it was made.

An exported artefact may detect nothing. So it is run on real images, part by part, and its raw maps and boxes are
compared with those of the float network in eager torch. If they differ by more than float32's rounding, their mAP is
compared too, and an artefact whose mAP is certainly too low is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from paretune.core.types import Detections, Floats, Image, Split
from paretune.evaluation.matching import overlap
from paretune.networks.part_runner import in_eager
from paretune.runtimes.onnx_session import part_file
from paretune.runtimes.predictor import Predictor
from paretune.verification.layer_divergence import diverging_in_file, diverging_in_network, relative_error

if TYPE_CHECKING:
    from torch import nn

IMAGES = 4
"""Images on which outputs and boxes are compared."""
JUDGED = 100
"""Images on which map is compared: few enough for a slow network, enough to show a loss of some points."""
KEPT, KEPT_IF_CHANGED = 0.9, 0.5
"""Least share of the network's map for an artefact in fewer bits than float32, and for a quantized or clustered one.

A correct artefact in bfloat16 loses some tenths of a point, one in INT8 some points, in bad cases ten or twenty."""
TOLERANCES = {"fp32": 1e-3, "fp16": 0.05, "bf16": 0.5}
"""Precision of a runtime → largest error of an output relative to its largest value.

bfloat16 has 8 bits, so that its errors grow to tenths over dozens of layers; a larger error means wrong results."""
SAME_IOU, SAME_SCORE = 0.9, 0.05
"""Least IoU and largest difference of scores for two boxes of a class that count as the same."""


@dataclass(frozen=True)
class Parity:
    """The differences between an artefact and its network."""

    errors: Mapping[str, float]
    """Output of a part → largest error over the images, as a share of its largest value."""
    boxes: float | None
    """Share of the boxes that both detect; None if neither detects any."""
    map: float | None = None
    """The artefact's map minus the network's, on the first images of the split.

    None if the images show no objects, or the outputs are enough, since both compute in float32."""

    @property
    def error(self) -> float:
        """Return the largest error of all outputs."""
        return max(self.errors.values())

    @property
    def worst(self) -> str:
        """Return the output with the largest error."""
        return max(self.errors, key=lambda name: self.errors[name])

    def __str__(self) -> str:
        """Return the parity as a line."""
        boxes = "no box in either" if self.boxes is None else f"{self.boxes:.0%} of the boxes found again"
        change = "" if self.map is None else f", map {self.map:+.3f}"
        return f"parity with the float network: largest error {self.error:.1e}, {boxes}{change}"

    def metrics(self) -> dict[str, float | None]:
        """Return the figures for the record of a trial."""
        return {"parity_error": self.error, "parity_boxes": self.boxes, "parity_map": self.map}


def compare(predictor: Predictor, network: nn.Module, images: Sequence[Image]) -> Parity:
    """Return the parity of an artefact with a network on some images.

    The input of each part is the output of the part before it in eager, since a tiny difference may change the choice
    of regions between two parts.

    Args:
        predictor: the loaded artefact.
        network: the float network, in eval mode on the CPU.
        images: images, each (H, W, 3) uint8 RGB.
    """
    detections = [predictor(image) for image in images]
    return _compared(predictor, network, images, detections)[0]


def _compared(
    predictor: Predictor, network: nn.Module, images: Sequence[Image], found: Sequence[Detections]
) -> tuple[Parity, list[Detections]]:
    """Return the parity, and the network's detections, from the artefact's detections in the images."""
    errors: dict[str, float] = {}
    same = every = 0
    expected = []
    for image, theirs in zip(images, found, strict=True):
        batch, placement = predictor.preprocess(image)
        raw, calls = _watched(predictor, network, batch)
        for part, given, outputs in calls:
            names = predictor.detector.part_outputs(part)
            for name, one, other in zip(names, outputs, predictor.core.parts[part](given), strict=True):
                errors[name] = max(errors.get(name, 0.0), relative_error(one, other))
        ours = predictor.postprocess(raw, placement)
        expected.append(ours)
        same += 2 * found_again(ours, theirs)
        every += _sure(ours) + _sure(theirs)
    return Parity(errors, same / every if every else None), expected


def found_again(ours: Detections, theirs: Detections) -> int:
    """Return the number of our boxes that are among theirs, with the same class, place and score.

    Boxes with a score of at most ``SAME_SCORE`` are left out, since the allowed difference may remove them.
    """
    overlaps = overlap(ours.boxes, theirs.boxes, np.zeros(len(theirs.boxes), bool))
    far = (np.abs(ours.scores[:, None] - theirs.scores) > SAME_SCORE) | (ours.labels[:, None] != theirs.labels)
    overlaps = np.where(far, 0, overlaps)[: _sure(ours), : _sure(theirs)]
    count = 0
    for row in overlaps:
        if len(row) and row.max() >= SAME_IOU:
            overlaps[:, row.argmax()] = 0
            count += 1
    return count


def _sure(found: Detections) -> int:
    """Return the number of boxes with a score above ``SAME_SCORE``."""
    return int((found.scores > SAME_SCORE).sum())


def verify(
    predictor: Predictor,
    network: nn.Module,
    split: Split,
    *,
    changed: bool,
    found: Sequence[Detections] | None = None,
) -> Parity:
    """Return the parity of an artefact on its runtime with its network, on the first images of a split.

    Args:
        predictor: the loaded artefact.
        network: the float network, in eval mode on the CPU.
        split: images like those of the training.
        changed: whether the artefact was changed on purpose, by quantizing or clustering, so that outputs may differ.
        found: the artefact's detections in each image of the split, if they are known.

    Raises:
        RuntimeError: the artefact does not compute what the network does; the message names the output with the largest
            error and the first layer that differs, or both maps.
    """
    count = min(JUDGED, len(split))
    images = [split.image(index) for index in range(min(IMAGES, count))]
    ours = list(found[:count]) if found is not None else [predictor(image) for image in images]
    parity, theirs = _compared(predictor, network, images, ours[: len(images)])
    check(predictor, network, images, parity, changed=changed)
    kept = _share_kept(predictor, changed=changed)
    if kept is None:
        return parity
    from paretune.training.validation import detect

    ours += [predictor(split.image(index)) for index in range(len(ours), count)]
    size, others = predictor.artefact.input_size, range(len(theirs), count)
    thresholds = predictor.artefact.thresholds
    theirs += detect(network, predictor.detector, split, size, others, thresholds=thresholds)
    return replace(parity, map=_change(ours, theirs, split, parity, kept, thresholds.limit))


def _share_kept(predictor: Predictor, *, changed: bool) -> float | None:
    """Return the share of the network's map that an artefact has to keep; None if its outputs are enough."""
    precision = predictor.facts["precision"]
    if changed or precision not in TOLERANCES:
        return KEPT_IF_CHANGED
    return None if precision == "fp32" else KEPT


def _change(
    ours: Sequence[Detections], theirs: Sequence[Detections], split: Split, parity: Parity, kept: float, limit: int
) -> float | None:
    """Return our map minus theirs on the first images of a split; None if these show no objects.

    Raises:
        RuntimeError: the upper end of our map's interval is below the share of theirs that has to be kept.
    """
    from paretune.evaluation.map_bootstrap import differences_of, draw

    truth, classes = [split.annotations(index) for index in range(len(ours))], len(split.classes)
    one, other = (draw(detections, truth, classes, limit=limit) for detections in (ours, theirs))
    change = differences_of(one, other)["map"]
    if change is None:
        return None
    _, middle, high = change
    whole = float(other.whole.mean())
    if high < (kept - 1) * whole:
        raise RuntimeError(
            f"parity: on the first {len(ours)} images the network's map is {whole:.3f} and the "
            f"artefact's {whole + middle:.3f}, at 95 % at most {whole + high:.3f}; {kept:.0%} of the first has to be "
            f"left; output {parity.worst!r} is furthest from eager's, by {parity.error:.2e} of its largest value"
        )
    return middle


def check(
    predictor: Predictor, network: nn.Module, images: Sequence[Image], found: Parity, *, changed: bool = False
) -> None:
    """Raise an error if an artefact's outputs differ by more than its runtime's precision explains.

    Raises:
        RuntimeError: an output has another shape, NaN, or too large an error.
    """
    kind = str(predictor.facts["precision"])
    tolerance = math.inf if changed else TOLERANCES.get(kind, math.inf)
    if found.error <= tolerance and math.isfinite(found.error):
        return
    worst = found.worst
    if not math.isfinite(found.error):
        raise RuntimeError(f"parity: output {worst!r} has another shape than eager's, or values that are no numbers")
    where = diverging_layer(predictor, network, images, tolerance)
    raise RuntimeError(
        f"parity: output {worst!r} differs from eager by {found.errors[worst]:.2e} of its largest value, and {kind} "
        f"allows {tolerance:g}; {where}"
    )


def diverging_layer(predictor: Predictor, network: nn.Module, images: Sequence[Image], tolerance: float) -> str:
    """Return a clause with the first layer in which an artefact differs from the network, or with the runtime."""
    modules = predictor.detector.part_modules(network)
    names = {id(module): name for name, module in network.named_modules()}
    if predictor.artefact.format not in {"torch", "onnx"}:
        return f"layers of a {predictor.artefact.format} model are not compared one by one"
    for image in images:
        _, calls = _watched(predictor, network, predictor.preprocess(image)[0])
        for part, given, _ in calls:
            layer = _layer(predictor, modules[part], part, given, tolerance)
            if layer is not None:
                return f"first diverging layer: {names[id(modules[part].get_submodule(layer))]}"
    return f"every layer of the files agrees: {predictor.facts['runtime']} computes something else"


def _layer(predictor: Predictor, module: nn.Module, part: str, given: Floats, tolerance: float) -> str | None:
    artefact, detector = predictor.artefact, predictor.detector
    if artefact.format == "onnx":
        return diverging_in_file(module, artefact.file(part_file(part)), given, detector.part_input(part), tolerance)
    from paretune.networks.network_files import load_network

    saved = load_network(detector, len(artefact.classes), artefact.folder)
    return diverging_in_network(module, detector.part_modules(saved)[part], given, tolerance)


def _watched(
    predictor: Predictor, network: nn.Module, batch: Floats
) -> tuple[tuple[Floats, ...], list[tuple[str, Floats, tuple[Floats, ...]]]]:
    """Run a network part by part in eager; returns the raw maps, and (part, its input, its outputs) of each call."""
    calls: list[tuple[str, Floats, tuple[Floats, ...]]] = []

    def watched(name: str, part: Callable[[Floats], tuple[Floats, ...]]) -> Callable[[Floats], tuple[Floats, ...]]:
        def run(given: Floats) -> tuple[Floats, ...]:
            outputs = part(given)
            calls.append((name, given, outputs))
            return outputs

        return run

    modules = predictor.detector.part_modules(network)
    parts = {name: watched(name, in_eager(module)) for name, module in modules.items()}
    return predictor.detector.run(parts, batch, predictor.artefact.input_size), calls
