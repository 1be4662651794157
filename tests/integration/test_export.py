"""Export: the same numbers, a clean file, and an error that names the output when the numbers differ."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from paretune.compression.export import OPSET, Export, check_parity, training_images
from paretune.core.model import Model
from paretune.core.types import InputSize
from paretune.detectors.yolox.detector import Yolo
from paretune.networks.batchnorm_folding import folded
from paretune.networks.layer_chain import Chain
from paretune.runtimes.onnx_session import open_session
from tests_support_compression import SIZE, MixedDetector, context, exported, model, outputs, same_state, state

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return exported(tmp_path_factory.mktemp("made"))


def test_the_file_has_one_input_and_the_named_outputs_at_a_fixed_shape(made: Model) -> None:
    onnx.checker.check_model(str(made.file), full_check=True)
    graph = onnx.load(made.file)
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.graph.input, *graph.graph.output)
    }
    assert shapes == {"images": [1, 3, 48, 64], "box": [1, 4, 12, 16], "score": [1, 2, 12, 16]}
    assert [(entry.domain, entry.version) for entry in graph.opset_import] == [("", OPSET)]


def test_batch_norms_are_folded(made: Model) -> None:
    kinds = [node.op_type for node in onnx.load(made.file).graph.node]
    assert kinds.count("Conv") == 6
    assert "BatchNormalization" not in kinds


def test_the_file_says_nothing_of_the_machine_it_was_made_on(made: Model) -> None:
    raw = made.file.read_bytes()
    assert b".py" not in raw
    assert str(Path(__file__).parents[2]).encode() not in raw


def test_the_model_goes_on_as_a_file_with_its_counts(made: Model) -> None:
    before = model()
    assert (made.format, made.network, made.history) == ("onnx", None, ("export",))
    assert (made.params, made.flops, made.input_size) == (before.params, before.flops, SIZE)


def test_the_network_stays_as_it_was_and_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    given = model()
    before, random = state(given.network), torch.get_rng_state()
    gradients = [parameter.requires_grad for parameter in given.network.parameters()]
    Export().apply(given, context(tmp_path))
    assert same_state(before, state(given.network))
    assert [parameter.requires_grad for parameter in given.network.parameters()] == gradients
    assert torch.equal(random, torch.get_rng_state())
    assert not any(module._forward_hooks for module in given.network.modules())
    assert "".join(capfd.readouterr()) == ""


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["frozen", "none"])
def test_other_norms_are_exported_too(norm: str, tmp_path: Path) -> None:
    detector = MixedDetector.model_validate({"norm": norm})
    given = model(detector)
    found = Export().apply(given, context(tmp_path, detector))
    (image,) = training_images(given, context(tmp_path, detector), 1)
    got = open_session(found.file, 1).run(None, {"images": image})
    with torch.no_grad():
        wanted = given.network(torch.from_numpy(image))
    assert all(np.allclose(a.numpy(), b, atol=1e-5, rtol=1e-4) for a, b in zip(wanted, got, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("depthwise", [True, False])
def test_a_yolo_is_nothing_but_folded_convolutions(depthwise: bool, tmp_path: Path) -> None:
    detector = Yolo(width=0.125, depthwise=depthwise)
    found = Export().apply(model(detector), context(tmp_path, detector))
    kinds = {node.op_type for node in onnx.load(found.file).graph.node}
    assert kinds == {"Conv", "Sigmoid", "Mul", "Add", "Concat", "MaxPool", "Resize"}


@pytest.mark.parametrize(("spoilt", "name"), [("box", "box"), ("score", "score"), ("stem.0", "box")])
@pytest.mark.parametrize("value", [0.01, float("nan")])
def test_an_output_that_differs_is_named(made: Model, spoilt: str, name: str, value: float, tmp_path: Path) -> None:
    other = model()
    with torch.no_grad():
        other.network.get_submodule(spoilt).weight[0] += value
    images = training_images(other, context(tmp_path))
    check_parity(model().network, made.file, images, ("box", "score"))
    with pytest.raises(RuntimeError, match=f"output '{name}' differs"):
        check_parity(other.network, made.file, images, ("box", "score"))


def test_parity_is_checked_on_training_pictures_only(tmp_path: Path) -> None:
    used = context(tmp_path)
    Export().apply(model(), used)
    assert used.data.splits["train"].read != []
    assert used.data.splits["val"].read == []


class Twice(nn.Module):
    """One convolution before two norms."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.one, self.two = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (self.two(self.conv(self.one(self.conv(x)))),)


class Fork(nn.Module):
    """A convolution whose output goes to a norm and around it (pre-activation residuals do so)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x = self.conv(x)
        return (x + self.last(self.norm(x)),)


@pytest.mark.parametrize("kind", [Twice, Fork])
def test_what_must_not_be_folded_is_left_alone(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    network = kind()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    network.eval()
    copied = folded(network, torch.rand(1, 3, 48, 64))
    assert [type(module) for module in copied.modules()] == [type(module) for module in network.modules()]
    assert all(torch.equal(a, b) for a, b in zip(outputs(network), outputs(copied), strict=True))


def test_folding_keeps_the_function_and_removes_every_norm() -> None:
    network = model().network
    copied = folded(network, torch.rand(1, 3, 48, 64))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in copied.modules())
    for wanted, got in zip(outputs(network), outputs(copied), strict=True):
        torch.testing.assert_close(wanted, got, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bias", [False, True])
def test_yolos_first_layer_takes_the_picture_as_it_is(tmp_path: Path, bias: bool) -> None:
    torch.manual_seed(0)
    detector = Yolo(depthwise=False, width=0.125)
    network = detector.build(2).eval()
    stem = network.get_submodule("backbone.backbone.stem.conv")
    stem.conv = torch.nn.Conv2d(12, 8, 3, padding=1, bias=bias)
    images = torch.randn(2, 3, 64, 96)
    simpler = folded(network, images)
    with torch.no_grad():
        for mine, wanted in zip(simpler(images), network(images), strict=True):
            torch.testing.assert_close(mine, wanted, rtol=1e-4, atol=1e-4)
    model_of_it = Model(network, None, InputSize(64, 64))
    graph = onnx.load(Export().apply(model_of_it, context(tmp_path, detector)).file).graph
    assert graph.node[0].op_type == "Conv"  # nothing is gathered before it
    assert graph.node[0].name.startswith("backbone.backbone.stem.conv.conv::")


def test_a_first_layer_that_was_factorized_stays_as_it_is() -> None:
    network = Yolo(depthwise=False, width=0.125).build(2).eval()
    network.set_submodule("backbone.backbone.stem.conv.conv", Chain(torch.nn.Conv2d(12, 8, 3, padding=1)))
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for mine, wanted in zip(folded(network, images)(images), network(images), strict=True):
            torch.testing.assert_close(mine, wanted, rtol=1e-4, atol=1e-4)
