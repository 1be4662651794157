"""What is particular to eager PyTorch and OpenVINO, and what predicting imports; contract tests have the rest."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from paretune.core import errors
from paretune.core.errors import UserError
from paretune.core.model import Model
from paretune.core.target import Target
from paretune.core.types import InputSize
from paretune.detectors import DETECTORS
from paretune.runtimes import eager, openvino
from paretune.runtimes import onnx_session as onnxsession
from paretune.runtimes.artefact_writer import write_artefact
from paretune.runtimes.compiled import Compiled
from paretune.runtimes.eager import Eager
from paretune.runtimes.onnxruntime import OnnxRuntime
from paretune.runtimes.openvino import OpenVino
from paretune.runtimes.predictor import load_predictor
from paretune.runtimes.tensorrt import TensorRt, halved
from tests_support import ROOT
from tests_support_profiling import FAKE_ROW, images, onnx_of
from tests_support_runtimes import SIZE, artefact_of, fake_network, quantized


@pytest.fixture(autouse=True)
def _fake_detector(monkeypatch):
    monkeypatch.setitem(DETECTORS.rows, "fake", FAKE_ROW)


@pytest.fixture
def network():
    return fake_network()


@pytest.fixture
def model_file(network, tmp_path):
    return onnx_of(network, SIZE, tmp_path / "made.onnx")


@pytest.mark.parametrize(("asked", "form", "told"), [("fp32", None, "fp32"), ("fp32", "QDQ", "int8")])
def test_openvino_tells_what_its_layers_compute_in(model_file, tmp_path, asked, form, told):
    """Its own default would be bfloat16 on a CPU that has it."""
    file = model_file if form is None else quantized(model_file, tmp_path / "int8.onnx", form)
    runtime = OpenVino(precision=asked)
    core = runtime.load(artefact_of(tmp_path / "artefact", file=file, runtime=runtime), Target())
    assert core.facts["precision"] == told
    assert "bf16" not in core.facts["layers"]


def test_openvino_runs_in_bfloat16_or_says_that_it_cannot(network, model_file, tmp_path):
    runtime = OpenVino(precision="bf16")
    artefact = artefact_of(tmp_path / "artefact", file=model_file, runtime=runtime)
    told = Path("/proc/cpuinfo").read_text()
    if "avx512_bf16" not in told and "amx_bf16" not in told:
        assert "does not compute bfloat16" in runtime.unsupported_reason(Target())
        if "avx512f" not in told:  # with AVX-512 alone OpenVINO imitates it, slowly
            with pytest.raises(RuntimeError, match="layers in fp32, not in bf16"):
                runtime.load(artefact, Target())
            return
    core = runtime.load(artefact, Target())
    assert core.facts["precision"] == core.facts["layers"] == "bf16"
    batch = np.random.default_rng(0).random((1, 3, 12, 16), np.float32)
    with torch.no_grad():
        wanted = network(torch.from_numpy(batch))
    for got, raw in zip(core(batch), wanted, strict=True):
        assert 0 < np.abs(got - raw.numpy()).max() < 0.05 * np.abs(raw.numpy()).max()


def test_openvino_in_another_precision_than_asked_for_is_refused(model_file, tmp_path, monkeypatch):
    monkeypatch.setattr(openvino, "executed", lambda _: {"bf16"})
    with pytest.raises(RuntimeError, match="layers in bf16, not in fp32"):
        OpenVino().load(artefact_of(tmp_path / "artefact", file=model_file, runtime=OpenVino()), Target())


def test_a_file_of_a_later_onnx_is_told_in_one_line(model_file, tmp_path):
    """As one that was made on a machine with newer libraries."""
    model = onnx.load(model_file)
    model.ir_version = 99
    onnx.save(model, model_file)
    folder = artefact_of(tmp_path / "artefact", file=model_file).folder
    with pytest.raises(UserError) as told:
        load_predictor(folder, Target())
    here = f"{folder}: onnxruntime does not run it here (onnxruntime {onnxsession.library().__version__}): "
    assert str(told.value).startswith(here)
    assert "IR version: 99" in str(told.value)
    assert len(str(told.value).splitlines()) == 1


def test_openvino_takes_a_file_whose_weights_are_halves(network, model_file, tmp_path):
    """It folds the cast behind the input away, and the input then has the name of the cast as well."""
    half = tmp_path / "half.onnx"
    half.write_bytes(halved(model_file))
    core = OpenVino().load(artefact_of(tmp_path / "artefact", file=half, runtime=OpenVino()), Target())
    batch = np.random.default_rng(0).random((1, 3, 12, 16), np.float32)
    with torch.no_grad():
        wanted = network(torch.from_numpy(batch))
    for got, raw in zip(core(batch), wanted, strict=True):
        assert 0 < np.abs(got - raw.numpy()).max() < 0.01 * np.abs(raw.numpy()).max()


def test_openvino_refuses_files_that_are_not_the_detectors(network, model_file, tmp_path):
    larger = artefact_of(tmp_path / "larger", file=model_file, runtime=OpenVino(), size=InputSize(32, 32))
    with pytest.raises(RuntimeError, match=r"expected one float input .images. of shape \(1, 3, 32, 32\)"):
        OpenVino().load(larger, Target())
    half = onnx_of(network, SIZE, tmp_path / "half.onnx", outputs=("boxes",))
    with pytest.raises(RuntimeError, match="has no output 'scores'; it has boxes"):
        OpenVino().load(artefact_of(tmp_path / "half", file=half, runtime=OpenVino()), Target())


def test_eager_reads_its_threads_back(network, tmp_path, monkeypatch):
    before = torch.get_num_threads()
    artefact = artefact_of(tmp_path / "artefact", network=network)
    try:
        assert Eager().load(artefact, Target(threads=2)).facts["threads"] == torch.get_num_threads() == 2
        monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
        with pytest.raises(RuntimeError, match="torch runs 7 threads, not 2"):
            Eager().load(artefact, Target(threads=2))
    finally:
        torch.set_num_threads(before)


def test_eager_needs_the_gpu_it_was_asked_for(network, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="torch finds none"):
        Eager().load(artefact_of(tmp_path / "artefact", network=network), Target(device="cuda"))
    monkeypatch.setattr(errors, "find_spec", lambda _: object())
    for runtime in (Eager(), Compiled(), TensorRt()):
        assert runtime.unsupported_reason(Target(device="cuda")) == "the target is a GPU, and torch finds none"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for runtime in (Eager(), Compiled(), TensorRt()):
        assert runtime.unsupported_reason(Target(device="cuda")) is None


@pytest.mark.parametrize(("precision", "share"), [("fp32", 1e-6), ("bf16", 0.05), ("fp16", 0.005)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_eager_runs_in_the_precision_asked_for(network, tmp_path, precision, share, channels_last):
    runtime = Eager(precision=precision, channels_last=channels_last)
    core = runtime.load(artefact_of(tmp_path / "artefact", network=network, runtime=runtime), Target())
    assert core.facts["precision"] == core.facts["layers"] == precision
    assert core.facts["layout"] == ("channels last" if channels_last else "channels first")
    weight = core.network.stem.weight
    assert str(weight.dtype) == {"fp32": "torch.float32", "bf16": "torch.bfloat16", "fp16": "torch.float16"}[precision]
    assert weight.is_contiguous(memory_format=torch.channels_last) == channels_last
    batch = np.random.default_rng(0).random((1, 3, 12, 16), np.float32)
    with torch.no_grad():
        wanted = network(torch.from_numpy(batch))
    for got, raw in zip(core(batch), wanted, strict=True):
        error = np.abs(got - raw.numpy()).max() / np.abs(raw.numpy()).max()
        assert error < share
        assert (error > 1e-6) == (precision != "fp32")


def test_eager_in_another_precision_than_asked_for_is_refused(network):
    with pytest.raises(RuntimeError, match="the network's weights are fp16, not fp32"):
        eager.read_facts(network.half(), Target(), "fp32")


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_eager_runs_a_detector_of_two_networks_in_low_precision(tmp_path, precision):
    from paretune.detectors.faster_rcnn.detector import FasterRcnn

    torch.manual_seed(0)
    detector, size = FasterRcnn(head_width=32, proposals=10), InputSize(64, 64)
    runtime, model = Eager(precision=precision), Model(detector.build(2).eval(), None, size)
    artefact = write_artefact(
        tmp_path / "artefact", model, detector=detector, runtime=runtime, recipe_tree={}, classes=("a", "b")
    )
    batch = np.random.default_rng(0).random((1, 3, 64, 64), np.float32)
    raw = runtime.load(artefact, Target())(batch)
    assert [entry.shape for entry in raw] == [(1, 10, 4), (1, 10, 3), (1, 10, 12), (1, 2)]
    assert all(entry.dtype == np.float32 and np.isfinite(entry).all() for entry in raw)


def test_eager_keeps_tf32_away():
    """torch lets convolutions run in TF32 unless told: that is not float32."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    try:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
        eager._forbid_tf32()
        precisions = torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision
        assert "tf32" not in precisions
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def test_eager_leaves_no_gradients(network, tmp_path):
    core = Eager().load(artefact_of(tmp_path / "artefact", network=network), Target())
    assert not any(parameter.requires_grad for parameter in core.network.parameters())
    assert not core.network.training


@pytest.mark.parametrize("runtime", [OnnxRuntime(), OpenVino()], ids=lambda runtime: runtime.name)
def test_a_deployed_onnx_artefact_needs_no_torch(model_file, tmp_path, runtime):
    artefact = artefact_of(tmp_path / "artefact", file=model_file, runtime=runtime)
    np.save(tmp_path / "image.npy", images()[0])
    assert _imported_by_predicting(artefact.folder, tmp_path / "image.npy", runtime.name).isdisjoint(HEAVY)


HEAVY = {"torch", "torchvision", "onnx", "ray", "mlflow", "optuna", "matplotlib", "scipy", "torch_pruning"}


def _imported_by_predicting(folder, image, library="onnxruntime"):
    """Load an artefact and predict in a fresh process; returns the top-level modules it imported."""
    code = f"""
import json, sys
sys.path += [{str(ROOT / "platform")!r}, {str(ROOT / "tests")!r}]
import numpy as np
from pathlib import Path
from paretune.detectors import DETECTORS
from paretune.runtimes.predictor import load_predictor
from paretune.core.target import Target
DETECTORS.rows["fake"] = {FAKE_ROW!r}
found = load_predictor(Path({str(folder)!r}), Target())(np.load({str(image)!r}))
assert found.boxes.shape == (len(found.scores), 4)
print(json.dumps(sorted({{name.partition(".")[0] for name in sys.modules}})))
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    modules = set(json.loads(said.stdout))
    assert {library, "cv2", "numpy"} <= modules
    return modules
