"""Static INT8 by NNCF: runs on both runtimes, unsigned activations, quiet, the same twice, or told to be missing."""

from __future__ import annotations

import importlib.util
import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from paretune.compression.quantize import step as quantize
from paretune.compression.quantize.nncf import to_signed, unsigned
from paretune.compression.quantize.plan import CALIBRATION
from paretune.compression.quantize.step import Quantize
from paretune.core.errors import UserError
from paretune.core.model import Model
from paretune.runtimes.onnx_session import open_session
from paretune.runtimes.openvino import compile_file, executed
from tests_support_compression import SIZE, context, exported

pytestmark = pytest.mark.slow
INSTALLED = importlib.util.find_spec("nncf") is not None
needed = pytest.mark.skipif(not INSTALLED, reason="nncf is not installed")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return exported(tmp_path_factory.mktemp("source"))


def quantized(source: Model, workdir: Path, **fields: object) -> Model:
    return Quantize.model_validate({"tool": "nncf", "images": 8, **fields}).apply(source, context(workdir))


def batch(workdir: Path) -> np.ndarray:
    used = context(workdir)
    return used.detector.preprocess(used.data.splits["val"].image(0), SIZE)[0][None]


def on_onnxruntime(file: Path, given: np.ndarray) -> list[np.ndarray]:
    return open_session(file, 1).run(["box", "score"], {"images": given})


def on_openvino(file: Path, given: np.ndarray) -> list[np.ndarray]:
    compiled = compile_file(file, 1, "fp32")
    assert "int8" in executed(compiled)
    request = compiled.create_infer_request()
    request.infer([given])
    return [request.get_tensor(name).data.copy() for name in ("box", "score")]


@needed
@pytest.mark.parametrize("method", ["minmax", "percentile"])
def test_both_runtimes_say_nearly_what_the_float_file_says(source: Model, tmp_path: Path, method: str) -> None:
    """OpenVINO did not where activations were signed: its error was half of the output."""
    found, given = quantized(source, tmp_path, method=method), batch(tmp_path)
    wanted = on_onnxruntime(source.file, given)
    for run in (on_onnxruntime, on_openvino):
        for one, other in zip(wanted, run(found.file, given), strict=True):
            assert 0 < np.linalg.norm(one - other) < 0.03 * np.linalg.norm(one)


@needed
@pytest.mark.parametrize("per_channel", [True, False])
def test_weights_are_signed_activations_unsigned_and_the_file_is_valid(
    source: Model, tmp_path: Path, per_channel: bool
) -> None:
    found = quantized(source, tmp_path, per_channel=per_channel)
    onnx.checker.check_model(str(found.file), full_check=True)
    graph = onnx.load(found.file).graph
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    activations = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    assert {values[node.input[2]].dtype.name for node in activations} == {"uint8"}
    weights = [node for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in values]
    assert len(weights) == 4
    for node in weights:
        assert values[node.input[0]].dtype == np.int8
        assert values[node.input[1]].size == (len(values[node.input[0]]) if per_channel else 1)


@needed
def test_seven_bits_use_half_the_range(source: Model, tmp_path: Path) -> None:
    """Of the dense convolutions: a depthwise one adds up too few products to overflow."""
    for bits in (7, 8):
        graph = onnx.load(quantized(source, tmp_path, weight_bits=bits).file).graph
        values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        dense = [v for v in values.values() if v.dtype == np.int8 and v.ndim == 4 and v.shape[1] > 1]
        largest = [int(np.abs(weight.astype(int)).max()) for weight in dense]
        assert len(largest) == 3
        assert all((value <= 64) == (bits == 7) for value in largest)


def one_pair(zero: np.int8 | np.uint8) -> onnx.ModelProto:
    """One pair of QuantizeLinear and DequantizeLinear of scale 0.1, on 512 values."""
    make = onnx.helper.make_node
    nodes = [
        make("QuantizeLinear", ["x", "s", "z"], ["i"], "q"),
        make("DequantizeLinear", ["i", "s", "z"], ["y"], "dq"),
    ]
    shape = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [shape("x", onnx.TensorProto.FLOAT, [512])],
        [shape("y", onnx.TensorProto.FLOAT, [512])],
        [numpy_helper.from_array(np.float32(0.1), "s"), numpy_helper.from_array(zero, "z")],
        value_info=[shape("i", onnx.helper.np_dtype_to_tensor_dtype(zero.dtype), [512])],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)


def test_moving_the_zero_changes_no_value() -> None:
    model = one_pair(np.int8(-37))
    values = np.linspace(-20, 30, 512, dtype=np.float32)
    wanted = 0.1 * np.clip(np.rint(values / np.float32(0.1)), -128 + 37, 127 + 37)
    unsigned(model)
    onnx.checker.check_model(model, full_check=True)
    (found,) = ReferenceEvaluator(model).run(None, {"x": values})
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_signed_integers_hold_the_same_range_in_half_as_many_steps() -> None:
    model = one_pair(np.uint8(0))
    assert {tensor.name: tensor.data_type for tensor in model.graph.initializer}["z"] == onnx.TensorProto.UINT8
    values = np.linspace(0, 25.5, 512, dtype=np.float32)
    to_signed(model)
    onnx.checker.check_model(model, full_check=True)
    (found,) = ReferenceEvaluator(model).run(None, {"x": values})
    np.testing.assert_allclose(found, values, atol=25.5 / 127 / 2 + 1e-5)
    assert len(np.unique(found)) == 128


@needed
def test_is_silent_the_same_twice_and_leaves_the_logging_as_it_was(
    source: Model, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    kind = logging.getLoggerClass()
    first, second = (quantized(source, tmp_path / folder) for folder in "ab")
    assert first.file.read_bytes() == second.file.read_bytes()
    assert "".join(capfd.readouterr()) == ""
    assert logging.getLoggerClass() is kind
    facts = {entry.key: entry.value for entry in onnx.load(first.file).metadata_props}
    assert json.loads(facts[CALIBRATION])["tool"] == "nncf"


@needed
def test_its_telemetry_is_off() -> None:
    code = (
        "from paretune.compression.quantize.nncf import library; library(); "
        "from nncf.telemetry.wrapper import NNCFTelemetryStub, telemetry; "
        "print(isinstance(telemetry, NNCFTelemetryStub))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (run.stdout, run.stderr) == ("True\n", "")


def test_missing_it_is_told_in_one_line(source: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"tool nncf is not installed \(pip install 'paretune\[nncf\]'\)"):
        quantized(source, tmp_path)
