"""What every family's decoding shares, in numpy and OpenCV: the best candidates, and non-maximum suppression."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from paretune.core.types import Detections, Floats, Thresholds


def best_candidates(scores: Floats, thresholds: Thresholds) -> NDArray[np.int64]:
    """Return where the best scores (N,) above the threshold are, best first."""
    candidates = np.flatnonzero(scores >= thresholds.score)
    if len(candidates) > thresholds.candidates:
        candidates = candidates[np.argpartition(-scores[candidates], thresholds.candidates)[: thresholds.candidates]]
    return candidates[np.argsort(-scores[candidates], kind="stable")]


def suppress(boxes: Floats, scores: Floats, labels: NDArray[np.int64], thresholds: Thresholds) -> NDArray[np.int64]:
    """Return the boxes (N, 4), best first, that no better, kept box of their class overlaps by more than the threshold.

    OpenCV's was the fastest of those compared (torchvision's; numpy, by blocks) on what a trained
    network gives, and keeps the same boxes as torchvision's; boxes without an area, which overlap nothing there and
    each other in OpenCV's, are kept as in torchvision's.
    """
    corner_and_size = boxes.copy()
    corner_and_size[:, 2:] -= boxes[:, :2]
    flat = (corner_and_size[:, 2:] <= 0).any(axis=1)
    if not flat.any():
        return _kept(corner_and_size, scores, labels, thresholds.iou)[: thresholds.detections]
    solid = np.flatnonzero(~flat)
    kept = solid[_kept(corner_and_size[solid], scores[solid], labels[solid], thresholds.iou)]
    return np.sort(np.concatenate([kept, np.flatnonzero(flat)]))[: thresholds.detections]


def _kept(boxes: Floats, scores: Floats, labels: NDArray[np.int64], iou: float) -> NDArray[np.int64]:
    """Return the boxes, corner and size, that OpenCV's suppression keeps."""
    if not len(boxes):
        return np.empty(0, np.int64)
    # arrays are taken as they are, though OpenCV's annotations speak of sequences only
    kept = cv2.dnn.NMSBoxesBatched(boxes, scores, labels, 0.0, iou)  # type: ignore[arg-type]
    return np.asarray(kept, np.int64).ravel()


def no_detections() -> Detections:
    """Return no detections."""
    return Detections(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int64))
