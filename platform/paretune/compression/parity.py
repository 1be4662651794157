"""Parity: does an artefact, on its runtime, still say what the network says that it was made from?

An export that succeeded may find nothing. So the artefact is run on real images, part by part: the raw maps are
compared with those of the float network in eager torch, the boxes that are made of them, and how right these are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from paretune.compression.diverging import diverging_in_file, diverging_in_network, relative_error
from paretune.compression.export import in_eager
from paretune.evaluation.matching import overlap
from paretune.runtimes.onnxsession import part_file
from paretune.runtimes.predictor import Predictor
from paretune.structures import Detections, Floats, Image, Split

if TYPE_CHECKING:
    from torch import nn

IMAGES = 4
"""Images on which outputs and boxes are compared,"""
JUDGED = 100
"""and on which boxes are compared with the truth: few enough for a slow network, enough to see a loss of points."""
TOLERANCES = {"fp32": 1e-3, "fp16": 0.05, "bf16": 0.5}
"""Largest error of an output, relative to its largest value, by what a runtime computes in. bfloat16 has 8 bits: in
dozens of layers its errors grow to tenths, and only what is wrong from the bottom up is beyond that."""
SAME_IOU, SAME_SCORE = 0.9, 0.05
"""A box is found again by one of its class that overlaps it at least so much, with a score no further away."""


@dataclass(frozen=True)
class Parity:
    """How near an artefact is to the network it was made from."""

    errors: Mapping[str, float]
    """Output of a part → largest error over the images, in shares of its largest value."""
    boxes: float | None
    """Share of the boxes that both find; None: neither finds any."""
    map: float | None = None
    """Its map less the network's, on the first images of the split; None: they show no objects, or it was not asked."""

    @property
    def error(self) -> float:
        """Return the largest error of all outputs."""
        return max(self.errors.values())

    def __str__(self) -> str:
        """Say it in a line."""
        found = "no box in either" if self.boxes is None else f"{self.boxes:.0%} of the boxes found again"
        told = "" if self.map is None else f", map {self.map:+.3f}"
        return f"parity with the float network: largest error {self.error:.1e}, {found}{told}"

    def metrics(self) -> dict[str, float | None]:
        """Return the numbers for the record of a trial."""
        return {"parity_error": self.error, "parity_boxes": self.boxes, "parity_map": self.map}


def compare(predictor: Predictor, network: nn.Module, images: Sequence[Image]) -> Parity:
    """Compare an artefact with a network on images.

    Each part is given what the part before it makes in eager: the regions between two parts are chosen, and the
    smallest difference may choose others.

    Args:
        predictor: the loaded artefact.
        network: float, in eval mode on the CPU.
        images: each (H, W, 3) uint8 RGB.
    """
    errors: dict[str, float] = {}
    same = every = 0
    for image in images:
        batch, placement = predictor.preprocess(image)
        raw, calls = _watched(predictor, network, batch)
        for part, given, wanted in calls:
            outputs = predictor.detector.part_outputs(part)
            for name, one, other in zip(outputs, wanted, predictor.core.parts[part](given), strict=True):
                errors[name] = max(errors.get(name, 0.0), relative_error(one, other))
        ours, theirs = (predictor.postprocess(found, placement) for found in (raw, predictor.core(batch)))
        same += 2 * found_again(ours, theirs)
        every += _sure(ours) + _sure(theirs)
    return Parity(errors, same / every if every else None)


def found_again(ours: Detections, theirs: Detections) -> int:
    """Return how many of our boxes are among theirs: of the same class, place and score; each counts once.

    Boxes whose score is no more than the allowed difference do not count: they may be gone.
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
    """Return how many boxes, best first, count."""
    return int((found.scores > SAME_SCORE).sum())


def verify(predictor: Predictor, network: nn.Module, split: Split, *, changed: bool) -> Parity:
    """Compare an artefact, loaded on its runtime, with what it was made from, on the first images of a split.

    The map that it gains or loses is told, not judged: that is for whoever asked for the artefact.

    Args:
        predictor: the loaded artefact.
        network: float, in eval mode on the CPU.
        split: images of the kind that it was trained on.
        changed: whether it differs from the network by intent.

    Raises:
        RuntimeError: it is not that network: names the output that is furthest away, and the first layer that
            differs. One changed by intent must only give numbers.
    """
    images = [split.image(index) for index in range(min(IMAGES, len(split)))]
    found = compare(predictor, network, images)
    check(predictor, network, images, found, changed=changed)
    return replace(found, map=_map_gained(predictor, network, split))


def _map_gained(predictor: Predictor, network: nn.Module, split: Split) -> float | None:
    """Return the artefact's map less the network's, on the same images."""
    from paretune.evaluation.accuracy import accuracy_of
    from paretune.training.validating import detect

    indices = range(min(JUDGED, len(split)))
    truth = [split.annotations(index) for index in indices]
    ours = [predictor(split.image(index)) for index in indices]
    theirs = detect(network, predictor.detector, split, predictor.artefact.input_size, indices)
    one, other = (accuracy_of(found, truth, split.classes).map for found in (ours, theirs))
    return None if one is None or other is None else one - other


def check(
    predictor: Predictor, network: nn.Module, images: Sequence[Image], found: Parity, *, changed: bool = False
) -> None:
    """Refuse what is further away than its runtime's precision explains.

    Raises:
        RuntimeError: as above.
    """
    kind = str(predictor.facts["precision"])
    tolerance = math.inf if changed else TOLERANCES.get(kind, math.inf)
    if found.error <= tolerance and math.isfinite(found.error):
        return
    worst = max(found.errors, key=lambda name: found.errors[name])
    if not math.isfinite(found.error):
        raise RuntimeError(f"parity: output {worst!r} has another shape than eager's, or values that are no numbers")
    where = diverging_layer(predictor, network, images, tolerance)
    raise RuntimeError(
        f"parity: output {worst!r} differs from eager by {found.errors[worst]:.2e} of its largest value, and {kind} "
        f"allows {tolerance:g}; {where}"
    )


def diverging_layer(predictor: Predictor, network: nn.Module, images: Sequence[Image], tolerance: float) -> str:
    """Return a sentence on where an artefact departs from the network: the layer, or the runtime."""
    modules = predictor.detector.part_modules(network)
    names = {id(module): name for name, module in network.named_modules()}
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
    from paretune.detectors.structure import load_network

    saved = load_network(detector, len(artefact.classes), artefact.folder)
    return diverging_in_network(module, detector.part_modules(saved)[part], given, tolerance)


def _watched(
    predictor: Predictor, network: nn.Module, batch: Floats
) -> tuple[tuple[Floats, ...], list[tuple[str, Floats, tuple[Floats, ...]]]]:
    """Run a network part by part in eager; return the raw maps, and (part, its input, its outputs) of each."""
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
