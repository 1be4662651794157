"""A registered model of MLflow: loads an artefact by its runtime, as ``mlflow.pyfunc`` asks for.

The model carries this package's code, so that its environment needs numpy, OpenCV, the runtime and MLflow alone. This
module imports neither MLflow nor anything that the artefact's runtime does not need.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paretune.core.target import Target
from paretune.runtimes.predictor import Predictor, load_predictor

ARTEFACT, TARGET = "artefact", "target.json"
"""Folder of the artefact, and file of the target that it was chosen for, in the model's data."""
COLUMNS = ("image", "label", "score", "x1", "y1", "x2", "y2")
"""Columns of a prediction: number of the image, class, confidence, corners of the box in pixels."""


class DetectorModel:
    """A detector that predicts tables.

    Args:
        predictor: of the artefact.
    """

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    def predict(self, images: NDArray[np.uint8], params: dict[str, Any] | None = None) -> Any:  # noqa: ARG002 - MLflow passes it
        """Return the detections in images as a table with ``COLUMNS``, the best first in each image.

        Args:
            images: (N, H, W, 3) or (H, W, 3) uint8 RGB.
            params: none are known.

        Raises:
            ValueError: no such array.
        """
        import pandas as pd  # type: ignore[import-untyped]

        array = np.asarray(images)
        array = array[None] if array.ndim == 3 else array
        if array.ndim != 4 or array.shape[-1] != 3 or array.dtype != np.uint8:
            raise ValueError(f"images: {array.shape} {array.dtype}; (N, H, W, 3) or (H, W, 3) uint8 RGB is expected")
        names, rows = self.predictor.artefact.classes, list[tuple[Any, ...]]()
        for number, image in enumerate(array):
            found = self.predictor(np.ascontiguousarray(image))
            for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True):
                rows.append((number, names[int(label)], float(score), *map(float, box)))
        return pd.DataFrame(rows, columns=list(COLUMNS))


def _load_pyfunc(data: str) -> DetectorModel:
    """Return the model in a folder; MLflow calls it by this name."""
    folder = Path(data)
    target = Target(**json.loads((folder / TARGET).read_text()))
    return DetectorModel(load_predictor(folder / ARTEFACT, target))
