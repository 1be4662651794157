"""Layers ranked by the harm that each does alone; the worst stay in float when asked."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from paretune.compression.export import Export
from paretune.compression.quantize import float_layers
from paretune.compression.quantize.float_layers import agreement, integer_layers, layers, rank
from paretune.compression.quantize.onnx_quantizers import prepare
from paretune.compression.quantize.plan import CALIBRATION, KEPT, QuantizationFiles, QuantizationPlan, read_metadata
from paretune.compression.quantize.step import Quantize
from paretune.core.model import Model
from paretune.core.types import Detections, Floats, InputSize, Thresholds
from paretune.runtimes.onnx_session import open_session
from paretune.runtimes.tensorrt import TensorRt
from tests_support_compression import MixedDetector, context, exported, model


def found(*entries: tuple[float, float, int]) -> Detections:
    """Boxes 10 wide and high: their left side, score and class."""
    boxes = np.array([[x, 0, x + 10, 10] for x, _, _ in entries], np.float32).reshape(-1, 4)
    scores = np.array([score for _, score, _ in entries], np.float32)
    return Detections(boxes, scores, np.array([label for _, _, label in entries], np.int64))


TWO = ((0.0, 0.8, 0), (50.0, 0.4, 1))


@pytest.mark.parametrize(
    ("one", "other", "wanted"),
    [
        (TWO, TWO, 1.0),
        ((), (), 1.0),
        (TWO, (), 0.0),
        (TWO, ((0.0, 0.8, 1), (50.0, 0.4, 0)), 0.0),  # other classes
        (TWO, TWO[:1], 2 * 0.8 / (1.2 + 0.8)),  # one missing
        (TWO, ((0.0, 0.6, 0), (50.0, 0.4, 1)), 2 * (0.6 + 0.4) / (1.2 + 1.0)),  # less sure
        (TWO, ((2.0, 0.8, 0), (50.0, 0.4, 1)), 2 * (0.8 * 8 / 12 + 0.4) / 2.4),  # moved: 8 of 12 in common
        (TWO, ((4.0, 0.8, 0), (50.0, 0.4, 1)), 2 * 0.4 / 2.4),  # 6 of 14: less than half
        (((0.0, 0.9, 0), (1.0, 0.5, 0)), ((0.5, 0.7, 0),), 2 * 0.7 * 9.5 / 10.5 / 2.1),  # one box for two: the surer
        (((0.0, 0.9, 0),), ((3.0, 0.9, 0), (1.0, 0.2, 0)), 2 * 0.2 * 9 / 11 / 2.0),  # the nearer one
    ],
)
def test_agreement_is_its_formula(
    one: tuple[tuple[float, float, int], ...], other: tuple[tuple[float, float, int], ...], wanted: float
) -> None:
    assert agreement(found(*one), found(*other)) == pytest.approx(wanted, rel=1e-5)
    if len(one) == len(other):
        assert agreement(found(*other), found(*one)) == pytest.approx(wanted, rel=1e-5)


class Pointing(MixedDetector):
    """One box per image: where and how sure is what the raw maps say on average."""

    name: ClassVar[str] = "pointing"

    def decode(self, raw: tuple[Floats, ...], size: InputSize, thresholds: Thresholds) -> list[Detections]:
        places, scores = raw[0].mean((1, 2, 3)), 1 / (1 + np.exp(-raw[1].mean((1, 2, 3))))
        return [found((float(place), float(score), 0)) for place, score in zip(places, scores, strict=True)]


@dataclass(frozen=True)
class Source:
    """A network, as it is and as integers, with one scale for each weight."""

    made: Model
    floats: dict[str, Path] = field(default_factory=dict)
    integer: dict[str, Path] = field(default_factory=dict)

    @property
    def names(self) -> dict[str, str]:
        """Layer of the network → its node."""
        source, integer = onnx.load(self.floats["core"]), onnx.load(self.integer["core"])
        weights = {node.name: node.input[1] for node in source.graph.node if node.op_type == "Conv"}
        return {weights[name].split(".")[0]: name for name in integer_layers(integer.graph, source.graph)}


def harmed(folder: Path, layer: str, detector: MixedDetector) -> Source:
    """A layer has a huge weight for a channel that is always zero: in float that is nothing, as integers it takes
    the levels from all others, with one scale for them."""
    made = model(detector)
    before, channel = {"same": ("stem", 31), "plain": ("deep", 63)}[layer]
    with torch.no_grad():
        for tensor in made.network.get_submodule(before)[0].parameters():
            tensor[31] = 0
        made.network.get_submodule(layer)[0].weight[:, channel] = 20
    source = Export().apply(made, context(folder, detector))
    prepare(source.file, folder / "float.onnx")
    integer = Quantize(per_channel=False).apply(source, context(folder / "integer", detector))
    return Source(source, {"core": folder / "float.onnx"}, {"core": integer.file})


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["same", "plain"])
@pytest.mark.parametrize("detector", [MixedDetector(norm="none"), Pointing(norm="none")])
def test_the_layer_that_was_spoilt_comes_first_and_keeping_it_in_float_mends_it(
    tmp_path: Path, detector: MixedDetector, layer: str
) -> None:
    """By its boxes, or where none are found by its maps."""
    source = harmed(tmp_path, layer, detector)
    around = context(tmp_path, detector)
    images = [detector.preprocess(picture, source.made.input_size)[0][None] for picture in pictures_of(around)]
    order = rank(detector, source.made.input_size, source.floats, source.integer, images)
    assert sorted(name for _, name in order) == sorted(source.names.values())
    assert order[0] == ("core", source.names[layer])
    errors = {}
    for kept in (0, 1):
        made = Quantize(per_channel=False, keep_float=kept).apply(source.made, around)
        facts = {
            entry.key: json.loads(entry.value) for entry in onnx.load(made.file).metadata_props if "tune" in entry.key
        }
        assert facts.get(KEPT, []) == [source.names[layer]][:kept]
        pairs = zip(run(source.made.file, images[0]), run(made.file, images[0]), strict=True)
        errors[kept] = max(float(np.linalg.norm(a - b) / np.linalg.norm(a)) for a, b in pairs)
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.slow
def test_layers_put_back_into_float_one_after_another_are_all_named(tmp_path: Path) -> None:
    """As where ``max_drop`` wants more of them than ``keep_float``."""
    work = QuantizationFiles(exported(tmp_path / "source"), context(tmp_path), range(4), tmp_path)
    once = work.make(QuantizationPlan("int8", "onnxruntime", "minmax", True, 7, False, 1))
    twice = work.with_floats(once, work.ranked(once)[:2])["core"]
    onnx.checker.check_model(str(twice), full_check=True)
    source, made = onnx.load(work.floats["core"]).graph, onnx.load(twice).graph
    in_float = layers(source).keys() - integer_layers(made, source).keys()
    assert len(in_float) == 3
    assert sorted(read_metadata(twice, KEPT)) == sorted(in_float)
    assert read_metadata(twice, CALIBRATION)["images"] == ["train-0", "train-1", "train-2", "train-3"]


@pytest.mark.slow
@pytest.mark.parametrize("runtime", [None, TensorRt()], ids=["cpu", "tensorrt"])
def test_files_for_tensorrt_are_compared_as_it_adds_up_and_others_as_this_cpu_does(
    runtime: TensorRt | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums of signed integers are cut off on a CPU without VNNI: that would be taken for a layer's harm."""
    seen: list[bool] = []
    real = float_layers.open_session

    def opened(file: Path, threads: int, *, exact: bool = False) -> object:
        if file.name.endswith(".single.onnx"):
            seen.append(exact)
        return real(file, threads, exact=exact)

    monkeypatch.setattr(float_layers, "open_session", opened)
    bright = model()
    with torch.no_grad():
        for layer in (bright.network.same[0], bright.network.plain[0]):
            layer.weight.fill_(0.2)  # all as large as they come: no sum of pairs fits 16 bits
    source = Export().apply(bright, context(tmp_path / "source"))
    around = replace(context(tmp_path), runtime=runtime)
    work = QuantizationFiles(source, around, range(4), tmp_path)
    files = work.make(QuantizationPlan("int8", "onnxruntime", "minmax", True, 8, False, 0))
    assert len(work.ranked(files)) == len(seen) == 6
    assert set(seen) == {runtime is not None}
    batch = around.detector.preprocess(pictures_of(around)[0], source.input_size)[0][None]
    exact = real(files["core"], 1, exact=True).run(["box", "score"], {"images": batch})
    wanted = ReferenceEvaluator(str(files["core"])).run(["box", "score"], {"images": batch})
    for one, other in zip(exact, wanted, strict=True):
        assert np.linalg.norm(one - other) < 2e-3 * np.linalg.norm(other)


def pictures_of(around: object) -> list[np.ndarray]:
    return list(around.data.splits["train"].pictures)


def run(file: Path, batch: np.ndarray) -> list[np.ndarray]:
    return open_session(file, 1).run(["box", "score"], {"images": batch})


@pytest.mark.slow
def test_only_calibration_images_are_compared_on(tmp_path: Path) -> None:
    around = context(tmp_path)
    Quantize(keep_float=1, images=3).apply(exported(tmp_path / "source"), around)
    assert len(set(around.data.splits["train"].read) - {0, 1}) <= 3  # the first are for the check of the file
    assert around.data.splits["val"].read == []


@pytest.mark.slow
def test_keeping_every_layer_in_float_changes_nothing_and_says_so(tmp_path: Path) -> None:
    source = exported(tmp_path / "source")
    made = Quantize(keep_float=4).apply(source, context(tmp_path))
    assert made.file == source.file
    assert made.notes == ("quantize changed nothing: keep_float 4 keeps every layer in float",)
    assert made.history == ("export", "quantize")
