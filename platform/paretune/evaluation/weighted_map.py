"""Average precision of images that count several times or not at all: many such choices of the images at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paretune.evaluation.detection_outcomes import DetectionOutcomes

RECALLS = np.linspace(0, 1, 101)
"""Recalls at which COCO reads the precision."""
_CELLS = 2**23
"""Most numbers in one array: 32 MiB of float32."""
_Counts = NDArray[Any]
"""Whole numbers as float32, which holds them up to 16 million, or as float64."""


@dataclass(frozen=True)
class _Stretches:
    """Detections by the next hit that comes after them, best score first."""

    image: NDArray[np.int64]
    """(N,) of each detection."""
    begins: NDArray[np.int64]
    """(S,) where the detections of one hit begin."""
    hit: NDArray[np.int64]
    """(S,) number of the hit."""

    def counted(self, counts: _Counts, hits: int) -> _Counts:
        """Return how often those of each hit count, (hits, D)."""
        hits_by_draw = np.zeros((hits, counts.shape[1]), counts.dtype)
        for hit, begin, end in zip(self.hit, self.begins, (*self.begins[1:], len(self.image)), strict=False):
            np.add.reduce(counts[self.image[begin:end]], axis=0, out=hits_by_draw[hit])
        return hits_by_draw

    @property
    def longest(self) -> int:
        """Return the most detections of one hit."""
        return int(np.diff(self.begins, append=len(self.image)).max(initial=0))


@dataclass(frozen=True)
class _Curve:
    """One class at one IoU, seen by its hits alone: between two of them precision only falls."""

    hits: NDArray[np.int64]
    """(H,) places among the hits at any IoU."""
    left: _Stretches
    """Detections on crowds, which do not count."""


@dataclass(frozen=True)
class RankedClass:
    """One class, as it is weighed."""

    image: NDArray[np.int64]
    """(H,) image of each detection that is a hit at any IoU, best score first."""
    found: _Stretches
    """All detections, up to the last hit and with it."""
    curves: tuple[_Curve, ...]
    """Curve at each IoU."""
    objects: NDArray[np.int64]
    """(images,) in each image."""


def ranked(matches: Sequence[DetectionOutcomes], ious: slice = slice(None)) -> list[RankedClass]:
    """Return what weighing needs of the classes that have objects, at some of COCO's thresholds."""
    return [_ranked(entry, ious) for entry in matches if entry.objects.any()]


def _ranked(entry: DetectionOutcomes, ious: slice) -> RankedClass:
    hit, ignored = entry.hit[ious], entry.ignored[ious]
    places = np.flatnonzero(hit.any(axis=0))
    curves = []
    for own, left in zip(hit[:, places], ignored, strict=True):
        hits = np.flatnonzero(own)
        curves.append(_Curve(hits, _stretches(entry.image, places[hits], np.flatnonzero(left))))
    every = np.arange(entry.hit.shape[1])
    return RankedClass(entry.image[places], _stretches(entry.image, places, every), tuple(curves), entry.objects)


def _stretches(image: NDArray[np.int64], hits: NDArray[np.int64], detections: NDArray[np.int64]) -> _Stretches:
    """Return some detections by the next of some hits, both as places among all detections."""
    following = np.searchsorted(hits, detections)
    detections, following = detections[following < len(hits)], following[following < len(hits)]
    hit, begins = np.unique(following, return_index=True)
    return _Stretches(image[detections], begins, hit)


def weighted_maps(classes: Sequence[RankedClass], weights: _Counts) -> NDArray[np.float64]:
    """Return the mean average precision at each IoU of images that count so many times.

    Where no two detections of a class in one image have the same score, it is pycocotools' number for a dataset in
    which each image stands so often.

    Args:
        classes: of ``ranked``, at least one.
        weights: (images, D) how often each image counts, for each of D choices; float32, or for more digits float64.

    Returns:
        (IoUs, D); NaN where the images chosen hold no objects.
    """
    draws = weights.shape[1]
    total, known = np.zeros((len(classes[0].curves), draws)), np.zeros(draws)
    for entry in classes:
        for part in _parts(draws, max(len(entry.image), entry.found.longest)):
            own = weights[:, part]
            objects = np.rint(entry.objects.astype(weights.dtype) @ own).astype(np.int64)
            known[part] += objects > 0
            total[:, part] += _average_precisions(entry, own, objects)
    with np.errstate(invalid="ignore"):
        return total / known


def _parts(draws: int, longest: int) -> Iterator[slice]:
    step = max(_CELLS // max(longest, 1), 16)
    for begin in range(0, draws, step):
        yield slice(begin, min(begin + step, draws))


def _average_precisions(entry: RankedClass, counts: _Counts, objects: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return one class's (IoUs, D); 0 where there are no objects."""
    precisions = np.zeros((len(entry.curves), counts.shape[1]))
    seen = _summed(entry.found.counted(counts, len(entry.image)))
    reached, own, draws = _points_reached(objects), counts[entry.image], np.arange(counts.shape[1])
    for iou, curve in enumerate(entry.curves):
        if not len(curve.hits):
            continue
        right = _summed(own[curve.hits])
        precision = seen[curve.hits]
        if len(curve.left.image):
            precision -= _summed(curve.left.counted(counts, len(curve.hits)))
        np.maximum(precision, 1, out=precision)
        np.divide(right, precision, out=precision)
        points = reached[right.astype(np.intp), draws]
        points[1:] -= points[:-1].copy()
        precisions[iou] = np.einsum("hd,hd->d", _falling(precision), points, dtype=np.float64) / len(RECALLS)
    return precisions


def _summed(rows: _Counts) -> _Counts:
    """Add up from the first row on, in place.

    Row by row: numpy's own sums along the first axis go down one column after the other, several times as slow.
    """
    before = rows[:1]
    for row in rows[1:, None]:
        np.add(row, before, out=row)
        before = row
    return rows


def _falling(rows: _Counts) -> _Counts:
    """Put the largest of a row and those after it into each, in place."""
    after = rows[-1:]
    for row in rows[-2::-1, None]:
        np.maximum(row, after, out=row)
        after = row
    return rows


def _points_reached(objects: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return how many of COCO's recalls so many hits reach: (hits, D), for 0 to the most objects of any choice."""
    there, most = np.maximum(objects, 1), int(objects.max())
    needed = np.ceil(RECALLS[:, None] * objects).astype(np.int64)
    needed -= (needed > 0) & ((needed - 1) / there >= RECALLS[:, None])  # as COCO compares them, rounded alike
    needed += needed / there < RECALLS[:, None]
    draws = len(objects)
    cells = np.minimum(needed, most + 1) * draws + np.arange(draws)
    return _summed(np.bincount(cells.ravel(), minlength=(most + 2) * draws).reshape(-1, draws).astype(np.float32))
