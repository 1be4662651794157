"""A detector of two convolutions that is never trained, and its network as ONNX, for tests of runtimes.

Measuring processes import this module: torch and onnx are imported inside functions only.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from paretune.core.types import Detections, Floats, Image, InputSize, Thresholds
from paretune.data.preprocess import Preprocess
from paretune.detectors.base import Detector

FAKE_ROW = "paretune.testing.fake_detector:FakeDetector"
"""Its row in the table of detectors, where a test puts it under the name ``fake``."""


class FakeDetector(Detector):
    """Two convolutions; one box of 4 numbers and 2 class logits for each cell of 4 x 4 pixels."""

    name: ClassVar[str] = "fake"

    @property
    def preprocess(self) -> Preprocess:
        """Stretch the image."""
        return Preprocess(resize="stretch")

    def size_unsupported_reason(self, size: InputSize) -> str | None:  # noqa: ARG002 - it takes any
        """Return None."""
        return None

    def build(self, num_classes: int) -> Any:
        """Build the network."""
        import torch
        from torch import nn

        class Network(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.stem = nn.Conv2d(3, 8, 4, stride=4)
                self.boxes = nn.Conv2d(8, 4, 1)
                self.scores = nn.Conv2d(8, num_classes, 1)

            def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
                features = torch.relu(self.stem(images))
                return self.boxes(features), self.scores(features)

        return Network()

    def raw_names(self) -> tuple[str, ...]:
        """Return the names of both maps."""
        return ("boxes", "scores")

    def decode(
        self,
        raw: Sequence[Floats],
        size: InputSize,  # noqa: ARG002 - boxes are in pixels already
        thresholds: Thresholds,
    ) -> list[Detections]:
        """Take the numbers of each cell as a box."""
        boxes, scores = (tensor.reshape(*tensor.shape[:2], -1).transpose(0, 2, 1) for tensor in raw)
        detections = []
        for box, score in zip(boxes, scores, strict=True):
            best = np.argsort(-score.max(axis=1), kind="stable")[: thresholds.detections]
            corners = np.sort(np.abs(box[best]).reshape(-1, 2, 2), axis=1).reshape(-1, 4)
            detections.append(Detections(corners, score[best].max(axis=1), score[best].argmax(axis=1)))
        return detections

    def loss(self, *_: Any, **__: Any) -> Any:
        """Fail: the detector is never trained."""
        raise AssertionError("never trained")

    def prune_view(self, network: Any) -> Any:
        """Return the network."""
        return network

    def protected(self, network: Any) -> list[Any]:
        """Return both predictors."""
        return [network.boxes, network.scores]


def write_fake_onnx(network: Any, size: InputSize, file: Path, outputs: Sequence[str] = ("scores", "boxes")) -> Path:
    """Write the fake network as ONNX by hand, its outputs in another order than the detector's."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = [numpy_helper.from_array(tensor.numpy(), name) for name, tensor in network.state_dict().items()]
    nodes = [
        helper.make_node("Conv", ["images", "stem.weight", "stem.bias"], ["a"], strides=[4, 4], name="stem"),
        helper.make_node("Relu", ["a"], ["b"], name="QuantizeLinear"),  # a name is not an operator
        helper.make_node("Conv", ["b", "boxes.weight", "boxes.bias"], ["boxes"], name="boxes"),
        helper.make_node("Conv", ["b", "scores.weight", "scores.bias"], ["scores"], name="scores"),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, size.height, size.width])
    channels = {"boxes": 4, "scores": network.scores.out_channels}
    made = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels[name], size.height // 4, size.width // 4])
        for name in outputs
    ]
    graph = helper.make_graph(nodes, "fake", [images], made, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    model.ir_version = 10
    onnx.checker.check_model(model)
    onnx.save(model, file)
    return file


def noise_pictures(count: int = 3, side: int = 16) -> list[Image]:
    """Return square pictures of noise, (side, side, 3) uint8."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (side, side, 3), dtype=np.uint8) for _ in range(count)]
