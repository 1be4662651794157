"""Quantization-aware training: what it computes is what INT8 computes, and what it leaves is a float network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from paretune.compression.export import TrainingInputs
from paretune.compression.finetune import Finetune
from paretune.compression.quantize import onnx_quantizers as quantize_onnx
from paretune.compression.quantize.step import Quantize
from paretune.compression.quantize.torch_int8 import predictors, quantize_network
from paretune.core.types import Annotations, InputSize
from paretune.detectors.base import Detector
from paretune.detectors.faster_rcnn.detector import FasterRcnn
from paretune.detectors.ssd.detector import Ssd
from paretune.detectors.yolox.detector import Yolo
from paretune.networks.int8_layers import LARGEST_WEIGHT
from paretune.networks.network_files import copy_network
from paretune.runtimes.eager import Eager
from paretune.runtimes.onnxruntime import OnnxRuntime
from paretune.runtimes.tensorrt import TensorRt
from paretune.training.extras import TrainingExtras, train_with_extras
from paretune.training.loop import Epoch, Options
from paretune.training.qat import with_rounding, without_rounding
from paretune.training.settings import Training
from tests_support_compression import SETTINGS, SIZE, MixedDetector, context, exported, model

BITS = LARGEST_WEIGHT.bit_length() + 1
SQUARE = InputSize(64, 64)
FAMILIES = (
    Yolo(variant="nano", width=0.125),
    Ssd(variant="ssdlite320_mobilenet_v3_large"),
    FasterRcnn(variant="mobilenet_v3_large_320_fpn", proposals=8, samples=8, head_width=32),
)
ROUNDED = {"stem.0", "same.0", "deep.0", "plain.0"}


def rounding(tmp_path: Path, detector: MixedDetector, bits: int = BITS) -> nn.Module:
    split = context(tmp_path, detector).data.splits["train"]
    return with_rounding(copy_network(model(detector).network), detector, bits, split, SIZE)


def rounded(network: nn.Module) -> set[str]:
    return {name for name, layer in network.named_modules() if hasattr(layer, "input_range")}


def run(
    tmp_path: Path, how: TrainingExtras, settings: Training = SETTINGS, **options: Any
) -> tuple[nn.Module, list[Epoch]]:
    detector, epochs = MixedDetector(), []
    made = train_with_extras(
        copy_network(model(detector).network).train(),
        detector,
        context(tmp_path).data,
        SIZE,
        settings,
        how,
        device="cpu",
        on_epoch=epochs.append,
        options=Options(**options),
    )
    return made.network, epochs


def same(one: nn.Module, other: nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize("norm", ["batch", "frozen", "none"])
def test_computes_what_the_int8_form_computes(norm: str, tmp_path: Path) -> None:
    detector = MixedDetector(norm=norm)
    given = model(detector)
    images = list(TrainingInputs(given, context(tmp_path, detector), range(8)))
    keep = predictors(given.network, detector)
    integer = quantize_network(given.network, detector, images, keep=keep)
    ready = rounding(tmp_path, detector).eval()
    assert rounded(ready) == ROUNDED
    with torch.no_grad():
        for x in map(torch.from_numpy, images):
            for found, wanted, plain in zip(ready(x), integer(x), given.network(x), strict=True):
                harm = (plain - wanted).square().mean().sqrt()
                assert harm > 0
                # a norm folded into the weights moves a value in the seventh digit, and now and then over an edge
                assert (found - wanted).square().mean().sqrt() < 0.1 * harm


@pytest.mark.slow
def test_signed_rounding_is_that_of_the_file_for_tensorrt(tmp_path: Path) -> None:
    """Inputs of the first layer, none of them negative, and of one behind SiLU; weights that no norm is folded into."""
    where = replace(context(tmp_path), runtime=TensorRt())
    graph = onnx.load(Quantize(images=8).apply(exported(tmp_path), where).file).graph
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    scales = {node.input[0]: values[node.input[1]] for node in graph.node if node.op_type == "QuantizeLinear"}
    (joined,) = (node.output[0] for node in graph.node if node.op_type == "Concat")
    split = where.data.splits["train"]
    ready = with_rounding(copy_network(model().network), where.detector, 8, split, SIZE, signed=True).eval()
    for layer, scale in ((ready.stem[0], scales["images"]), (ready.plain[0], scales[joined])):
        steps = np.arange(-200, 200, dtype=np.float32)
        found = layer.rounded_input(torch.from_numpy((steps + np.float32(0.3)) * scale))
        np.testing.assert_allclose(found, steps.clip(-128, 127) * scale, rtol=1e-4)
    weight, name = ready.plain[0].weight.detach(), "plain.0.weight"
    wanted = values[f"{name}_quantized"] * values[f"{name}_scale"].reshape(-1, 1, 1, 1)
    np.testing.assert_allclose(ready.plain[0].rounded_weight(weight), wanted, rtol=1e-4, atol=1e-7)


def test_leaves_a_float_network_with_the_names_it_had(tmp_path: Path) -> None:
    given = model()
    ready = rounding(tmp_path, MixedDetector())
    again = without_rounding(ready)
    assert same(again, given.network)
    assert [type(layer) for layer in again.modules()] == [type(layer) for layer in given.network.modules()]
    x = torch.rand(1, 3, SIZE.height, SIZE.width)
    assert torch.equal(again.eval()(x)[0], given.network(x)[0])


@pytest.mark.parametrize("detector", FAMILIES, ids=lambda detector: detector.name)
def test_every_family_computes_rounded_and_learns(detector: Detector, tmp_path: Path) -> None:
    given, square = model(detector, SQUARE).network, context(tmp_path, detector)
    split = square.data.splits["train"]
    ready = with_rounding(copy_network(given), detector, BITS, split, SQUARE)
    assert rounded(ready).isdisjoint(predictors(ready, detector))
    layers = [name for name, layer in given.named_modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    assert rounded(ready) | set(predictors(given, detector)) >= set(layers)
    boxes = [Annotations(np.array([[4, 6, 30, 28]], np.float32), np.array([1]), np.zeros(1, bool))] * 2
    images = torch.rand(2, 3, SQUARE.height, SQUARE.width)
    terms = detector.training_loss(ready.train(), images, boxes)
    sum(terms.values()).backward()
    assert [n for n, p in ready.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    assert [type(layer) for layer in without_rounding(ready).modules()] == [type(layer) for layer in given.modules()]


def test_a_layer_that_never_runs_stays_float(tmp_path: Path) -> None:
    detector, given = MixedDetector(), model()
    given.network.spare = nn.Conv2d(3, 3, 1)
    split = context(tmp_path).data.splits["train"]
    ready = with_rounding(given.network, detector, BITS, split, SIZE)
    assert type(ready.spare) is nn.Conv2d
    assert rounded(ready) == ROUNDED


def test_gradients_go_straight_through_and_ranges_follow_the_inputs(tmp_path: Path) -> None:
    ready = rounding(tmp_path, MixedDetector()).train()
    before = ready.stem[0].input_range.clone()
    sum(plane.square().mean() for plane in ready(3 * torch.ones(2, 3, SIZE.height, SIZE.width))).backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in ready.parameters() if weight.ndim > 1)
    wanted = before.lerp(torch.tensor([0.0, 3.0]), 0.05)
    assert torch.allclose(ready.stem[0].input_range, wanted)
    ready.eval()(9 * torch.ones(2, 3, SIZE.height, SIZE.width))
    assert torch.allclose(ready.stem[0].input_range, wanted)


def test_training_is_done_rounded_and_ends_float_also_with_a_resume(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"ema": 0.9})
    plain, _ = run(tmp_path, TrainingExtras(), settings)
    whole, epochs = run(tmp_path, TrainingExtras(qat_bits=BITS), settings)
    assert not rounded(whole)
    assert whole.state_dict().keys() == plain.state_dict().keys()
    assert not same(whole, plain)
    states: list[Any] = []

    class Stopped(Exception):  # noqa: N818 - not an error
        pass

    def stop(epoch: Epoch) -> None:
        import copy

        states.append(copy.deepcopy(epoch.state))
        if epoch.number == 1:
            raise Stopped

    detector = MixedDetector()
    start = copy_network(model(detector).network).train()
    how, data = TrainingExtras(qat_bits=BITS), context(tmp_path).data
    more = {"device": "cpu", "on_epoch": stop}
    with pytest.raises(Stopped):
        train_with_extras(start, detector, data, SIZE, settings, how, options=Options(), **more)
    resumed, rest = run(tmp_path, how, settings, resume=states[0])
    assert [epoch.number for epoch in rest] == [2, 3]
    assert same(resumed, whole)
    assert len(epochs) == 3


def test_few_bits_are_learnt_around(tmp_path: Path) -> None:
    """What INT8 leaves of a network is nearer to what was wanted when it was trained rounded: here with 3 bits."""
    settings = SETTINGS.model_copy(update={"epochs": 60, "lr": 5e-3})
    data = context(tmp_path).data
    images = list(TrainingInputs(model(), context(tmp_path), range(8)))
    losses = {}
    for bits in (None, 3):
        network, _ = run(tmp_path, TrainingExtras(qat_bits=bits), settings)
        deployed = with_rounding(network, MixedDetector(), 3, data.splits["train"], SIZE).eval()
        with torch.no_grad():
            terms = [MixedDetector().loss(deployed(torch.from_numpy(x)), [], SIZE) for x in images]
        losses[bits] = float(sum(sum(term.values()) for term in terms))
    assert losses[3] < 0.7 * losses[None]


def test_the_step_takes_the_bits_of_what_will_run_it(tmp_path: Path) -> None:
    told: list[str] = []
    where = replace(context(tmp_path, runtime=Eager()), progress=told.append)
    made = Finetune(epochs=1, qat=True).apply(model(), where)
    plain = Finetune(epochs=1).apply(model(), where)
    assert not rounded(made.network)
    assert not same(made.network, plain.network)
    assert same(made.network, Finetune(epochs=1, qat=True).apply(model(), where).network)
    assert "quantization-aware, 7 bits of a weight" in made.notes[-1]


def test_for_tensorrt_it_takes_8_bits_on_every_cpu_and_signed_inputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {}
    for runtime, safe in ((TensorRt(), 7), (OnnxRuntime(), 8)):
        monkeypatch.setattr(quantize_onnx, "safe_bits", lambda safe=safe: safe)
        where = context(tmp_path, runtime=runtime)
        made[runtime.name] = Finetune(epochs=1, qat=True).apply(model(), where)
        assert "quantization-aware, 8 bits of a weight" in made[runtime.name].notes[-1]
    wanted, _ = run(
        tmp_path, TrainingExtras(qat_bits=8, qat_signed=True), SETTINGS.model_copy(update={"epochs": 1, "lr": 1e-3})
    )
    assert same(made["tensorrt"].network, wanted)
    assert not same(made["onnxruntime"].network, wanted)
