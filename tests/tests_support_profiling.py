"""Fakes that the tests of runtimes and profiling share: a tiny detector, and a predictor of known cost.

The measuring process imports this file too, so torch and onnx are imported inside functions only.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from paretune.core.types import Detections, InputSize, Thresholds
from paretune.data.preprocess import Preprocess
from paretune.detectors.base import Detector
from paretune.profiling import MeasurementProtocol
from paretune.storage.artefact import Artefact

FAKE_ROW = "tests_support_profiling:FakeDetector"
BUSY = "tests_support_profiling:load_busy"
DEPLOYABLE = "tests_support_profiling:load_deployable"
QUICK = MeasurementProtocol(
    repetitions=2,
    spare=0,
    patience=0,
    seconds=0.2,
    samples=12,
    warmup_seconds=0.1,
    warmup_cap=3,
    limit=60,
    block_seconds=0.03,
)


class FakeDetector(Detector):
    """Two convolutions; one box of 4 numbers and 2 class logits per cell of 4 x 4 pixels."""

    name: ClassVar[str] = "fake"
    box_losses = ()
    class_losses = ()

    @property
    def preprocess(self):
        return Preprocess(resize="stretch")

    def size_unsupported_reason(self, size):
        return None

    def build(self, num_classes):
        import torch
        from torch import nn

        class Network(nn.Module):
            def __init__(self):
                super().__init__()
                self.stem = nn.Conv2d(3, 8, 4, stride=4)
                self.boxes = nn.Conv2d(8, 4, 1)
                self.scores = nn.Conv2d(8, num_classes, 1)

            def forward(self, images):
                features = torch.relu(self.stem(images))
                return self.boxes(features), self.scores(features)

        return Network()

    def raw_names(self):
        return ("boxes", "scores")

    def decode(self, raw, size, thresholds):
        boxes, scores = (tensor.reshape(*tensor.shape[:2], -1).transpose(0, 2, 1) for tensor in raw)
        found = []
        for box, score in zip(boxes, scores, strict=True):
            best = np.argsort(-score.max(axis=1), kind="stable")[: thresholds.detections]
            corners = np.sort(np.abs(box[best]).reshape(-1, 2, 2), axis=1).reshape(-1, 4)
            found.append(Detections(corners, score[best].max(axis=1), score[best].argmax(axis=1)))
        return found

    def loss(self, raw, annotations, size, losses=None):
        raise AssertionError("never trained")

    def prune_view(self, network):
        return network

    def protected(self, network):
        return [network.boxes, network.scores]


def onnx_of(network, size: InputSize, file: Path, outputs=("scores", "boxes")) -> Path:
    """Write the fake network as ONNX by hand; its outputs stand in another order than the detector's."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = [numpy_helper.from_array(v.numpy(), k) for k, v in network.state_dict().items()]
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


def images(count: int = 3, side: int = 16):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (side, side, 3), dtype=np.uint8) for _ in range(count)]


def fake_artefact(folder: Path, **costs) -> Path:
    """Make a folder for ``load_busy``: milliseconds of CPU time per stage, and what shall go wrong."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "fake.json").write_text(json.dumps(costs))
    return folder


def spin(milliseconds: float) -> None:
    """Work for so much CPU time, however much wall time that takes on a busy machine."""
    end = time.process_time_ns() + milliseconds * 1e6
    while time.process_time_ns() < end:
        pass


class Busy:
    """A predictor of known cost."""

    def __init__(self, folder: Path, target) -> None:
        self.costs = json.loads((folder / "fake.json").read_text())
        self.folder = folder
        self.runs = 0
        self.ballast = np.ones(int(self.costs.get("mib", 0) * 2**17))
        if "compiles" in self.costs and not (folder / "pid").exists():  # the first process takes more, for a moment
            np.ones(int(self.costs["compiles"] * 2**17))
        self.facts = {
            "threads": self.costs.get("threads", target.threads),
            "omp": os.environ["OMP_NUM_THREADS"],
            "affinity": sorted(os.sched_getaffinity(0)),
        }
        (folder / "pid").write_text(str(os.getpid()))

    def preprocess(self, image):
        spin(self.costs.get("preprocess", 0))
        return image, None

    def core(self, batch):
        self.runs += 1
        costs = self.costs
        if self.runs > 1 and "hang" in costs:
            child = subprocess.Popen(["sleep", "1000"])
            (self.folder / "child").write_text(str(child.pid))
            signal.pause()
        if self.runs > costs.get("dies_after", self.runs):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.runs > costs.get("raises_after", self.runs):
            raise ValueError("no more")
        if "chatters" in costs:
            print("a library says something on standard output")
        if self.runs > 1 and gc.isenabled():
            raise AssertionError("garbage is collected while sampling")
        time.sleep(costs.get("sleep", 0) / 1000)
        spin(costs.get("network", 0) * (1 + costs.get("cold", 0) * costs.get("fade", 1) ** self.runs))
        return ()

    def postprocess(self, raw, placement):
        spin(self.costs.get("postprocess", 0))


def load_busy(folder: Path, target) -> Busy:
    return Busy(folder, target)


@dataclass(frozen=True)
class Deployable:
    """A predictor that sleeps, and whose postprocessing takes less for surer boxes."""

    artefact: Artefact
    asleep: float
    facts: dict = field(default_factory=dict)

    def preprocess(self, image):
        return image, None

    def core(self, batch):
        time.sleep(self.asleep)
        return ()

    def postprocess(self, raw, placement):
        spin(5 * (1 - self.artefact.thresholds.score))


def load_deployable(folder: Path, target) -> Deployable:
    asleep = json.loads((folder / "fake.json").read_text())["sleep"] / 1000
    return Deployable(Artefact(folder, "torch", {}, {}, {}, (), InputSize(8, 8), Thresholds(score=0.0)), asleep)


def quick(**changes) -> MeasurementProtocol:
    return replace(QUICK, **changes)
