"""Counting what a dataset holds."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from paretune.core.types import Split, Thresholds


def facts(splits: Mapping[str, Split]) -> dict[str, int]:
    """Return ``images_<split>``, ``boxes_<split>`` and ``boxes_<split>_<class>``; entries to ignore are not counted."""
    counts: dict[str, int] = {}
    for name, split in splits.items():
        truth = [split.annotations(index) for index in range(len(split))]
        labels = np.concatenate([a.labels[~a.ignore] for a in truth]) if truth else np.zeros(0, np.int64)
        per_class = np.bincount(labels, minlength=len(split.classes))
        counts[f"images_{name}"] = len(split)
        counts[f"boxes_{name}"] = int(per_class.sum())
        counts |= {f"boxes_{name}_{c}": int(n) for c, n in zip(split.classes, per_class, strict=True)}
    return counts


def crowding(splits: Mapping[str, Split], thresholds: Thresholds) -> str | None:
    """Return how many images hold more objects than boxes are kept of them, and what keeps more; None where none do."""
    told, most = [], 0
    for name, split in splits.items():
        counts = [int((~split.annotations(index).ignore).sum()) for index in range(len(split))]
        crowded = sum(count > thresholds.detections for count in counts)
        most = max(most, *counts, 0)
        told += [f"{crowded} of {len(split)} images of {name}"] if crowded else []
    if not told:
        return None
    enough = -(-most // 100) * 100
    said = f"thresholds.detections is {thresholds.detections}, and {', '.join(told)} hold more objects, up to {most}"
    return f"{said}: --set thresholds.detections={enough} keeps more boxes"
