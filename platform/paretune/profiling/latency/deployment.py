"""Stages of a deployment that latency leaves out: decoding of image files, and postprocessing for confident boxes only.

Latency goes from image arrays to all boxes on which accuracy is evaluated, most of which a deployment drops.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from paretune.core.target import Target
from paretune.core.types import SURE, Image
from paretune.profiling.latency.samples import P50_SAMPLES, MeasurementProtocol
from paretune.profiling.latency.shared_images import saved_images
from paretune.profiling.latency.worker_client import LOADER, Worker
from paretune.system.device_lock import exclusive_device

INFERENCES = 130
"""Timed inferences: enough for a 95th percentile; a slow artefact runs fewer, within the protocol's ``cap``."""
FIGURES = ("decode_ms_p50", "postprocess_ms_p50_deployed")
TRANSFER = "transfer_ms_p50"


@dataclass(frozen=True)
class DeploymentLatency:
    """Stages of a deployment, each (N, 2) with wall and CPU time of every inference in ms."""

    decode: NDArray[np.float64]
    """Decoding of a JPEG file in memory."""
    postprocess: NDArray[np.float64]
    """Postprocessing of raw maps to boxes of at least ``score``."""
    score: float
    transfer: NDArray[np.float64] | str | None = None
    """Copy of the input to the GPU and of raw maps back, a part of the network's time, or why it is not known.

    None on a CPU."""

    @property
    def stages(self) -> dict[str, NDArray[np.float64]]:
        """Return the stages by the names of their medians."""
        times = dict(zip(FIGURES, (self.decode, self.postprocess), strict=True))
        return {**times, TRANSFER: self.transfer} if isinstance(self.transfer, np.ndarray) else times

    def metrics(self) -> dict[str, float]:
        """Return the medians of the stages; none if there are too few inferences."""
        if len(self.decode) < P50_SAMPLES:
            return {}
        return {name: float(np.median(times[:, 0])) for name, times in self.stages.items()}

    @property
    def reasons(self) -> dict[str, str]:
        """Return the reason for each figure that ``metrics`` lacks."""
        few = f"{len(self.decode)} samples, {P50_SAMPLES} are needed"
        carried = {TRANSFER: self.transfer} if isinstance(self.transfer, str) else {}
        return carried | dict.fromkeys((name for name in self.stages if name not in self.metrics()), few)


def deployed(
    artefact: Path,
    images: Sequence[Image] | Path,
    target: Target,
    protocol: MeasurementProtocol = MeasurementProtocol(),  # noqa: B008 - frozen
    *,
    loader: str = LOADER,
) -> DeploymentLatency:
    """Time the stages of a deployment in a fresh process, alone on the target's device.

    Args:
        artefact: folder of the artefact.
        images: RGB uint8 images, or a file of ``saved_images``; they are encoded as JPEG (quality 90) and then decoded.
        target: device and threads.
        protocol: warm-up and time limits.
        loader: ``module:function`` (folder, target) → predictor.

    Raises:
        UserError: the artefact is damaged, or the machine has fewer cores than the target's threads.
        RuntimeError: the process died or hung.
    """
    with (
        exclusive_device(target.device),
        saved_images(images) as file,
        Worker(artefact, file, target, protocol, loader) as worker,
    ):
        worker.warm_up()
        found = worker.deploy(SURE, INFERENCES)
    why = found.pop("no_transfer")
    times = {stage: np.array(rows, np.float64).reshape(-1, 2) / 1e6 for stage, rows in found.items()}
    transfer = None if target.device == "cpu" else why or times["transfer"]
    return DeploymentLatency(times["decode"], times["postprocess"], SURE, transfer)
