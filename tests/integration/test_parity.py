"""Parity: a right artefact passes, a wrong one is refused, and the layer that is wrong is named."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from paretune.compression.export import Export, check_parity, training_images
from paretune.compression.quantize.torch_int8 import quantize_network
from paretune.core.model import Model
from paretune.core.target import Target
from paretune.core.types import Annotations, Detections, InputSize
from paretune.detectors import DETECTORS
from paretune.detectors.base import Detector
from paretune.detectors.faster_rcnn.detector import FasterRcnn
from paretune.detectors.yolox.detector import Yolo
from paretune.evaluation import evaluate
from paretune.networks.network_files import copy_network
from paretune.runtimes.artefact_writer import write_artefact
from paretune.runtimes.eager import Eager
from paretune.runtimes.onnxruntime import OnnxRuntime
from paretune.runtimes.openvino import OpenVino
from paretune.runtimes.predictor import Predictor, load_predictor
from paretune.verification import parity
from paretune.verification.layer_divergence import diverging_in_file, layer_outputs
from paretune.verification.parity import check, compare, found_again, verify
from tests_support_compression import CLASSES, MixedDetector, context, model, pictures
from tests_support_quantize import GRID, Labelled, labelled_by, photographs, sure

pytestmark = pytest.mark.timeout(240)  # some export a network first
IMAGES = pictures(2).pictures
LAYERS = ("stem.0", "same.0", "deep.0", "plain.0", "box", "score")


@pytest.fixture(autouse=True)
def _mixed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DETECTORS.rows, "mixed", "tests_support_compression:MixedDetector")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Export().apply(model(), context(tmp_path_factory.mktemp("made")))


def predictor_of(folder: Path, given: Model, detector: Detector | None = None, runtime: Any = None) -> Predictor:
    runtime = runtime or (Eager() if given.file is None else OnnxRuntime())
    write_artefact(
        folder, given, detector=detector or MixedDetector(), runtime=runtime, recipe_tree={}, classes=CLASSES
    )
    return load_predictor(folder, Target())


def spoilt(file: Path, layer: str, folder: Path, factor: float = 1.5) -> Path:
    """A copy of an ONNX file in which one layer's weight is wrong; the file calls it as torch does."""
    graph = onnx.load(file)
    (tensor,) = (entry for entry in graph.graph.initializer if entry.name == f"{layer}.weight")
    tensor.CopyFrom(numpy_helper.from_array(np.float32(factor) * numpy_helper.to_array(tensor), tensor.name))
    wrong = folder / "wrong.onnx"
    onnx.save(graph, wrong)
    return wrong


@pytest.mark.slow
@pytest.mark.parametrize("runtime", [OnnxRuntime(), OpenVino()], ids=lambda runtime: runtime.name)
def test_a_right_artefact_passes(made: Model, runtime: Any, tmp_path: Path) -> None:
    predictor, network = predictor_of(tmp_path / "artefact", made, runtime=runtime), model().network
    found = compare(predictor, network, IMAGES)
    assert found.errors.keys() == {"box", "score"}
    assert found.error < 1e-4
    check(predictor, network, IMAGES, found)


@pytest.mark.slow
@pytest.mark.parametrize("layer", LAYERS)
def test_a_wrong_weight_is_refused_and_its_layer_named(made: Model, layer: str, tmp_path: Path) -> None:
    wrong = replace(made, file=spoilt(made.file, layer, tmp_path))
    predictor, network = predictor_of(tmp_path / "artefact", wrong), model().network
    found = compare(predictor, network, IMAGES)
    with pytest.raises(
        RuntimeError, match=rf"differs from eager .* fp32 allows 0.001; first diverging layer: {layer}$"
    ):
        check(predictor, network, IMAGES, found)


@pytest.mark.slow
@pytest.mark.parametrize("layer", LAYERS)
def test_the_export_names_the_layer_too(made: Model, layer: str, tmp_path: Path) -> None:
    wrong, network = spoilt(made.file, layer, tmp_path), model().network
    images = training_images(model(), context(tmp_path))
    with pytest.raises(RuntimeError, match=rf"^export: output '\w+' differs .*; first diverging layer: {layer}$"):
        check_parity(network, wrong, images, ("box", "score"))


@pytest.mark.slow
def test_a_file_of_other_layers_names_none(made: Model) -> None:
    batch = training_images(model(), context(made.file.parent), 1)[0]
    shorter = model().network
    shorter.same = nn.Identity()
    assert diverging_in_file(shorter, made.file, batch, "images", 1e-3) is None


@pytest.mark.slow
def test_of_equal_files_the_runtime_is_to_blame(made: Model, tmp_path: Path) -> None:
    predictor, network = predictor_of(tmp_path / "artefact", made), model().network
    right = predictor.core.parts["core"]
    core = replace(predictor.core, parts={"core": lambda batch: tuple(2 * raw for raw in right(batch))})
    predictor = replace(predictor, core=core)
    found = compare(predictor, network, IMAGES)
    with pytest.raises(RuntimeError, match=r"every layer of the files agrees: onnxruntime [\d.]+ computes something"):
        check(predictor, network, IMAGES, found)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_torch_artefact_of_another_network_is_refused_too(layer: str, tmp_path: Path) -> None:
    wanted = model()
    other = copy_network(wanted.network)
    with torch.no_grad():
        other.get_submodule(layer).weight.add_(0.1)
    predictor = predictor_of(tmp_path / "artefact", replace(wanted, network=other))
    found = compare(predictor, wanted.network, IMAGES)
    with pytest.raises(RuntimeError, match=f"first diverging layer: {layer}$"):
        check(predictor, wanted.network, IMAGES, found)


@pytest.mark.parametrize("changed", [False, True])
def test_what_is_no_number_is_refused_in_any_case(changed: bool, tmp_path: Path) -> None:
    given = model()
    predictor = predictor_of(tmp_path / "artefact", given)
    with torch.no_grad():
        predictor.core.network.score.weight.fill_(float("nan"))
    found = compare(predictor, given.network, IMAGES)
    with pytest.raises(RuntimeError, match="'score' has another shape than eager's, or values that are no numbers"):
        check(predictor, given.network, IMAGES, found, changed=changed)


@pytest.mark.parametrize(("precision", "least"), [("bf16", 1e-3), ("fp16", 1e-5)])
def test_low_precision_is_allowed_its_errors(precision: str, least: float, tmp_path: Path) -> None:
    predictor = predictor_of(tmp_path / "artefact", model(), runtime=Eager.model_validate({"precision": precision}))
    found = compare(predictor, model().network, IMAGES)
    assert found.error > least
    check(predictor, model().network, IMAGES, found)


def test_int8_is_told_and_not_refused(tmp_path: Path) -> None:
    given = model()
    rounded = quantize_network(given.network, MixedDetector(), training_images(given, context(tmp_path)))
    predictor = predictor_of(tmp_path / "artefact", replace(given, network=rounded))
    found = compare(predictor, given.network, IMAGES)
    assert found.error > 1e-3
    assert found.metrics() == {"parity_error": found.error, "parity_boxes": None, "parity_map": None}
    check(predictor, given.network, IMAGES, found)
    check(predictor, given.network, IMAGES, found, changed=True)


@pytest.fixture
def labelled(monkeypatch: pytest.MonkeyPatch) -> Labelled:
    """Photographs on which what the network of ``sure`` finds is right: its map is 1."""
    monkeypatch.setitem(DETECTORS.rows, "grid", "tests_support_quantize:Grid")
    return labelled_by(GRID, sure(), photographs(40, "val", seed=1))


def shifted(network: nn.Module, by: float) -> nn.Module:
    """A network whose boxes lie elsewhere: their raw map is further by so much."""
    other = copy_network(network)
    with torch.no_grad():
        other.box.bias.add_(by)
    return other


def test_the_map_that_is_lost_is_told(labelled: Labelled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "JUDGED", 4)
    given, split = sure(), labelled
    some = Labelled(split.pictures[:4], name="val", truth=split.truth[:4])
    rounded = replace(given, network=quantize_network(given.network, GRID, training_images(given, context(tmp_path))))
    predictor = predictor_of(tmp_path / "rounded", rounded, GRID)
    lost = 1 - evaluate(predictor, some).map
    assert lost > 0.001
    told = verify(predictor, given.network, split, changed=True)
    assert told.map == told.metrics()["parity_map"] == pytest.approx(-lost, abs=1e-6)
    assert f"{told}".endswith(f", map {told.map:+.3f}")
    nothing = Annotations(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool))
    bare = Labelled(split.pictures[:2], name="val", truth=(nothing,) * 2)
    assert verify(predictor, given.network, bare, changed=True).map is None


def test_of_float32_the_outputs_tell_enough(
    labelled: Labelled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity, "IMAGES", 1)
    given, asked = sure(), []
    predictor = predictor_of(tmp_path / "same", given, GRID)
    handle = given.network.register_forward_pre_hook(lambda _module, inputs: asked.append(len(inputs[0])))
    assert verify(predictor, given.network, labelled, changed=False).map is None
    handle.remove()
    assert sum(asked) == 1


def test_quantized_until_it_finds_too_little_is_refused(labelled: Labelled, tmp_path: Path) -> None:
    given = sure()
    rounded = quantize_network(given.network, GRID, training_images(given, context(tmp_path)))
    honest = predictor_of(tmp_path / "honest", replace(given, network=rounded), GRID)
    assert verify(honest, given.network, labelled, changed=True).map < 0
    wrong = predictor_of(tmp_path / "wrong", replace(given, network=shifted(given.network, 4)), GRID)
    lost = 1 - evaluate(wrong, labelled).map
    assert lost > 0.7
    found = compare(wrong, given.network, labelled.pictures)
    check(wrong, given.network, labelled.pictures, found, changed=True)  # by its outputs it might be quantized
    said = rf"map is 1\.000 and the artefact's {1 - lost:.3f}, .*; 50% of the first has to be left; output 'box' is"
    with pytest.raises(RuntimeError, match=said):
        verify(wrong, given.network, labelled, changed=True)


def test_in_bfloat16_less_may_be_lost(labelled: Labelled, tmp_path: Path) -> None:
    given, runtime = sure(), Eager.model_validate({"precision": "bf16"})
    honest = predictor_of(tmp_path / "honest", given, GRID, runtime)
    assert -0.1 < verify(honest, given.network, labelled, changed=False).map <= 0
    wrong = predictor_of(tmp_path / "wrong", replace(given, network=shifted(given.network, 0.6)), GRID, runtime)
    found = compare(wrong, given.network, labelled.pictures)
    assert found.error < parity.TOLERANCES["bf16"]
    check(wrong, given.network, labelled.pictures, found)
    with pytest.raises(RuntimeError, match="90% of the first has to be left"):
        verify(wrong, given.network, labelled, changed=False)


def test_a_network_that_finds_nothing_has_nothing_to_lose(labelled: Labelled, tmp_path: Path) -> None:
    given, elsewhere = sure(), labelled_by(GRID, sure(seed=5), photographs(40, "val", seed=1))
    wrong = predictor_of(tmp_path / "wrong", replace(given, network=shifted(given.network, 0.6)), GRID)
    network = shifted(given.network, 9)
    assert verify(wrong, network, elsewhere, changed=True).map >= 0


def test_nothing_is_inferred_twice(labelled: Labelled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the artefact finds in the split is handed in; the network sees each image once."""
    given = sure()
    rounded = quantize_network(given.network, GRID, training_images(given, context(tmp_path)))
    predictor = predictor_of(tmp_path / "rounded", replace(given, network=rounded), GRID)
    alone, asked = verify(predictor, given.network, labelled, changed=True), []
    found = [predictor(labelled.image(index)) for index in range(len(labelled))]
    monkeypatch.setattr(Predictor, "__call__", lambda *_: pytest.fail("the artefact was run again"))
    handle = given.network.register_forward_pre_hook(lambda _module, inputs: asked.append(len(inputs[0])))
    assert verify(predictor, given.network, labelled, changed=True, found=found) == alone
    handle.remove()
    assert sum(asked) == len(labelled)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_wrong_layer_of_a_yolo(tmp_path: Path) -> None:
    detector = Yolo(width=0.125, depthwise=False)
    given = model(detector, InputSize(64, 64))
    right = Export().apply(given, context(tmp_path, detector))
    found = compare(predictor_of(tmp_path / "right", right, detector), given.network, IMAGES)
    assert found.error < 1e-4
    assert found.boxes is not None
    assert found.boxes > 0.8  # scores of a network that was never trained are nearly equal: some boxes change places
    for layer in ("backbone.backbone.dark3.1.conv1.conv", "head.reg_convs.1.0.conv"):
        wrong = replace(right, file=spoilt(right.file, layer, tmp_path, factor=1000))
        predictor = predictor_of(tmp_path / "wrong", wrong, detector)
        with pytest.raises(RuntimeError, match=f"first diverging layer: {layer}$"):
            check(predictor, given.network, IMAGES, compare(predictor, given.network, IMAGES))


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_of_two_networks_each_is_given_the_same(tmp_path: Path) -> None:
    """The wrong layer lies in the second one; the first one's maps are right."""
    torch.manual_seed(0)
    detector, size = FasterRcnn(head_width=32, proposals=10), InputSize(64, 64)
    given = Model(detector.build(2).eval(), None, size)
    right = Export().apply(given, context(tmp_path, detector))
    assert compare(predictor_of(tmp_path / "right", right, detector), given.network, IMAGES).error < 1e-4
    graph = onnx.load(right.more["box"])
    for tensor in graph.graph.initializer:
        if tensor.name.endswith("fc7.weight"):
            tensor.CopyFrom(numpy_helper.from_array(1.5 * numpy_helper.to_array(tensor), tensor.name))
    onnx.save(graph, tmp_path / "box.onnx")
    predictor = predictor_of(tmp_path / "wrong", replace(right, more={"box": tmp_path / "box.onnx"}), detector)
    found = compare(predictor, given.network, IMAGES)
    assert {name for name, error in found.errors.items() if error > 1e-3} == {"class", "box"}
    with pytest.raises(RuntimeError, match=r"first diverging layer: roi_heads\.box_head\.fc7$"):
        check(predictor, given.network, IMAGES, found)


def test_layers_are_told_call_by_call() -> None:
    network = nn.Sequential(shared := nn.Conv2d(3, 3, 1), nn.ReLU(), shared, nn.Flatten(), nn.Linear(12, 2))
    batch = np.random.default_rng(0).random((1, 3, 2, 2), np.float32)
    found = layer_outputs(network, batch)
    assert [name for name, _ in found] == ["0", "0", "4"]
    with torch.no_grad():
        np.testing.assert_array_equal(found[0][1], shared(torch.from_numpy(batch)).numpy())
    assert not any(module._forward_hooks for module in network.modules())


def detections(*rows: tuple[float, float, int]) -> Detections:
    """Squares of 10 pixels: (left edge, score, class) of each, best first."""
    left = np.array([row[0] for row in rows], np.float32)
    boxes = np.stack([left, np.zeros_like(left), left + 10, np.full_like(left, 10)], axis=1)
    return Detections(
        boxes, np.array([row[1] for row in rows], np.float32), np.array([row[2] for row in rows], np.int64)
    )


@pytest.mark.parametrize(
    ("other", "count"),
    [
        ((0.0, 0.9, 0), 1),
        ((0.4, 0.9, 0), 1),  # 9.6 of 10.4 pixels: 0.92
        ((0.6, 0.9, 0), 0),  # 9.4 of 10.6: 0.89
        ((0.0, 0.86, 0), 1),
        ((0.0, 0.84, 0), 0),
        ((0.0, 0.9, 1), 0),
    ],
)
def test_a_box_is_found_again_near_by_only(other: tuple[float, float, int], count: int) -> None:
    assert found_again(detections((0.0, 0.9, 0)), detections(other)) == count


def test_a_box_is_found_once_and_weak_ones_do_not_count() -> None:
    two, one = detections((0.0, 0.9, 0), (0.1, 0.9, 0)), detections((0.0, 0.9, 0))
    assert found_again(two, one) == found_again(one, two) == 1
    assert found_again(detections((0.0, 0.04, 0)), detections((0.0, 0.04, 0))) == 0
    assert found_again(detections(), one) == found_again(one, detections()) == 0


def test_found_again_is_the_same_from_either_side() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        rows = [
            [
                (float(at), float(score), int(kind))
                for at, score, kind in zip(
                    random.permutation(12)[:5] * 11,
                    np.sort(random.random(5))[::-1],
                    random.integers(0, 2, 5),
                    strict=True,
                )
            ]
            for _ in range(2)
        ]
        ours, theirs = (detections(*part) for part in rows)
        wanted = sum(
            a[0] == b[0]
            and a[2] == b[2]
            and abs(np.float32(a[1]) - np.float32(b[1])) <= 0.05
            and min(a[1], b[1]) > 0.05
            for a, b in itertools.product(*rows)
        )
        assert found_again(ours, theirs) == found_again(theirs, ours) == wanted
