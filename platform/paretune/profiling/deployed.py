"""What a deployment does besides: it decodes image files, and wants only boxes it can be sure of.

Latency is taken from image arrays to all the boxes that accuracy is evaluated on, most of which nobody looks at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from paretune.device_lock import alone_on
from paretune.profiling.images import saved_images
from paretune.profiling.samples import P50_SAMPLES, Protocol
from paretune.profiling.supervisor import LOADER, Worker
from paretune.structures import SURE, Image
from paretune.target import Target

INFERENCES = 130
"""Enough for a 95th percentile; a slow artefact runs as many as the protocol's ``cap`` leaves time for."""
FIGURES = ("decode_ms_p50", "postprocess_ms_p50_deployed")


@dataclass(frozen=True)
class Deployed:
    """Two stages of a deployment, each (N, 2): wall and CPU time of every inference in ms."""

    decode: NDArray[np.float64]
    """JPEG file in memory → RGB array."""
    postprocess: NDArray[np.float64]
    """Raw maps → boxes of at least ``score``."""
    score: float

    def metrics(self) -> dict[str, float]:
        """Return their medians by the names they are told under; of too few inferences there are none."""
        if len(self.decode) < P50_SAMPLES:
            return {}
        medians = (float(np.median(times[:, 0])) for times in (self.decode, self.postprocess))
        return dict(zip(FIGURES, medians, strict=True))

    @property
    def reasons(self) -> dict[str, str]:
        """Say for each figure that ``metrics`` lacks why it does."""
        few = f"{len(self.decode)} samples, {P50_SAMPLES} are needed"
        return dict.fromkeys((name for name in FIGURES if name not in self.metrics()), few)


def deployed(
    artefact: Path,
    images: Sequence[Image] | Path,
    target: Target,
    protocol: Protocol = Protocol(),  # noqa: B008 - frozen
    *,
    loader: str = LOADER,
) -> Deployed:
    """Time both stages in a fresh process, alone on the target's device.

    Args:
        artefact: its folder.
        images: RGB uint8, or a file of ``images.saved_images``; they are written as JPEG (quality 90) before
            they are decoded.
        target: device and threads.
        protocol: warm-up, cap and limits.
        loader: as in ``latency.measure``.

    Raises:
        UserError: the artefact is damaged, or the machine has fewer cores than the target's threads.
        RuntimeError: the process died or hung.
    """
    with (
        alone_on(target.device),
        saved_images(images) as file,
        Worker(artefact, file, target, protocol, loader) as worker,
    ):
        worker.warm_up()
        found = worker.deploy(SURE, INFERENCES)
    decode, postprocess = (np.array(found[stage], np.float64) / 1e6 for stage in ("decode", "postprocess"))
    return Deployed(decode, postprocess, SURE)
