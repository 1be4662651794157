"""Quantization: the ranges are those of the training pictures, the predictors stay float, nothing else changes."""

from __future__ import annotations

import importlib.util
import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from paretune.compression.base import Context
from paretune.compression.export import Export
from paretune.compression.prune.step import Prune
from paretune.compression.quantize import step as quantize
from paretune.compression.quantize.onnx_quantizers import last_convolutions
from paretune.compression.quantize.plan import CALIBRATION
from paretune.compression.quantize.step import Quantize
from paretune.core.errors import UserError
from paretune.core.model import Model
from paretune.runtimes.base import Runtime
from paretune.runtimes.onnx_header import contents_of
from paretune.runtimes.onnx_session import open_session
from paretune.runtimes.onnxruntime import OnnxRuntime
from paretune.runtimes.tensorrt import TensorRt
from tests_support_compression import Pictures, context, exported, model, pictures

pytestmark = pytest.mark.slow
TOOLS = ["onnxruntime", *(["nncf"] if importlib.util.find_spec("nncf") else [])]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return exported(tmp_path_factory.mktemp("source"))


def quantized(source: Model, workdir: Path, train: Pictures | None = None, **fields: object) -> Model:
    return Quantize.model_validate(fields).apply(source, context(workdir, train=train))


def graph_of(found: Model) -> onnx.GraphProto:
    return onnx.load(found.file).graph


def constants(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def ranges(graph: onnx.GraphProto) -> dict[str, tuple[float, float]]:
    """Name of every quantized activation → the smallest and largest value that its 8 bits can hold."""
    values, found = constants(graph), {}
    for node in graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] not in values:
            scale, zero = float(values[node.input[1]]), int(values[node.input[2]])
            found[node.input[0]] = (-zero * scale, (255 - zero) * scale)
    return found


def inputs(workdir: Path, count: int) -> np.ndarray:
    used = context(workdir)
    split = used.data.splits["train"]
    return np.stack([used.detector.preprocess(split.image(index), model().input_size)[0] for index in range(count)])


def test_weights_are_signed_activations_unsigned_and_the_file_is_valid(source: Model, tmp_path: Path) -> None:
    found = quantized(source, tmp_path)
    onnx.checker.check_model(str(found.file), full_check=True)
    graph = graph_of(found)
    values = constants(graph)
    kinds = {"activation": set(), "weight": set()}
    for node in graph.node:
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
            kind = "weight" if node.input[0] in values else "activation"
            kinds[kind].add(values[node.input[2]].dtype.name)
    assert kinds["activation"] == {"uint8"}
    assert kinds["weight"] <= {"int8", "int32"}  # int32: biases
    assert "int8" in kinds["weight"]
    assert found.history == ("export", "quantize")
    assert (found.params, found.flops) == (source.params, source.flops)


@pytest.mark.parametrize("runtime", [TensorRt(), OnnxRuntime(provider="tensorrt")], ids=lambda runtime: runtime.name)
@pytest.mark.parametrize("tool", TOOLS)
def test_for_tensorrt_every_integer_is_signed_and_every_zero_point_0(
    source: Model, tmp_path: Path, tool: str, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that TensorRT reads; biases stay in float, for it takes no 32-bit integers."""
    monkeypatch.setattr(quantize, "safe_bits", lambda: 7)  # of a CPU that it does not run on
    around = replace(context(tmp_path), runtime=runtime)
    found = Quantize(tool=tool, images=8).apply(source, around)
    onnx.checker.check_model(str(found.file), full_check=True)
    graph = graph_of(found)
    values = constants(graph)
    pairs = [node for node in graph.node if node.op_type in {"QuantizeLinear", "DequantizeLinear"}]
    zeros = [values[node.input[2]] for node in pairs]
    assert {zero.dtype.name for zero in zeros} == {"int8"}
    assert not any(zero.any() for zero in zeros)
    weights = [values[node.input[0]] for node in pairs if node.input[0] in values]
    assert {weight.dtype.name for weight in weights} == {"int8"}
    assert max(np.abs(weight.astype(int)).max() for weight in weights) == 127
    assert {node.op_type for node in graph.node} <= {node.op_type for node in graph_of(source).node} | {
        "QuantizeLinear",
        "DequantizeLinear",
    }
    assert contents_of(found.file).for_tensorrt
    batch = inputs(tmp_path, 1)
    # computed without integer kernels: a CPU without VNNI adds up signed ones in 16 bits, which TensorRT does not
    exact = ReferenceEvaluator(str(found.file)).run(None, {"images": batch})
    for wanted, got in zip(open_session(source.file, 1).run(None, {"images": batch}), exact, strict=True):
        assert 0 < np.linalg.norm(wanted - got) < 0.02 * np.linalg.norm(wanted)


def test_says_nearly_what_the_float_file_says(source: Model, tmp_path: Path) -> None:
    found = quantized(source, tmp_path)
    batch = inputs(tmp_path, 1)
    for wanted, got in zip(
        open_session(source.file, 1).run(None, {"images": batch}),
        open_session(found.file, 1).run(None, {"images": batch}),
        strict=True,
    ):
        assert wanted.shape == got.shape
        assert 0 < np.linalg.norm(wanted - got) < 0.1 * np.linalg.norm(wanted)


def test_ranges_are_the_extremes_over_the_pictures(source: Model, tmp_path: Path) -> None:
    found = ranges(graph_of(quantized(source, tmp_path)))
    batch = inputs(tmp_path, 8)
    low, high = found["images"]
    assert low == 0
    assert high == pytest.approx(float(batch.max()), rel=1e-3)
    network, seen = model().network, []
    network.plain.register_forward_hook(lambda *call: seen.append(call[1][0]))
    with torch.no_grad():
        network(torch.from_numpy(batch))
    joined = [name for name in found if name in concatenations(graph_of(source))]
    low, high = found[joined[0]]
    step = (high - low) / 255
    assert high == pytest.approx(float(seen[0].max()), abs=step)
    assert low == pytest.approx(float(seen[0].min()), abs=step)
    assert low < 0  # SiLU


def concatenations(graph: onnx.GraphProto) -> set[str]:
    return {name for node in graph.node if node.op_type == "Concat" for name in node.output}


def test_percentile_leaves_out_one_value_in_ten_thousand_and_spends_no_levels_below_the_smallest(
    source: Model, tmp_path: Path
) -> None:
    outlier = pictures(20)
    outlier.pictures[3][:] = 10
    outlier.pictures[3][0, 0] = 255  # 3 values of 184,320 at the most
    dark = Pictures(
        tuple(np.minimum(picture, 100) if index != 3 else picture for index, picture in enumerate(outlier.pictures))
    )
    fields = {"images": 20}
    widest = ranges(graph_of(quantized(source, tmp_path / "a", dark, **fields)))
    cut = ranges(graph_of(quantized(source, tmp_path / "b", dark, method="percentile", **fields)))
    assert widest["images"][1] == pytest.approx(1.0, rel=1e-3)
    assert cut["images"][0] == 0
    assert cut["images"][1] == pytest.approx(100 / 255, rel=0.01)
    for name, (low, high) in cut.items():
        step = (widest[name][1] - widest[name][0]) / 255
        assert low >= widest[name][0] - 2 * step
        assert high <= widest[name][1] + 2 * step


@pytest.mark.slow
def test_percentile_stands_nearly_constant_activations(tmp_path: Path) -> None:
    """As the outputs of a fresh network are: a large bias, hardly a signal."""
    fresh = model()
    with torch.no_grad():
        for layer in (fresh.network.box, fresh.network.score):
            layer.weight.mul_(1e-5)
            layer.bias.fill_(-4.6)
    source = Export().apply(fresh, context(tmp_path / "source"))
    assert len(ranges(graph_of(quantized(source, tmp_path, method="percentile", float_outputs=False)))) > 0


@pytest.mark.parametrize("per_channel", [True, False])
def test_weights_have_one_scale_or_one_for_each_channel(source: Model, tmp_path: Path, per_channel: bool) -> None:
    graph = graph_of(quantized(source, tmp_path, per_channel=per_channel))
    values = constants(graph)
    weights = [
        (values[node.input[0]], values[node.input[1]])
        for node in graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in values and values[node.input[0]].ndim == 4
    ]
    assert len(weights) == 4
    for weight, scale in weights:
        assert scale.size == (len(weight) if per_channel else 1)


@pytest.mark.parametrize("float_outputs", [True, False])
def test_predictors_stay_float_when_asked(source: Model, tmp_path: Path, float_outputs: bool) -> None:
    graph = graph_of(quantized(source, tmp_path, float_outputs=float_outputs))
    values = constants(graph)
    floats = [node for node in graph.node if node.op_type == "Conv" and node.input[1] in values]
    assert len(floats) == (2 if float_outputs else 0)
    assert {values[node.input[1]].dtype.name for node in floats} <= {"float32"}


def test_last_convolutions_of_a_graph_that_joins_its_outputs() -> None:
    make, shape = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    nodes = [
        make("Conv", ["x", "w"], ["a"], name="first"),
        make("Conv", ["a", "w"], ["b"], name="left"),
        make("Conv", ["a", "w"], ["c"], name="right"),
        make("Sigmoid", ["c"], ["d"], name="squash"),
        make("Concat", ["b", "d"], ["e"], name="join", axis=1),
    ]
    outputs_ = [shape("e", onnx.TensorProto.FLOAT, None)]
    graph = onnx.helper.make_graph(nodes, "g", [shape("x", onnx.TensorProto.FLOAT, None)], outputs_)
    assert sorted(last_convolutions(graph)) == ["join", "left", "right", "squash"]


@pytest.mark.parametrize("method", ["minmax", "percentile"])
def test_pictures_are_drawn_by_the_seed_from_the_training_split_only_and_named_in_the_file(
    source: Model, tmp_path: Path, method: str
) -> None:
    chosen = []
    for seed in (0, 0, 1):
        train = pictures(16)
        used: Context = context(tmp_path, train=train, seed=seed)
        found = Quantize.model_validate({"images": 11, "method": method}).apply(source, used)
        facts = {entry.key: entry.value for entry in onnx.load(found.file).metadata_props}
        told = json.loads(facts[CALIBRATION])
        chosen.append(told["images"])
        assert {f"train-{index}" for index in train.read} == set(told["images"])
        assert len(set(told["images"])) == 11
        assert (told["seed"], told["method"]) == (seed, method)
        assert found.calibration == told
        assert used.data.splits["val"].read == []
    assert chosen[0] == chosen[1] != chosen[2]


def test_too_few_pictures_are_noted(source: Model, tmp_path: Path) -> None:
    assert quantized(source, tmp_path, images=64).notes[0].startswith("quantize: 8 calibration images, all there are")


def test_a_file_that_did_not_shrink_is_noted(source: Model, tmp_path: Path) -> None:
    """Some hundred weights save less than the scales and nodes take."""
    tiny = Export().apply(Prune(ratio=0.9).apply(model(), context(tmp_path)), context(tmp_path))
    for given, smaller in ((source, True), (tiny, False)):
        found = quantized(given, tmp_path, images=8)
        assert (found.file.stat().st_size < given.file.stat().st_size) == smaller
        note = "quantize: the file is no smaller; so small a network is mostly structure"
        assert (note in found.notes) == (not smaller)


def test_pictures_of_one_colour_are_refused(source: Model, tmp_path: Path) -> None:
    plain = Pictures(tuple(np.full((48, 64, 3), (9, 99, level), np.uint8) for level in range(4)))
    with pytest.raises(UserError, match="of one colour"):
        quantized(source, tmp_path, plain)
    varied = Pictures((*plain.pictures, pictures(1).pictures[0]))
    assert quantized(source, tmp_path, varied).file.is_file()


def test_quantizing_twice_is_refused_and_harms_nothing(source: Model, tmp_path: Path) -> None:
    once = quantized(source, tmp_path)
    before = once.file.read_bytes()
    with pytest.raises(UserError, match="quantized already"):
        quantized(once, tmp_path)
    assert once.file.read_bytes() == before


def test_a_graph_with_nothing_to_quantize_is_an_error(source: Model, tmp_path: Path) -> None:
    shape = onnx.helper.make_tensor_value_info
    kind, dims = onnx.TensorProto.FLOAT, [1, 3, 48, 64]
    nodes = [onnx.helper.make_node("Erf", ["images"], ["box"], name="erf")]
    graph = onnx.helper.make_graph(nodes, "g", [shape("images", kind, dims)], [shape("box", kind, dims)])
    file = tmp_path / "bare.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10), file)
    with pytest.raises(RuntimeError, match="nothing in the network"):
        quantized(replace(source, file=file), tmp_path)


@pytest.mark.parametrize("method", ["minmax", "percentile"])
def test_is_silent_and_leaves_the_logging_and_the_folder_as_they_were(
    source: Model, tmp_path: Path, method: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    level = logging.getLogger().level
    found = quantized(source, tmp_path, method=method)
    assert "".join(capfd.readouterr()) == ""
    assert caplog.records == []
    assert logging.getLogger().level == level
    assert [path.name for path in tmp_path.iterdir()] == [found.file.name]


def test_runs_as_integers(source: Model, tmp_path: Path) -> None:
    """ONNX Runtime fuses what it can run in INT8 into operators of its own; the graph it runs has them."""
    found = quantized(source, tmp_path)
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "run.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(str(found.file), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "run.onnx").graph.node]
    assert kinds.count("QLinearConv") == 4
