"""OpenCV's own networks as a runtime."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np

from paretune.core.model import Format
from paretune.core.spec import parse_plugin
from paretune.core.target import Target
from paretune.core.types import Floats
from paretune.detectors import DETECTORS
from paretune.detectors.base import Detector
from paretune.runtimes.base import LoadedNetworks, NetworkRunner, Runtime
from paretune.runtimes.onnx_session import part_file
from paretune.storage.artefact import Artefact


class OpenCv(Runtime):
    """The exported file in `cv2.dnn`, in float on the CPU."""

    name: ClassVar[str] = "opencv"
    accepts: ClassVar[Format] = "onnx"
    devices: ClassVar[tuple[str, ...]] = ("cpu",)
    libraries: ClassVar[tuple[str, ...]] = ("cv2",)

    def scheme_unsupported_reason(self, scheme: str, target: Target) -> str | None:
        """Return that integers are computed in float."""
        return f"opencv computes {scheme} in float"

    def load(self, artefact: Artefact, target: Target) -> NetworkRunner:
        """Read every part, and set the threads of the process.

        Raises:
            RuntimeError: it does not run on the target, or does not take the number of threads.
        """
        if problem := self.unsupported_reason(target):
            raise RuntimeError(problem)
        import cv2

        cv2.setNumThreads(target.threads)
        if cv2.getNumThreads() != target.threads:
            raise RuntimeError(f"OpenCV runs {cv2.getNumThreads()} threads, not {target.threads}")
        detector: Detector = parse_plugin(artefact.detector, DETECTORS)
        parts = {name: _part(artefact, detector, name) for name in detector.part_names}
        facts: dict[str, str | int] = {
            "runtime": f"opencv {cv2.__version__}",
            "device": "cpu",
            "threads": target.threads,
            "precision": "fp32",
        }
        return LoadedNetworks(detector, parts, artefact.input_size, facts)


def _part(artefact: Artefact, detector: Detector, name: str) -> Callable[[Floats], tuple[Floats, ...]]:
    import cv2

    network = cv2.dnn.readNetFromONNX(str(artefact.file(part_file(name))))
    outputs = list(detector.part_outputs(name))

    def run(batch: Floats) -> tuple[Floats, ...]:
        network.setInput(batch)
        return tuple(np.array(raw, np.float32) for raw in network.forward(outputs))  # copies: its buffers are reused

    return run
