"""INT8 in torch: every layer says what rounding its input and weight and computing in float64 says."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from paretune.compression.quantize.step import Quantize
from paretune.compression.quantize.torch_int8 import input_ranges, int8_of, predictors, quantize_network
from paretune.config.recipe import Recipe
from paretune.core.errors import UserError
from paretune.core.model import Model
from paretune.core.target import Target
from paretune.core.types import Floats, InputSize
from paretune.detectors import DETECTORS
from paretune.detectors.base import Detector
from paretune.detectors.faster_rcnn.detector import FasterRcnn
from paretune.detectors.ssd.detector import Ssd
from paretune.detectors.yolox.detector import Yolo
from paretune.networks.int8_layers import LARGEST_WEIGHT, Int8Conv2d, Int8Linear, is_int8
from paretune.networks.layer_chain import Chain, FoldedBatchNorm
from paretune.networks.network_files import load_network, save_network
from paretune.runtimes.artefact_writer import write_artefact
from paretune.runtimes.eager import Eager, load_for_inference
from paretune.runtimes.predictor import load_predictor
from tests_support_compression import SIZE, MixedDetector, context, model, outputs, pictures, same_state, state

CONVOLUTIONS = [
    {"in_channels": 3, "out_channels": 16, "kernel_size": 3, "stride": 2, "padding": 1},
    {"in_channels": 16, "out_channels": 32, "kernel_size": 1},
    {"in_channels": 16, "out_channels": 16, "kernel_size": 3, "padding": 1, "groups": 16},
    {"in_channels": 12, "out_channels": 8, "kernel_size": (3, 5), "padding": (2, 4), "dilation": 2, "groups": 4},
    {"in_channels": 24, "out_channels": 7, "kernel_size": 1, "bias": False},
]


def simulated(layer: nn.Module, x: Tensor, low: float, high: float, per_channel: bool) -> Tensor:
    """A float layer with its input rounded to 256 values and its weight to 127, all else in float64."""
    scale = (high - low) / 255
    zero = round(-low / scale)
    rounded = scale * (torch.floor(x.double() / scale + zero + 0.5).clamp(0, 255) - zero)
    weight = layer.weight.detach().double()
    step = (weight.flatten(1).abs().amax(1) if per_channel else weight.abs().max()) / LARGEST_WEIGHT
    step = step.expand(len(weight)).reshape(-1, *(1,) * (weight.ndim - 1))
    weight = step * torch.round(weight / step).clamp(-LARGEST_WEIGHT, LARGEST_WEIGHT)
    bias = None if layer.bias is None else layer.bias.detach().double()
    if isinstance(layer, nn.Linear):
        return nn.functional.linear(rounded, weight, bias)
    how = (layer.stride, layer.padding, layer.dilation, layer.groups)
    return nn.functional.conv2d(rounded, weight, bias, *how)


def spread(shape: Sequence[int], low: float, high: float) -> Tensor:
    """Values in and around a range, none near the middle between two of its 256: rounding is never in doubt."""
    scale = (high - low) / 255
    return scale * (torch.randint(-40, 300, shape) + torch.rand(shape) * 0.8 - 0.4 - round(-low / scale))


def close(got: Tensor, wanted: Tensor) -> bool:
    return got.shape == wanted.shape and float((got.double() - wanted).abs().max() / wanted.abs().max()) < 1e-6


@pytest.mark.parametrize("form", CONVOLUTIONS)
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-0.3, 1.2)])
def test_a_convolution_equals_the_simulation(form: dict[str, Any], per_channel: bool, low: float, high: float) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(**form)
    made = int8_of(layer, low, high, per_channel=per_channel)
    for batch in (1, 2):
        x = spread((batch, layer.in_channels, 13, 17), low, high)
        assert made(x).dtype == torch.float32
        assert close(made(x), simulated(layer, x, low, high, per_channel))


@pytest.mark.parametrize("shape", [(20, 96), (96,), (2, 3, 96)])
@pytest.mark.parametrize("low", [0.0, -0.7])
def test_a_linear_layer_equals_the_simulation(shape: tuple[int, ...], low: float) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(96, 33)
    x = spread(shape, low, 1.3)
    assert close(int8_of(layer, low, 1.3, per_channel=True)(x), simulated(layer, x, low, 1.3, True))


def test_the_largest_sums_are_not_cut_off() -> None:
    """Every input and weight as large as it can be: a CPU without VNNI adds two products in 16 bits."""
    layer = nn.Conv2d(64, 64, 3, padding=1, bias=False)
    nn.init.constant_(layer.weight, 0.5)
    got = int8_of(layer, 0.0, 1.0, per_channel=True)(torch.ones(1, 64, 8, 8))
    assert got[0, 0, 4, 4].item() == pytest.approx(0.5 * 64 * 9, rel=1e-5)
    product = int8_of(nn.Linear(256, 8, bias=False), 0.0, 1.0, per_channel=False)
    product.weight.fill_(LARGEST_WEIGHT)
    got = product(torch.ones(1, 256))
    assert got[0, 0].item() == pytest.approx(float(product.weight_scale[0]) * LARGEST_WEIGHT * 256, rel=1e-5)


def test_an_input_that_is_always_nought_and_a_weight_of_noughts() -> None:
    layer = nn.Conv2d(4, 4, 1)
    nn.init.zeros_(layer.weight)
    made = int8_of(layer, 0.0, 0.0, per_channel=True)
    assert torch.equal(made(torch.zeros(1, 4, 3, 3)), layer.bias.detach().view(1, 4, 1, 1).expand(1, 4, 3, 3))


def test_weights_are_8_bits_and_channels_have_scales_of_their_own() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 6, 3)
    one, many = (int8_of(layer, 0.0, 1.0, per_channel=per_channel) for per_channel in (False, True))
    assert one.weight.dtype == many.weight.dtype == torch.int8
    assert len(set(one.weight_scale.tolist())) == 1
    assert len(set(many.weight_scale.tolist())) == 6
    assert (many.weight.flatten(1).abs().amax(1) == LARGEST_WEIGHT).all()


def test_a_copy_and_a_bfloat16_input_are_served() -> None:
    torch.manual_seed(0)
    made = int8_of(nn.Conv2d(4, 4, 3), 0.0, 1.0, per_channel=True)
    x = torch.rand(1, 4, 9, 9)
    wanted = made(x)
    assert torch.equal(copy.deepcopy(made)(x), wanted)
    low = made(x.bfloat16())
    assert low.dtype == torch.bfloat16
    assert float((low.float() - wanted).abs().max()) < 0.05 * float(wanted.abs().max())


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"input_scale": 0.0}, ValueError),
        ({"input_zero_point": 256}, ValueError),
        ({"stride": [1]}, ValueError),
        ({"groups": 3}, ValueError),
        ({"channels": None}, TypeError),
        ({"padding": ...}, KeyError),
    ],
)
def test_impossible_fields_are_refused(change: dict[str, Any], error: type[Exception]) -> None:
    fields = {**int8_of(nn.Conv2d(4, 4, 3), 0.0, 1.0, per_channel=True).fields(), **change}
    with pytest.raises(error):
        Int8Conv2d.empty({name: value for name, value in fields.items() if value is not ...})


def calibration(size: InputSize = SIZE, count: int = 3, bright: float = 1.0) -> list[Floats]:
    random = np.random.default_rng(0)
    return [random.random((1, 3, size.height, size.width), np.float32) * np.float32(bright) for _ in range(count)]


def test_ranges_are_the_extremes_of_what_a_layer_was_given() -> None:
    network, images = model().network, calibration()
    layers = {"stem.0": network.stem[0], "plain.0": network.plain[0], "box": network.box}
    seen: dict[str, list[Tensor]] = {name: [] for name in layers}
    hooks = [
        layer.register_forward_pre_hook(lambda _, x, name=name: seen[name].append(x[0]))
        for name, layer in layers.items()
    ]
    for image in images:
        outputs_of(network, image)
    for hook in hooks:
        hook.remove()
    found = input_ranges(network, MixedDetector(), layers, images, "minmax")
    for name, inputs in seen.items():
        together = torch.cat(inputs)
        assert found[name] == (min(0.0, float(together.min())), max(0.0, float(together.max())))
    assert not any(module._forward_pre_hooks for module in network.modules())


def outputs_of(network: nn.Module, image: Floats) -> Sequence[Tensor]:
    with torch.no_grad():
        return network(torch.from_numpy(image))


def test_percentile_leaves_out_one_value_in_ten_thousand() -> None:
    network, images = model().network, calibration(InputSize(160, 120), 2)
    images[0][0, 0, 0, 0] = 50.0  # one of 115,200
    layers = {"stem.0": network.stem[0]}
    assert input_ranges(network, MixedDetector(), layers, images, "minmax")["stem.0"] == (0.0, 50.0)
    low, high = input_ranges(network, MixedDetector(), layers, images, "percentile")["stem.0"]
    assert low == 0
    assert high == pytest.approx(1.0, abs=2 * 50 / 8192)


def test_a_network_says_nearly_the_same_and_stays_as_it_was() -> None:
    given = model().network
    before = state(given)
    made = quantize_network(given, MixedDetector(), calibration())
    assert same_state(before, state(given))
    assert sum(is_int8(module) for module in made.modules()) == 6
    assert not any(isinstance(module, nn.BatchNorm2d) for module in made.modules())
    for image in calibration(count=1):
        for wanted, got in zip(outputs_of(given, image), outputs_of(made, image), strict=True):
            assert 0 < float((wanted - got).norm()) < 0.1 * float(wanted.norm())


def test_each_layer_of_a_network_is_as_near_as_its_rounding_allows() -> None:
    """Given the same input, the error is no more than half a step of the input and half a step of the weight allow."""
    network, images = model(MixedDetector(norm="none")).network, calibration()
    made = quantize_network(network, MixedDetector(norm="none"), images)
    for name in ("stem.0", "same.0", "deep.0", "plain.0", "box", "score"):
        exact, rounded = network.get_submodule(name), made.get_submodule(name)
        seen: list[Tensor] = []
        hook = exact.register_forward_pre_hook(lambda _, x, seen=seen: seen.append(x[0]))
        outputs_of(network, images[0])
        hook.remove()
        x = seen[0]
        weight, step = exact.weight.detach(), rounded.weight_scale
        how = (exact.stride, exact.padding, exact.dilation, exact.groups)
        of_input = nn.functional.conv2d(torch.ones_like(x), weight.abs(), None, *how) * rounded.scale / 2
        of_weight = nn.functional.conv2d(x.abs() + rounded.scale / 2, torch.ones_like(weight), None, *how)
        bound = of_input + of_weight * step.view(1, -1, 1, 1) / 2
        error = (rounded(x) - exact(x).detach()).abs()
        assert (error <= bound * 1.001 + 1e-6).all()


def test_predictors_stay_float_when_they_are_kept() -> None:
    network, detector = model().network, MixedDetector()
    assert predictors(network, detector) == ["box", "score"]
    made = quantize_network(network, detector, calibration(), keep=predictors(network, detector))
    assert type(made.box) is type(made.score) is nn.Conv2d
    assert is_int8(made.plain[0])


def test_a_kept_layer_whose_norm_was_folded_has_its_bias(tmp_path: Path) -> None:
    network, detector = model().network, MixedDetector()
    made = quantize_network(network, detector, calibration(), keep=["stem.0"])
    assert isinstance(made.stem[0], Chain)
    assert isinstance(made.stem[1], FoldedBatchNorm)
    save_network(made, tmp_path)
    assert the_same(made, load_network(detector, 2, tmp_path))


def the_same(a: nn.Module, b: nn.Module, size: InputSize = SIZE) -> bool:
    """All tensors and the forms of all layers, and so all outputs but for the last bit of float layers."""
    pairs = zip(outputs(a, size), outputs(b, size), strict=True)
    near = all(float((one - other).abs().max()) <= 1e-6 * float(one.abs().max()) for one, other in pairs)
    return near and same_state(state(a), state(b))


@pytest.mark.parametrize("keep", [[], ["same.0.0"]])
def test_a_chain_in_the_network_is_quantized_inside(keep: list[str], tmp_path: Path) -> None:
    detector, network = MixedDetector(norm="none"), model(MixedDetector(norm="none")).network
    network.set_submodule("same.0", Chain(nn.Conv2d(32, 8, 1, bias=False), nn.Conv2d(8, 32, 3, 1, 1)))
    made = quantize_network(network, detector, calibration(), keep=keep)
    assert [is_int8(layer) for layer in made.same[0]] == [not keep, True]
    save_network(made, tmp_path)
    assert the_same(made, load_network(detector, 2, tmp_path))


def test_nothing_to_take_ranges_from_and_names_of_no_layer_are_errors() -> None:
    network, detector = model().network, MixedDetector()
    with pytest.raises(ValueError, match="no images"):
        quantize_network(network, detector, [])
    with pytest.raises(ValueError, match=r"no convolution or linear layer is called 'stem\.7'"):
        quantize_network(network, detector, calibration(), keep=["stem.7"])


def test_padding_that_is_not_of_noughts_stays_float() -> None:
    network = model(MixedDetector(norm="none")).network
    network.same[0] = nn.Conv2d(32, 32, 3, 1, 1, padding_mode="reflect")
    assert type(quantize_network(network, MixedDetector(norm="none"), calibration()).same[0]) is nn.Conv2d


FAMILIES = [
    pytest.param(Yolo(width=0.125, depthwise=False), InputSize(64, 64), 255.0, id="yolo"),
    pytest.param(Ssd(width=0.25), InputSize(96, 96), 1.0, id="ssdlite"),
    pytest.param(
        FasterRcnn(head_width=32, proposals=10), InputSize(64, 64), 1.0, id="faster_rcnn", marks=pytest.mark.slow
    ),
    pytest.param(Ssd(variant="ssd300_vgg16"), InputSize(300, 300), 255.0, id="ssd300", marks=pytest.mark.slow),
    pytest.param(
        FasterRcnn(variant="resnet50_fpn_v2", proposals=10), InputSize(64, 64), 1.0, id="v2", marks=pytest.mark.slow
    ),
]


@pytest.mark.parametrize(("detector", "size", "bright"), FAMILIES)
def test_every_family_is_quantized_saved_and_reloaded_exactly(
    detector: Detector, size: InputSize, bright: float, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network = detector.build(2).eval()
    made = quantize_network(network, detector, calibration(size, 2, bright), keep=predictors(network, detector))
    left = {name for name, module in made.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    assert left == set(predictors(network, detector))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in made.modules())
    save_network(made, tmp_path)
    assert the_same(made, load_network(detector, 2, tmp_path), size)
    sizes = [sum(file.stat().st_size for file in folder.iterdir()) for folder in (tmp_path, saved(network, tmp_path))]
    assert sizes[0] < 0.6 * sizes[1]


def saved(network: nn.Module, folder: Path) -> Path:
    save_network(network, folder / "float")
    return folder / "float"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_eager_tells_that_layers_run_in_int8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    monkeypatch.setitem(DETECTORS.rows, "mixed", "tests_support_compression:MixedDetector")
    given, detector = model(), MixedDetector()
    made = quantize_network(given.network, detector, calibration(), keep=predictors(given.network, detector))
    runtime = Eager.model_validate({"precision": precision})
    artefact = write_artefact(
        tmp_path / "artefact",
        Model(made, None, SIZE),
        detector=detector,
        runtime=runtime,
        recipe_tree={},
        classes=("a", "b"),
    )
    core = load_predictor(artefact.folder, Target()).core
    assert (core.facts["precision"], core.facts["layers"]) == ("int8", f"{precision}, int8")
    image = calibration(count=1)[0]
    share = 1e-6 if precision == "fp32" else 0.1
    for wanted, got in zip(outputs_of(made, image), core(image), strict=True):
        assert got.dtype == np.float32
        assert np.abs(wanted.numpy() - got).max() <= share * float(wanted.abs().max())


def test_a_gpu_has_no_such_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DETECTORS.rows, "mixed", "tests_support_compression:MixedDetector")
    made, detector = quantize_network(model().network, MixedDetector(), calibration()), MixedDetector()
    artefact = write_artefact(
        tmp_path / "a", Model(made, None, SIZE), detector=detector, runtime=Eager(), recipe_tree={}, classes=("a", "b")
    )
    with pytest.raises(RuntimeError, match="INT8 layers for a CPU only"):
        load_for_inference(artefact, Target(device="cuda"), "fp32")


def test_a_damaged_manifest_is_one_line(tmp_path: Path) -> None:
    made = quantize_network(model().network, MixedDetector(), calibration())
    save_network(made, tmp_path)
    body = json.loads((tmp_path / "structure.json").read_text())
    body["replaced"]["box"]["input_scale"] = -1
    (tmp_path / "structure.json").write_text(json.dumps(body))
    with pytest.raises(UserError, match=r"not a network of detector .* no range of 8 bits"):
        load_network(MixedDetector(), 2, tmp_path)


def test_a_linear_layer_says_its_form() -> None:
    made = int8_of(nn.Linear(5, 3), -1.0, 1.0, per_channel=True)
    again = Int8Linear.empty(json.loads(json.dumps(made.fields())))
    assert again.weight.shape == (3, 5)
    assert again.weight.is_meta


@pytest.mark.parametrize("float_outputs", [True, False])
def test_the_step_quantizes_a_torch_network_for_a_runtime_of_torch(tmp_path: Path, float_outputs: bool) -> None:
    given, used = model(), context(tmp_path, seed=3)
    before = state(given.network)
    step = Quantize(images=8, per_channel=False, float_outputs=float_outputs)
    found = step.apply(given, used)
    assert (found.format, found.history, found.notes) == ("torch", ("quantize",), ())
    assert (found.params, found.flops) == (given.params, given.flops)
    assert same_state(before, state(given.network))
    assert is_int8(found.network.box) != float_outputs
    assert len(set(found.network.plain[0].weight_scale.tolist())) == 1
    assert sorted(set(used.data.splits["train"].read)) == list(range(8))
    assert used.data.splits["val"].read == []
    images = [used.detector.preprocess(used.data.splits["train"].image(index), SIZE)[0] for index in range(8)]
    assert found.network.stem[0].fields()["input_scale"] == pytest.approx(float(np.max(images)) / 255)
    assert step.apply(given, context(tmp_path, train=pictures(3))).notes[0].startswith("quantize: 3 calibration images")
    with pytest.raises(UserError, match="quantized already"):
        step.apply(found, used)


def test_the_manifest_names_the_images_that_ranges_were_taken_from(tmp_path: Path) -> None:
    chosen = []
    for seed in (3, 4):
        train = pictures(12)
        used = context(tmp_path / "work", MixedDetector(), train=train, seed=seed)
        made = Quantize(images=5, method="percentile").apply(model(), used)
        told = {"detector": MixedDetector(), "runtime": Eager(), "recipe_tree": {}, "classes": ("a", "b")}
        artefact = write_artefact(tmp_path / "artefact", made, **told)
        facts = json.loads((artefact.folder / "artefact.json").read_text())["calibration"]
        images = facts.pop("images")
        assert set(images) == {train.ids[index] for index in train.read}
        assert len(images) == 5
        assert facts == {"seed": seed, "method": "percentile", "tool": "torch", "weight_bits": 7}
        assert artefact.calibration == {"images": images, **facts}
        assert max(int(w.weight.abs().max()) for w in made.network.modules() if is_int8(w)) == 63
        chosen.append(sorted(images))
    assert chosen[0] != chosen[1]


def test_a_recipe_quantizes_in_the_format_of_its_runtime() -> None:
    for runtime, wanted in (("eager", ["quantize"]), ("onnxruntime", ["export", "quantize"])):
        recipe = Recipe.model_validate({"steps": ["quantize"], "runtime": runtime})
        assert [step.name for step in recipe.chain] == wanted
