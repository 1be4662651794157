"""Calibration: the choice of training images for ranges, and the network inputs that a quantizer reads from them."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from paretune.compression.base import Context
from paretune.core.errors import UserError
from paretune.core.model import Model
from paretune.core.types import Floats, Image, Split
from paretune.detectors.base import Detector
from paretune.networks.part_runner import part_inputs
from paretune.runtimes.onnx_session import OnnxPart, onnx_part, open_session

CHUNK = 8
"""Number of inputs that ONNX Runtime measures ranges on at once."""


def calibration_images(split: Split, count: int, seed: int) -> list[int]:
    """Return the indices of images drawn for calibration.

    Raises:
        UserError: every image has one colour, which gives no ranges.
    """
    indices = stratified(split, count, seed)
    if all(_is_plain(split.image(index)) for index in indices):
        raise UserError("quantize: every calibration image is of one colour; activation ranges need photographs")
    return indices


def calibration_facts(
    context: Context, indices: Sequence[int], method: str, tool: str, weight_bits: int
) -> dict[str, Any]:
    """Return the facts that reproduce the ranges of an INT8 network: the calibration images and the method."""
    images = [context.data.splits["train"].ids[index] for index in indices]
    return {"images": images, "seed": context.seed, "method": method, "tool": tool, "weight_bits": weight_bits}


def stratified(split: Split, count: int, seed: int) -> list[int]:
    """Return the indices of drawn images in which every class occurs: one of each class in turn, rare classes first.

    Args:
        split: images with annotations; images without objects are drawn last.
        count: number of images; all of them if there are fewer. No class is missed if it is at least their number.
        seed: determines the draw.
    """
    order = [int(index) for index in np.random.default_rng(seed).permutation(len(split))]
    holders: dict[int, list[int]] = {}
    for index in order:
        truth = split.annotations(index)
        for label in np.unique(truth.labels[~truth.ignore]):
            holders.setdefault(int(label), []).append(index)
    rarest = sorted(holders, key=lambda label: (len(holders[label]), label))
    turns = deque(iter(holders[label]) for label in rarest)
    chosen: dict[int, None] = {}
    while turns and len(chosen) < count:
        images = turns.popleft()
        fresh = next((index for index in images if index not in chosen), None)
        if fresh is not None:
            chosen[fresh] = None
            turns.append(images)
    others = [index for index in order if index not in chosen]
    return [*chosen, *itertools.islice(others, count - len(chosen))]


def _is_plain(image: Image) -> bool:
    """Return whether every pixel has the same colour."""
    return bool((image == image[:1, :1]).all())


@dataclass
class CalibrationInputs:
    """Inputs of one part of a detector, computed from calibration images by the parts before it, one at a time."""

    split: Split
    indices: Sequence[int]
    detector: Detector
    model: Model
    part: str
    parts: dict[str, OnnxPart] = field(default_factory=dict)

    def __call__(self, number: int) -> dict[str, Floats]:
        """Return the input for the calibration image of this number, by the input's name."""
        detector, size = self.detector, self.model.input_size
        planes, _ = detector.preprocess(self.split.image(self.indices[number]), size)
        batch, name = planes[None], detector.part_input(self.part)
        if self.part == detector.part_names[0]:
            return {name: batch}
        if not self.parts:
            files = zip(detector.part_names, self.model.files, strict=True)
            self.parts = {part: onnx_part(detector, part, open_session(file, threads=1)) for part, file in files}
        return {name: part_inputs(detector, self.parts, [batch], self.model)[self.part][0]}


@dataclass
class CalibrationReader:
    """Reader of calibration inputs for ONNX Runtime, which holds one input in memory at a time."""

    feed: CalibrationInputs
    next: int = 0
    end: int | None = None

    def __len__(self) -> int:
        """Return the number of images, rounded up to whole chunks as ONNX Runtime requires."""
        return -(-len(self.feed.indices) // CHUNK) * CHUNK

    def set_range(self, start_index: int, end_index: int) -> None:
        """Restrict the reader to a range of images."""
        self.next, self.end = start_index, end_index

    def get_next(self) -> dict[str, Floats] | None:
        """Return the next input by its name; None after the last."""
        count = len(self.feed.indices)
        if self.next >= (count if self.end is None else min(self.end, count)):
            return None
        self.next += 1
        return self.feed(self.next - 1)
