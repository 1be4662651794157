"""Layers of a quantized file go back to float: which nodes are a layer, and what the mixture computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from paretune.compression.quantize.float_layers import integer_layers, layers, mixed
from paretune.compression.quantize.onnx_quantizers import prepare, small_operators
from paretune.compression.quantize.step import Quantize
from paretune.core.model import Model
from paretune.runtimes.onnx_session import open_session
from tests_support_compression import context, exported, model

LAYERS = ["stem", "same", "deep", "plain"]


def test_a_layer_is_its_weight_and_what_follows_it() -> None:
    make = helper.make_node
    nodes = [
        make("Div", ["x", "scale"], ["a"], "before"),
        make("Conv", ["a", "w"], ["b"], "one"),
        make("Relu", ["b"], ["c"], "relu"),
        make("Conv", ["c", "w"], ["d"], "two"),
        make("Sigmoid", ["d"], ["e"], "squash"),
        make("Mul", ["d", "e"], ["f"], "swish"),
        make("Add", ["c", "f"], ["g"], "sum"),
        make("MatMul", ["g", "h"], ["i"], "no_weight"),
        make("Conv", ["i", "w"], ["out"], "three"),
    ]
    graph = helper.make_graph(nodes, "g", [], [], [numpy_helper.from_array(np.zeros(1, np.float32), "w")])
    assert layers(graph) == {
        "one": ("before", "one", "relu"),
        "two": ("two", "squash", "swish", "sum", "no_weight"),
        "three": ("three",),
    }


@pytest.fixture(scope="module", params=["onnxruntime", "nncf"])
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The float file and the quantized one."""
    if request.param == "nncf":
        pytest.importorskip("nncf")
    folder = tmp_path_factory.mktemp("source")
    source: Model = exported(folder)
    assert source.file is not None
    prepare(source.file, folder / "float.onnx")
    found = Quantize(tool=request.param).apply(source, context(folder))
    assert found.file is not None
    return folder / "float.onnx", found.file


def names_of(files: tuple[Path, Path]) -> dict[str, str]:
    """Which layer of the network each integer layer of the file is: by its weight."""
    source, integer = onnx.load(files[0]), onnx.load(files[1])
    weights = {node.name: node.input[1] for node in source.graph.node if node.op_type == "Conv"}
    return {weights[name].split(".")[0]: name for name in integer_layers(integer.graph, source.graph)}


def run(file: Path, batch: np.ndarray) -> list[np.ndarray]:
    return open_session(file, 1).run(["box", "score"], {"images": batch})


def batch() -> np.ndarray:
    return np.random.default_rng(0).random((1, 3, 48, 64), np.float32)


def written(files: tuple[Path, Path], kept: set[str], folder: Path) -> Path:
    made = mixed(onnx.load(files[1]), onnx.load(files[0]), kept)
    onnx.save(made, folder / "mixed.onnx")
    onnx.checker.check_model(str(folder / "mixed.onnx"), full_check=True)
    return folder / "mixed.onnx"


@pytest.mark.slow
def test_the_integer_layers_are_all_but_the_predictors(files: tuple[Path, Path]) -> None:
    assert sorted(names_of(files)) == sorted(LAYERS)


@pytest.mark.slow
def test_none_in_float_is_the_quantized_file(files: tuple[Path, Path], tmp_path: Path) -> None:
    for wanted, got in zip(run(files[1], batch()), run(written(files, set(), tmp_path), batch()), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-6)


@pytest.mark.slow
def test_all_in_float_is_the_float_file(files: tuple[Path, Path], tmp_path: Path) -> None:
    file = written(files, set(names_of(files).values()), tmp_path)
    assert not small_operators(file)
    for wanted, got in zip(run(files[0], batch()), run(file, batch()), strict=True):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.slow
@pytest.mark.parametrize("layer", LAYERS)
def test_one_in_float_has_its_own_weights_and_the_others_integers(
    files: tuple[Path, Path], tmp_path: Path, layer: str
) -> None:
    names = names_of(files)
    made, source = onnx.load(written(files, {names[layer]}, tmp_path)), onnx.load(files[0])
    assert integer_layers(made.graph, source.graph).keys() == set(names.values()) - {names[layer]}
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in made.graph.initializer}
    convolution = next(node for node in made.graph.node if node.name == names[layer])
    wanted = {tensor.name: numpy_helper.to_array(tensor) for tensor in source.graph.initializer}
    original = next(node for node in source.graph.node if node.name == names[layer])
    for mine, its in zip(convolution.input[1:], original.input[1:], strict=True):
        np.testing.assert_array_equal(tensors[mine], wanted[its])


def rounded(tensor: torch.Tensor, scale: np.ndarray, zero: np.ndarray, dim: int = 0) -> torch.Tensor:
    """What is left of values after they were 8-bit integers."""
    shape = [-1 if axis == dim and np.size(scale) > 1 else 1 for axis in range(tensor.ndim)]
    low, high = (0, 255) if zero.dtype == np.uint8 else (-128, 127)
    steps, start = torch.tensor(scale).reshape(shape), torch.tensor(zero.astype(np.float32)).reshape(shape)
    return ((tensor / steps).round() + start).clamp(low, high).sub(start) * steps


@pytest.mark.slow
def test_one_as_integers_alone_is_the_network_with_that_layer_rounded(files: tuple[Path, Path], tmp_path: Path) -> None:
    """``plain``: the halves that it is given, their concatenation, its weight, and what it makes."""
    names = names_of(files)
    file = written(files, set(names.values()) - {names["plain"]}, tmp_path)
    graph = onnx.load(file).graph
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    maker = {output: node for node in graph.node for output in node.output}
    pairs = {node.input[0]: node for node in graph.node if node.op_type == "QuantizeLinear"}
    (convolution,) = (node for node in graph.node if node.name == names["plain"])
    (joined,) = (node for node in graph.node if node.op_type == "Concat")

    def round_by(tensor: torch.Tensor, name: str) -> torch.Tensor:
        pair = pairs.get(name)
        return tensor if pair is None else rounded(tensor, tensors[pair.input[1]], tensors[pair.input[2]])

    def given(_: object, inputs: tuple[torch.Tensor]) -> torch.Tensor:
        sources = [maker[maker[name].input[0]].input[0] for name in joined.input]  # before the pair of each half
        halves = [round_by(half, name) for half, name in zip(inputs[0].chunk(2, 1), sources, strict=True)]
        return round_by(torch.cat(halves, 1), joined.output[0])

    network = model().network
    assert network is not None
    weight = maker[convolution.input[1]]
    plain = network.plain
    with torch.no_grad():
        plain[0].weight.copy_(rounded(plain[0].weight, tensors[weight.input[1]], tensors[weight.input[2]]))
        if convolution.input[2] in tensors:  # NNCF has corrected it
            plain[0].bias.copy_(torch.tensor(tensors[convolution.input[2]]))
        plain[0].register_forward_pre_hook(given)
        plain[1].register_forward_hook(lambda _, __, made: round_by(made, convolution.output[0]))
        wanted = network(torch.from_numpy(batch()))
    for expected, got in zip(wanted, run(file, batch()), strict=True):
        off = np.abs(got - expected.numpy())
        assert np.median(off) < 1e-5
        assert off.max() < 0.01 * expected.abs().max()  # where a value lies on the edge between two integers


def test_outputs_that_were_quantized_are_made_in_float(tmp_path: Path) -> None:
    """An output that another layer reads: the layer that makes it is in float, its reader keeps its integers."""
    make, shape = helper.make_node, helper.make_tensor_value_info
    weight = numpy_helper.from_array(np.full((1, 1, 1, 1), 3, np.float32), "w")
    integer = numpy_helper.from_array(np.full((1, 1, 1, 1), 2, np.int8), "wi")
    one, zero = numpy_helper.from_array(np.float32(1), "s"), numpy_helper.from_array(np.uint8(0), "z")
    ends = [shape("x", TensorProto.FLOAT, [1, 1, 1, 1])], [shape(n, TensorProto.FLOAT, None) for n in ("y", "out")]
    nodes = [make("Conv", ["x", "w"], ["y"], "first"), make("Conv", ["y", "w"], ["out"], "second")]
    source = helper.make_graph(nodes, "g", *ends, [weight])
    pairs = [
        make("DequantizeLinear", ["wi", "s"], ["wf"], "weight"),
        make("Conv", ["x", "wf"], ["y_raw"], "first"),
        make("QuantizeLinear", ["y_raw", "s", "z"], ["yi"], "q"),
        make("DequantizeLinear", ["yi", "s", "z"], ["y"], "dq"),
        make("Conv", ["y", "wf"], ["out"], "second"),
    ]
    quantized = helper.make_graph(pairs, "g", *ends, [integer, one, zero])
    models = [
        helper.make_model(g, opset_imports=[helper.make_opsetid("", 20)], ir_version=10) for g in (quantized, source)
    ]
    onnx.save(mixed(*models, {"first"}), tmp_path / "mixed.onnx")
    session = open_session(tmp_path / "mixed.onnx", 1)
    found = session.run(["y", "out"], {"x": np.full((1, 1, 1, 1), 1.1, np.float32)})
    assert [float(value.item()) for value in found] == pytest.approx([3.3, 2 * 3])
