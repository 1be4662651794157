"""Counting what a dataset holds."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from paretune.structures import Split


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
