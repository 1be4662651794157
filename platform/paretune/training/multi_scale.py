"""Input sizes of multi-scale training; imports no torch, since ``paretune check`` reads them.

As in YOLOX's training (arXiv:2107.08430, section 2.1), a batch is resized to a size drawn from multiples of 32.
"""

from __future__ import annotations

import numpy as np

from paretune.core.types import InputSize
from paretune.detectors.base import Detector

MULTIPLE = 32
_STREAM = 0x5CA1E
"""Number that separates these draws from those of the loader, which have the same seed."""


def sizes_around(size: InputSize, share: float) -> tuple[InputSize, ...]:
    """Return a size and the multiples of 32 from 1 - share to 1 + share times it, in its proportions."""
    if not share:
        return (size,)
    low, high = size.width * (1 - share), size.width * (1 + share)
    widths = [w for w in range(MULTIPLE, int(high) + 1, MULTIPLE) if w >= low]
    sizes = {InputSize(w, max(MULTIPLE, round(w * size.height / size.width / MULTIPLE) * MULTIPLE)) for w in widths}
    return tuple(sorted(sizes | {size}))


def multi_scale_unsupported_reason(detector: Detector, size: InputSize, share: float) -> str | None:
    """Return why a detector cannot be trained at these sizes, with a remedy, or None."""
    if not share:
        return None
    sizes = sizes_around(size, share)
    if len(sizes) == 1:
        return f"there is no other multiple of {MULTIPLE} that near to {size}; a larger share, or 0"
    for other in sizes:
        if problem := detector.size_unsupported_reason(other):
            return f"{detector.name} would be trained at {other} too, but {problem}"
    return None


def drawn(sizes: tuple[InputSize, ...], seed: int, step: int) -> InputSize:
    """Return the size of one step (from 0), equal on every worker and after a resume."""
    return sizes[int(np.random.default_rng([seed, step, _STREAM]).integers(len(sizes)))]
