"""Parity: does an artefact, on its runtime, still say what the network says that it was made from?

An export that succeeded may find nothing. So the artefact is run on real images, part by part: the raw maps are
compared with those of the float network in eager torch, and the boxes that are made of them. Where more than float32's
rounding lies between the two, so is how many objects they find: an artefact that surely finds too few is refused.
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
"""Images on which outputs and boxes are compared,"""
JUDGED = 100
"""and on which boxes are compared with the truth: few enough for a slow network, enough to see a loss of points."""
KEPT, KEPT_IF_CHANGED = 0.9, 0.5
"""Share of the network's map that has to be left: in fewer bits than float32, and quantized or clustered. Honest
bfloat16 loses some tenths of a point, and int8 some points, in bad cases ten or twenty; half is not the network's."""
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
    """Its map less the network's, on the first images of the split; None: they show no objects, or the outputs alone
    tell enough, since both compute in float32."""

    @property
    def error(self) -> float:
        """Return the largest error of all outputs."""
        return max(self.errors.values())

    @property
    def worst(self) -> str:
        """Return the output with the largest error."""
        return max(self.errors, key=lambda name: self.errors[name])

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
    found = [predictor(image) for image in images]
    return _compared(predictor, network, images, found)[0]


def _compared(
    predictor: Predictor, network: nn.Module, images: Sequence[Image], found: Sequence[Detections]
) -> tuple[Parity, list[Detections]]:
    """Return the same, and what the network finds in the images, where it is known what the artefact finds."""
    errors: dict[str, float] = {}
    same = every = 0
    wanted = []
    for image, theirs in zip(images, found, strict=True):
        batch, placement = predictor.preprocess(image)
        raw, calls = _watched(predictor, network, batch)
        for part, given, outputs in calls:
            names = predictor.detector.part_outputs(part)
            for name, one, other in zip(names, outputs, predictor.core.parts[part](given), strict=True):
                errors[name] = max(errors.get(name, 0.0), relative_error(one, other))
        ours = predictor.postprocess(raw, placement)
        wanted.append(ours)
        same += 2 * found_again(ours, theirs)
        every += _sure(ours) + _sure(theirs)
    return Parity(errors, same / every if every else None), wanted


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


def verify(
    predictor: Predictor,
    network: nn.Module,
    split: Split,
    *,
    changed: bool,
    found: Sequence[Detections] | None = None,
) -> Parity:
    """Compare an artefact, loaded on its runtime, with what it was made from, on the first images of a split.

    Args:
        predictor: the loaded artefact.
        network: float, in eval mode on the CPU.
        split: images of the kind that it was trained on.
        changed: whether it differs from the network by intent.
        found: what the artefact finds in each image of the split, where that is known already.

    Raises:
        RuntimeError: it is not that network: names the output that is furthest away, and the first layer that
            differs, or what both find of the objects. One changed by intent may have other outputs.
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
    """Return the share of the network's map that an artefact has to keep; None where its outputs tell enough."""
    precision = predictor.facts["precision"]
    if changed or precision not in TOLERANCES:
        return KEPT_IF_CHANGED
    return None if precision == "fp32" else KEPT


def _change(
    ours: Sequence[Detections], theirs: Sequence[Detections], split: Split, parity: Parity, kept: float, limit: int
) -> float | None:
    """Return our map less theirs, on the first images of a split; None where these show no objects.

    Raises:
        RuntimeError: less than a share of theirs is kept, whichever images of the kind are taken.
    """
    from paretune.evaluation.map_bootstrap import differences_of, draw

    truth, classes = [split.annotations(index) for index in range(len(ours))], len(split.classes)
    one, other = (draw(found, truth, classes, limit=limit) for found in (ours, theirs))
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
    """Refuse what is further away than its runtime's precision explains.

    Raises:
        RuntimeError: as above.
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
    """Return a sentence on where an artefact departs from the network: the layer, or the runtime."""
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
