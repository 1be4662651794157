"""Schemes beside static INT8, fields that do not fit each other, weights that overflow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from pydantic import ValidationError

from paretune.compression.export import Export
from paretune.compression.quantize.onnx_quantizers import integers_of, safe_bits, weights_only
from paretune.compression.quantize.plan import QuantizationFiles
from paretune.compression.quantize.step import Quantize
from paretune.core.model import Model
from paretune.core.types import InputSize
from paretune.detectors.faster_rcnn.detector import FasterRcnn
from paretune.runtimes.onnx_header import contents_of
from paretune.runtimes.onnx_session import open_session
from paretune.runtimes.openvino import compile_file
from tests_support_compression import context, exported, model

SCHEMES = ("int8_dynamic", "weight_only", "fp16")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return exported(tmp_path_factory.mktemp("source"))


def quantized(source: Model, workdir: Path, **fields: object) -> Model:
    return Quantize.model_validate(fields).apply(source, context(workdir))


def batch() -> np.ndarray:
    return np.random.default_rng(0).random((1, 3, 48, 64), np.float32)


def run(file: Path) -> list[np.ndarray]:
    return open_session(file, 1).run(["box", "score"], {"images": batch()})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"scheme": "fp16", "tool": "nncf"}, "tool is for scheme int8, and the scheme is fp16"),
        ({"scheme": "weight_only", "keep_float": 2}, "keep_float is for scheme int8"),
        ({"scheme": "int8_dynamic", "method": "percentile"}, "method is for scheme int8"),
        ({"scheme": "fp16", "weight_bits": 7}, "weight_bits is for scheme int8"),
        ({"scheme": "int4"}, "Input should be 'int8', 'int8_dynamic', 'weight_only' or 'fp16'"),
        ({"weight_bits": 6}, "Input should be"),
        ({"keep_float": -1}, "greater than or equal to 0"),
        ({"max_drop": 1.5}, "less than or equal to 1"),
    ],
)
def test_impossible_fields_are_refused(fields: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Quantize.model_validate(fields)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES)
def test_says_nearly_what_the_float_file_says_on_both_runtimes_and_is_smaller(
    source: Model, tmp_path: Path, scheme: str
) -> None:
    found = quantized(source, tmp_path, scheme=scheme)
    assert found.file == tmp_path / f"model.{scheme}.onnx"
    onnx.checker.check_model(str(found.file), full_check=True)
    request = compile_file(found.file, 1, "fp32").create_infer_request()
    request.infer([batch()])
    on_openvino = [request.get_tensor(name).data for name in ("box", "score")]
    for wanted, *others in zip(run(source.file), run(found.file), on_openvino, strict=True):
        for other in others:
            assert other.dtype == np.float32
            assert np.linalg.norm(wanted - other) < 0.02 * np.linalg.norm(wanted)
    assert found.file.stat().st_size < 0.7 * source.file.stat().st_size
    assert contents_of(found.file).precision == {"int8_dynamic": "int8", "fp16": "fp16"}.get(scheme, "fp32")
    assert [path.name for path in tmp_path.iterdir()] == [found.file.name]


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["int8_dynamic", "weight_only"])
@pytest.mark.parametrize("float_outputs", [True, False])
def test_predictors_stay_float_when_asked(source: Model, tmp_path: Path, scheme: str, float_outputs: bool) -> None:
    graph = onnx.load(quantized(source, tmp_path, scheme=scheme, float_outputs=float_outputs).file).graph
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    convolutions = [node for node in graph.node if node.op_type in {"Conv", "ConvInteger"}]
    floats = [node for node in convolutions if kinds.get(node.input[1]) == onnx.TensorProto.FLOAT]
    assert len(convolutions) == 6
    assert len(floats) == (2 if float_outputs else 0)


@pytest.mark.slow
def test_dynamic_notes_what_works_on_integers(tmp_path: Path) -> None:
    """Faster R-CNN: its second network is products."""
    detector = FasterRcnn(proposals=16, samples=32, head_width=64)
    size = InputSize(64, 64)
    around = context(tmp_path, detector)
    made = Quantize(scheme="int8_dynamic").apply(Export().apply(model(detector, size), around), around)
    kinds = [node.op_type for file in made.files for node in onnx.load(file).graph.node]
    convolutions, products = kinds.count("ConvInteger"), kinds.count("MatMulInteger")
    assert (convolutions, products) > (10, 1)
    note = f"quantize: {convolutions} convolutions and {products} matrix products work on integers"
    assert made.notes == (note,)
    assert set(made.more) == {"box"}


@pytest.mark.parametrize("axis", [None, 0, 1, 3])
def test_a_weight_as_integers_is_off_by_half_a_step_at_most(axis: int | None) -> None:
    weight = np.random.default_rng(0).normal(size=(6, 5, 3, 3)).astype(np.float32)
    weight[2], weight[:, 2], weight[..., 2] = 0, 0, 0
    integers, scale = integers_of(weight, axis)
    assert integers.dtype == np.int8
    assert scale.dtype == np.float32
    assert scale.shape == (() if axis is None else (weight.shape[axis],))
    shape = [1] * 4
    if axis is not None:
        shape[axis] = -1
    others = tuple(dim for dim in range(4) if axis is None or dim != axis)
    largest = np.abs(weight).max(axis=others, keepdims=True)
    np.testing.assert_allclose(scale.reshape(shape), np.where(largest == 0, 1, largest / 127).reshape(shape), rtol=1e-6)
    assert (np.abs(integers * scale.reshape(shape) - weight) <= scale.reshape(shape) / 2 * (1 + 1e-5)).all()
    assert np.abs(integers).max() == 127


@pytest.mark.parametrize("per_channel", [True, False])
def test_weights_of_every_operator_are_integers_by_output_channel(per_channel: bool, tmp_path: Path) -> None:
    """A convolution, one transposed, both forms of Gemm, a MatMul; one weight is used twice."""
    random = np.random.default_rng(0)
    shapes = {"conv": (4, 3, 1, 1), "back": (4, 5, 1, 1), "gemm": (6, 20), "other": (6, 7), "product": (7, 7)}
    # channels that differ a hundredfold: a scale of another dimension would show
    axes = {"conv": 0, "back": 1, "gemm": 0, "other": 1, "product": 1}
    weights = {}
    for name, dims in shapes.items():
        span = np.logspace(0, 2, dims[axes[name]]).reshape([-1 if n == axes[name] else 1 for n in range(len(dims))])
        weights[name] = (random.normal(size=dims) * span).astype(np.float32)
    make, shape = helper.make_node, helper.make_tensor_value_info
    nodes = [
        make("Conv", ["x", "conv"], ["a"], "a"),
        make("ConvTranspose", ["a", "back"], ["b"], "b"),
        make("Flatten", ["b"], ["c"], "c"),
        make("Gemm", ["c", "gemm"], ["d"], "d", transB=1),
        make("Gemm", ["d", "other"], ["e"], "e"),
        make("MatMul", ["e", "product"], ["f"], "f"),
        make("MatMul", ["f", "product"], ["y"], "g"),
    ]
    ends = [shape("x", onnx.TensorProto.FLOAT, [1, 3, 2, 2])], [shape("y", onnx.TensorProto.FLOAT, [1, 7])]
    graph = helper.make_graph(nodes, "g", *ends, [numpy_helper.from_array(w, name) for name, w in weights.items()])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "a.onnx")
    weights_only(tmp_path / "a.onnx", tmp_path / "b.onnx", per_channel=per_channel, floats=["d"])
    onnx.checker.check_model(str(tmp_path / "b.onnx"), full_check=True)
    made = onnx.load(tmp_path / "b.onnx").graph
    assert [node.op_type for node in made.node].count("DequantizeLinear") == 4
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in made.initializer}
    assert [name for name, tensor in tensors.items() if tensor.dtype == np.float32 and tensor.ndim > 1] == ["gemm"]
    for name in shapes:
        if name != "gemm":
            weights[name] = rounded(weights[name], axes[name] if per_channel else None)
    x = random.normal(size=(1, 3, 2, 2)).astype(np.float32)
    a = np.einsum("nihw,oi->nohw", x, weights["conv"][:, :, 0, 0])
    b = np.einsum("nihw,io->nohw", a, weights["back"][:, :, 0, 0]).reshape(1, -1)
    wanted = b @ weights["gemm"].T @ weights["other"] @ weights["product"] @ weights["product"]
    (found,) = ReferenceEvaluator(str(tmp_path / "b.onnx")).run(None, {"x": x})
    np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())
    (found,) = open_session(tmp_path / "b.onnx", 1).run(None, {"x": x})  # which rounds what such products are given
    np.testing.assert_allclose(found, wanted, atol=0.05 * np.abs(wanted).max())


def rounded(weight: np.ndarray, axis: int | None) -> np.ndarray:
    others = tuple(dim for dim in range(weight.ndim) if dim != axis)
    step = np.abs(weight).max(axis=others, keepdims=True) / 127
    return (np.rint(weight / step) * step).astype(np.float32)


@pytest.mark.slow
def test_an_output_that_is_not_finite_is_named(source: Model, tmp_path: Path) -> None:
    damaged = onnx.load(source.file)
    for tensor in damaged.graph.initializer:
        if tensor.name == "score.bias":
            tensor.CopyFrom(numpy_helper.from_array(np.array([0, np.nan], np.float32), tensor.name))
    onnx.save(damaged, tmp_path / "damaged.onnx")
    work = QuantizationFiles(source, context(tmp_path), [], tmp_path)
    work.check_finite({"core": source.file}, "fp16")
    with pytest.raises(RuntimeError, match="quantize: output 'score' is not finite in fp16"):
        work.check_finite({"core": tmp_path / "damaged.onnx"}, "fp16")


@pytest.mark.slow
def test_large_weights_do_not_overflow_unless_all_eight_bits_are_asked_for(tmp_path: Path) -> None:
    """Weights of one sign, all as large as they come: the sums are right on either runtime, on any CPU."""
    bright = model()
    with torch.no_grad():
        for layer in (bright.network.same[0], bright.network.plain[0]):
            layer.weight.fill_(0.2)
    source = Export().apply(bright, context(tmp_path))
    wanted, _ = run(source.file)
    for bits in ("auto", 8):
        file = quantized(source, tmp_path, weight_bits=bits, images=8).file
        request = compile_file(file, 1, "fp32").create_infer_request()
        request.infer([batch()])
        for got in (run(file)[0], request.get_tensor("box").data):
            close = np.linalg.norm(wanted - got) < 0.02 * np.linalg.norm(wanted)
            assert close == (bits == "auto" or safe_bits() == 8)
