"""Every runtime on a GPU: the numbers of eager on a CPU, in the precision asked for."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from paretune.compression.quantize.torch_int8 import quantize_network
from paretune.core.model import Model
from paretune.core.target import Target
from paretune.core.types import InputSize
from paretune.detectors import DETECTORS
from paretune.profiling.latency.deployment import deployed
from paretune.profiling.latency.measure import measure
from paretune.runtimes import tensorrt as ours
from paretune.runtimes.artefact_writer import write_artefact
from paretune.runtimes.base import NetworkRunner
from paretune.runtimes.compiled import Compiled
from paretune.runtimes.eager import Eager
from paretune.runtimes.onnx_session import library
from paretune.runtimes.onnxruntime import OnnxRuntime
from paretune.runtimes.tensorrt import TensorRt
from tests_support_profiles import two_artefacts
from tests_support_profiling import FAKE_ROW, FakeDetector, onnx_of, quick

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU"),
]

SIZE = InputSize(64, 48)
GPU = Target(device="cuda")
SHARES = {"fp32": 1e-5, "fp16": 0.005, "bf16": 0.05}
RUNTIMES = [
    Eager(),
    Eager(precision="fp16"),
    Eager(precision="bf16", channels_last=True),
    Compiled(),
    Compiled(precision="fp16"),
    OnnxRuntime(),
    OnnxRuntime(provider="tensorrt", precision="fp16"),
    TensorRt(),
    TensorRt(precision="fp16"),
]


@pytest.fixture(autouse=True)
def _fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DETECTORS.rows, "fake", FAKE_ROW)


@pytest.fixture
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return FakeDetector().build(2).eval()


def loaded(folder: Path, network: torch.nn.Module, runtime: Any) -> NetworkRunner:
    torch_model = Model(network, None, SIZE)
    model = torch_model if runtime.accepts == "torch" else Model(None, onnx_of(network, SIZE, folder / "a.onnx"), SIZE)
    artefact = write_artefact(
        folder / "artefact", model, detector=FakeDetector(), runtime=runtime, recipe_tree={}, classes=("a", "b")
    )
    return runtime.load(artefact, GPU)


def need(runtime: Any) -> None:
    """Skip where the library, or the provider, is not there."""
    for name in runtime.libraries:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    if isinstance(runtime, OnnxRuntime):
        wanted = "TensorrtExecutionProvider" if runtime.provider == "tensorrt" else "CUDAExecutionProvider"
        if wanted not in library().get_available_providers():
            pytest.skip(f"this onnxruntime has no {wanted}")
        if runtime.provider == "tensorrt" and not has_library("libnvinfer.so.10"):
            pytest.skip("TensorRT's libraries are not installed")


def has_library(name: str) -> bool:
    if importlib.util.find_spec("tensorrt_libs"):
        importlib.import_module("tensorrt_libs")  # it loads them
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


@pytest.mark.parametrize("runtime", RUNTIMES, ids=str)
def test_says_what_eager_says_on_a_cpu(runtime: Any, network: torch.nn.Module, tmp_path: Path) -> None:
    need(runtime)
    core = loaded(tmp_path, network, runtime)
    assert core.facts["precision"] == runtime.precision
    batches = [np.random.default_rng(seed).random((1, 3, 48, 64), np.float32) for seed in range(2)]
    first = core(batches[0])
    kept = [raw.copy() for raw in first]
    core(batches[1])
    with torch.no_grad():
        wanted = network(torch.from_numpy(batches[0]))
    for raw, copy, right in zip(first, kept, wanted, strict=True):
        np.testing.assert_array_equal(raw, copy)  # no buffer that the next inference overwrites
        assert np.abs(raw - right.numpy()).max() < SHARES[runtime.precision] * float(right.abs().max())


def test_float32_is_not_given_to_onnxruntimes_tensorrt(network: torch.nn.Module, tmp_path: Path) -> None:
    """It would be TF32 there; the other runtimes' float32 is compared above."""
    runtime = OnnxRuntime(provider="tensorrt")
    assert "TF32" in str(runtime.unsupported_reason(GPU))
    with pytest.raises(RuntimeError, match="TF32"):
        loaded(tmp_path, network, runtime)


def test_a_provider_of_tensorrt_is_there_with_its_libraries() -> None:
    if "TensorrtExecutionProvider" not in library().get_available_providers():
        pytest.skip("this onnxruntime has no TensorrtExecutionProvider")
    told = OnnxRuntime(provider="tensorrt", precision="fp16").unsupported_reason(GPU)
    assert (told is None) == has_library("libnvinfer.so.10"), told


def test_an_engine_is_built_once(network: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need(TensorRt())
    monkeypatch.setattr(ours, "private_folder", lambda _: tmp_path)
    loaded(tmp_path, network, TensorRt())
    monkeypatch.setattr(ours, "_built", lambda *_: pytest.fail("built again"))
    loaded(tmp_path, network, TensorRt())


def test_int8_layers_of_torch_are_for_a_cpu(network: torch.nn.Module, tmp_path: Path) -> None:
    made = quantize_network(network, FakeDetector(), [np.ones((1, 3, 48, 64), np.float32)])
    with pytest.raises(RuntimeError, match="INT8 layers for a CPU only"):
        loaded(tmp_path, made, Eager())


def test_a_measurement_tells_the_memory_and_what_is_carried(tmp_path: Path) -> None:
    """NVML shows no processes in some containers: then the device's peak is unknown, with the reason."""
    _, folder = two_artefacts(tmp_path)
    image = [np.zeros((48, 64, 3), np.uint8)]
    found = measure(folder, image, GPU, quick(repetitions=1))
    metrics, reasons = found.metrics(), found.reasons
    assert 0 < metrics["allocator_mib_peak"] < 1024
    if "device_mib_peak" in metrics:
        assert metrics["allocator_mib_peak"] < metrics["device_mib_peak"] < 8192
    else:
        assert reasons["device_mib_peak"]
    besides = deployed(folder, image, GPU, quick()).metrics()
    assert 0 < besides["transfer_ms_p50"] < 3 * metrics["network_ms_p50"]
