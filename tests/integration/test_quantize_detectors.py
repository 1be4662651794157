"""Static INT8 of every detector family, by either tool, on either runtime: boxes agree with those in float."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from paretune.compression.export import Export
from paretune.compression.quantize.float_layers import agreement
from paretune.compression.quantize.onnx_quantizers import last_convolutions, prepare
from paretune.compression.quantize.step import Quantize
from paretune.core.target import Target
from paretune.core.types import Detections, InputSize
from paretune.detectors.base import Detector
from paretune.detectors.faster_rcnn.detector import FasterRcnn
from paretune.detectors.ssd.detector import Ssd
from paretune.detectors.yolox.detector import Yolo
from paretune.runtimes.artefact_writer import write_artefact
from paretune.runtimes.base import Runtime
from paretune.runtimes.onnxruntime import OnnxRuntime
from paretune.runtimes.openvino import OpenVino
from paretune.runtimes.predictor import load_predictor
from tests_support_compression import CLASSES, context, model
from tests_support_quantize import photographs, sure

CASES = [
    pytest.param(Yolo(width=0.25), InputSize(96, 64), id="yolo", marks=pytest.mark.slow),
    pytest.param(Ssd(width=0.5), InputSize(128, 96), id="ssdlite", marks=pytest.mark.slow),
    pytest.param(
        FasterRcnn(proposals=30, head_width=64, min_proposal_score=0.0),
        InputSize(128, 96),
        id="frcnn",
        marks=pytest.mark.slow,
    ),
    pytest.param(Ssd(variant="ssd300_vgg16"), InputSize(300, 300), id="ssd300", marks=pytest.mark.full),
]
AGREED = 0.5
"""``agreement`` of detections; of a network of random weights that is badly quantized it is nearly 0."""
TOOLS = ["onnxruntime", *(["nncf"] if importlib.util.find_spec("nncf") else [])]


def found(folder: Path, made: object, detector: Detector, runtime: Runtime, pictures: object) -> list[Detections]:
    """What an artefact finds, read back from the disk."""
    artefact = write_artefact(folder, made, detector=detector, runtime=runtime, recipe_tree={}, classes=CLASSES)
    predictor = load_predictor(artefact.folder, Target())
    assert predictor.facts["precision"] == ("int8" if "quantize" in made.history else "fp32")
    return [inside(predictor(picture)) for picture in pictures]


def inside(boxes: Detections) -> Detections:
    """Without those of which nothing is left at the edge of the picture: they do not even overlap themselves."""
    kept = (boxes.boxes[:, 2:] > boxes.boxes[:, :2]).all(1)
    return Detections(boxes.boxes[kept], boxes.scores[kept], boxes.labels[kept])


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("detector", "size"), CASES)
def test_boxes_agree_with_those_in_float(detector: Detector, size: InputSize, tmp_path: Path) -> None:
    around = context(tmp_path, detector, photographs(6, size=size))
    pictures = photographs(3, "val", seed=1, size=size).pictures
    source = Export().apply(sure(detector, size), around)
    wanted = found(tmp_path / "artefact", source, detector, OnnxRuntime(), pictures)
    assert all(len(boxes.scores) > 3 for boxes in wanted)
    agreed = {}
    for tool in TOOLS:
        made = Quantize(tool=tool).apply(source, around)
        for runtime in (OnnxRuntime(), OpenVino()):
            got = found(tmp_path / "artefact", made, detector, runtime, pictures)
            pairs = zip(wanted, got, strict=True)
            agreed[tool, runtime.name] = np.mean([agreement(one, other) for one, other in pairs])
    assert all(value > AGREED for value in agreed.values()), agreed


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_of_faster_rcnn_the_predictors_are_last_and_the_maps_that_they_read_are_not(tmp_path: Path) -> None:
    """The layers that torch leaves in float, by their weights: the maps are outputs of the file as well."""
    detector, size = FasterRcnn(proposals=8, head_width=32), InputSize(64, 64)
    made = model(detector, size)
    wanted = {module.weight.detach().numpy().tobytes() for module in detector.protected(made.network)}
    found = set()
    for source in Export().apply(made, context(tmp_path, detector)).files:
        prepare(source, tmp_path / "prepared.onnx")
        graph = onnx.load(tmp_path / "prepared.onnx").graph
        weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        last = set(last_convolutions(graph))
        layers = [node for node in graph.node if node.name in last and node.op_type in {"Conv", "Gemm", "MatMul"}]
        found |= {weights[node.input[1]].tobytes() for node in layers}
    assert found == wanted
