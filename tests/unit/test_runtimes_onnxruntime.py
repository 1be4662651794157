"""What is particular to ONNX Runtime, and to files that TensorRT reads; contract tests have the rest."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from pydantic import ValidationError

from paretune.core.target import Target
from paretune.core.types import InputSize
from paretune.detectors import DETECTORS
from paretune.runtimes import onnx_session as onnxsession
from paretune.runtimes import onnxruntime
from paretune.runtimes.onnx_header import check_tensorrt_integers, contents_of
from paretune.runtimes.onnx_session import open_session
from paretune.runtimes.onnxruntime import OnnxRuntime
from paretune.runtimes.tensorrt import TensorRt, halved
from paretune.system.shared_libraries import not_found
from tests_support_profiling import FAKE_ROW, onnx_of
from tests_support_runtimes import SIZE, artefact_of, fake_network, quantized

GPU = Target(device="cuda")
EVERY = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]


def on(provider):
    return OnnxRuntime(provider=provider, precision="fp16" if provider == "tensorrt" else "fp32")


@pytest.fixture(autouse=True)
def _fake_detector(monkeypatch):
    monkeypatch.setitem(DETECTORS.rows, "fake", FAKE_ROW)


@pytest.fixture
def network():
    return fake_network()


@pytest.fixture
def model_file(network, tmp_path):
    return onnx_of(network, SIZE, tmp_path / "made.onnx")


@pytest.mark.parametrize("form", ["float", "half", "QDQ", "QOperator", "dynamic"])
def test_what_a_file_holds_is_what_onnx_reads(model_file, tmp_path, form):
    file = tmp_path / "made.onnx"
    if form == "half":
        file.write_bytes(halved(model_file))
    elif form != "float":
        quantized(model_file, file, form)
    graph, found = onnx.load(file).graph, contents_of(file)
    assert found.operators == {node.op_type for node in graph.node}
    assert found.types == {tensor.data_type for tensor in graph.initializer}
    assert found.precision == {"float": "fp32", "half": "fp16"}.get(form, "int8")
    assert found.for_tensorrt == (form in {"float", "half"})  # zero points are not 0
    if not found.for_tensorrt:
        with pytest.raises(RuntimeError, match=r"TensorRT does not read the INT8 of made.onnx, which is for CPUs"):
            check_tensorrt_integers(file)


def test_onnxruntime_tells_the_precision_of_an_artefact(model_file, tmp_path):
    file = quantized(model_file, tmp_path / "int8.onnx")
    core = OnnxRuntime().load(artefact_of(tmp_path / "artefact", file=file), Target())
    assert core.facts["precision"] == "int8"
    assert "file" not in core.facts


def test_onnxruntime_widens_halves_on_a_cpu_and_says_so(model_file, tmp_path):
    """Its own profile is the oracle: what the convolutions are given."""
    half = tmp_path / "half.onnx"
    half.write_bytes(halved(model_file))
    artefact = artefact_of(tmp_path / "artefact", file=half)
    facts = OnnxRuntime().load(artefact, Target()).facts
    assert (facts["precision"], facts["file"]) == ("fp32", "fp16")
    session = open_session(artefact.file("model.onnx"), 1, profile=tmp_path)
    session.run(None, {"images": np.zeros((1, 3, 12, 16), np.float32)})
    events = json.loads(Path(session.end_profiling()).read_text())
    given = [
        event["args"]["input_type_shape"] for event in events if "Conv" in event.get("args", {}).get("op_name", "")
    ]
    assert given
    assert {kind for inputs in given for entry in inputs for kind in entry} == {"float"}


@pytest.mark.parametrize(
    ("provider", "file", "told"),
    [
        ("auto", "int8", {"precision": "fp32", "file": "int8"}),
        ("auto", "fp16", {"precision": "fp16"}),
        ("auto", "fp32", {"precision": "fp32"}),
        ("tensorrt", "fp16", {"precision": "fp16"}),
        ("tensorrt", "signed", {"precision": "int8"}),
    ],
)
def test_onnxruntime_tells_what_a_gpu_computes_in(model_file, tmp_path, provider, file, told, monkeypatch):
    """CUDA has no kernels for pairs of QuantizeLinear and DequantizeLinear, only for what lies between them."""
    made = tmp_path / "made.onnx"
    if file == "fp16":
        made.write_bytes(halved(model_file))
    elif file == "fp32":
        made = model_file
    else:
        quantized(model_file, made, "QDQ", signed=file == "signed")
    asked = on_a_gpu(monkeypatch, tmp_path)
    core = on(provider).load(artefact_of(tmp_path / "artefact", file=made), GPU)
    assert {key: core.facts[key] for key in ("precision", "file") if key in core.facts} == told
    if provider == "tensorrt":
        (options,) = [providers[EVERY[0]] for providers in asked]
        assert options["trt_int8_enable"] == str(int(file == "signed"))
        assert options["trt_fp16_enable"] == "1"
        assert options["trt_sparsity_enable"] == "1"


def test_onnxruntime_does_not_give_tensorrt_what_it_leaves_to_cuda(model_file, tmp_path, monkeypatch):
    on_a_gpu(monkeypatch, tmp_path)
    artefact = artefact_of(tmp_path / "artefact", file=quantized(model_file, tmp_path / "int8.onnx"))
    with pytest.raises(RuntimeError, match="not signed with zero points of 0"):
        on("tensorrt").load(artefact, GPU)


def on_a_gpu(monkeypatch, folder):
    """Open sessions on the CPU that say they are on the providers asked for; returns what each was asked for."""
    asked = []

    def session(file, threads, providers, _profile):
        asked.append(providers)
        made = open_session(file, threads)
        monkeypatch.setattr(type(made), "get_providers", lambda _: list(providers))
        return made

    monkeypatch.setattr(onnxruntime, "private_folder", lambda _: folder)
    monkeypatch.setattr(onnxsession.library(), "get_available_providers", lambda: EVERY)
    monkeypatch.setattr(onnxruntime, "open_session", session)
    return asked


def test_onnxruntime_session_is_set_as_asked(model_file):
    options = open_session(model_file, 2).get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (2, 1)
    assert options.execution_mode.name == "ORT_SEQUENTIAL"
    assert options.graph_optimization_level.name == "ORT_ENABLE_ALL"
    assert options.get_session_config_entry("session.force_spinning_stop") == "1"


def test_onnxruntime_with_other_threads_than_asked_for_is_refused(model_file, tmp_path, monkeypatch):
    monkeypatch.setattr(onnxruntime, "open_session", lambda file, *_: open_session(file, 1))
    with pytest.raises(RuntimeError, match="with 1 thread, not as asked for"):
        OnnxRuntime().load(artefact_of(tmp_path / "artefact", file=model_file), Target(threads=2))


@pytest.mark.parametrize("provider", ["auto", "cuda", "tensorrt"])
def test_onnxruntime_without_the_provider_says_which_it_has(model_file, tmp_path, provider, monkeypatch):
    monkeypatch.setattr(onnxsession.library(), "get_available_providers", lambda: ["CPUExecutionProvider"])
    word = "cuda" if provider == "auto" else provider
    with pytest.raises(RuntimeError, match=f"no provider {word}, only CPUExecutionProvider: not on cuda"):
        on(provider).load(artefact_of(tmp_path / "a", file=model_file), Target(device="cuda"))
    said = on(provider).unsupported_reason(Target(device="cuda"))
    assert said == f"this onnxruntime has no provider {word}, only CPUExecutionProvider: not on cuda"


def test_onnxruntime_knows_nothing_against_a_provider_that_is_there(monkeypatch):
    monkeypatch.setattr(onnxsession.library(), "get_available_providers", lambda: EVERY)
    assert on("tensorrt").unsupported_reason(GPU) is None
    assert OnnxRuntime().unsupported_reason(Target()) is None


def test_onnxruntimes_tensorrt_has_no_float32(model_file, tmp_path, monkeypatch):
    """It would be TF32, and say that it is fp32."""
    on_a_gpu(monkeypatch, tmp_path)
    runtime = OnnxRuntime(provider="tensorrt")
    told = "cannot be told to leave TF32, .* take precision: fp16, or runtime tensorrt"
    assert re.search(told, runtime.unsupported_reason(GPU))
    with pytest.raises(RuntimeError, match=told):
        runtime.load(artefact_of(tmp_path / "a", file=model_file), GPU)
    assert on("tensorrt").unsupported_reason(GPU) is OnnxRuntime().unsupported_reason(GPU) is None


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_onnxruntime_tells_which_libraries_its_provider_lacks(model_file, tmp_path, provider, monkeypatch):
    """The wheel has all providers compiled in, whether TensorRT is installed or not."""
    monkeypatch.setattr(onnxsession.library(), "get_available_providers", lambda: EVERY)
    monkeypatch.setattr(
        onnxruntime, "load_libraries", {"cuda": ("libcudnn.so.9",), "tensorrt": ("libnvinfer.so.10",)}.get
    )
    runtime = on(provider)
    told = r"provider cuda needs libcudnn.so.9|provider tensorrt needs libnvinfer.so.10"
    assert re.match(f"onnxruntime: ({told}): not found here$", runtime.unsupported_reason(GPU))
    with pytest.raises(RuntimeError, match=told):
        runtime.load(artefact_of(tmp_path / "a", file=model_file), GPU)


@pytest.fixture
def provider_file(tmp_path, monkeypatch):
    """A provider of TensorRT that is linked to a library with a name of its own, from a package that is not loaded."""
    if shutil.which("g++") is None:
        pytest.skip("there is no g++")
    package, capi = tmp_path / "tensorrt_libs", tmp_path / "onnxruntime" / "capi"
    package.mkdir()
    capi.mkdir(parents=True)
    linked, name = capi / "libonnxruntime_providers_tensorrt.so", f"lib{tmp_path.name}.so.10"
    build = ["g++", "-shared", "-xc++", os.devnull, "-xnone", "-Wl,--no-as-needed"]
    subprocess.run([*build, f"-Wl,-soname,{name}", "-o", package / name], check=True)
    subprocess.run([*build, package / name, "-o", linked], check=True)
    (package / "__init__.py").write_text(
        f"import ctypes, pathlib\nctypes.CDLL(str(pathlib.Path(__file__).with_name({name!r})))\n"
    )
    monkeypatch.setattr(onnxsession.library(), "__file__", str(tmp_path / "onnxruntime" / "__init__.py"))
    return linked


def test_what_pip_installed_is_loaded_before_a_library_is_called_missing(provider_file, tmp_path, monkeypatch):
    (library,) = (tmp_path / "tensorrt_libs").glob("*.so.10")
    load = onnxsession.load_libraries.__wrapped__
    assert load("tensorrt") == (library.name,)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt_libs", raising=False)
    assert load("cuda") == ()  # there is no such file: nothing is known
    assert load("tensorrt") == ()
    monkeypatch.setenv("PATH", "")
    assert not_found(provider_file) == []
    monkeypatch.delitem(sys.modules, "tensorrt_libs")


@pytest.mark.parametrize(("provider", "device"), [("cpu", "cuda"), ("cuda", "cpu"), ("tensorrt", "cpu")])
def test_onnxruntime_provider_and_target_must_be_of_one_device(model_file, tmp_path, provider, device):
    with pytest.raises(RuntimeError, match=f"provider {provider} does not run on {device}"):
        on(provider).load(artefact_of(tmp_path / "a", file=model_file), Target(device=device))
    assert f"provider {provider} does not run on {device}" in on(provider).unsupported_reason(Target(device=device))


def test_onnxruntime_that_falls_back_to_another_provider_is_refused(model_file, tmp_path, monkeypatch):
    """Its own habit is to go on on the CPU with a warning."""
    monkeypatch.setattr(onnxsession.library(), "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "open_session", lambda file, *_: open_session(file, 1))
    with pytest.raises(RuntimeError, match="runs on CPUExecutionProvider with 1 thread, not as asked for"):
        OnnxRuntime().load(artefact_of(tmp_path / "artefact", file=model_file), Target(device="cuda"))


def options_of(runtime, file, target=GPU):
    return runtime._options(runtime._providers(target), file)


def test_onnxruntime_tells_its_providers_what_they_need(model_file, monkeypatch, tmp_path):
    monkeypatch.setattr(onnxruntime, "private_folder", lambda _: tmp_path)
    monkeypatch.setattr(onnxsession.library(), "get_available_providers", lambda: EVERY)
    assert options_of(OnnxRuntime(), model_file, Target()) == {"CPUExecutionProvider": {}}
    assert options_of(OnnxRuntime(), model_file) == {"CUDAExecutionProvider": {"use_tf32": "0"}}
    found = options_of(on("tensorrt"), model_file)
    assert list(found) == EVERY[:2]
    assert found[EVERY[0]]["trt_fp16_enable"] == "1"


def test_engines_of_two_networks_do_not_meet_though_their_files_have_one_name(network, tmp_path, monkeypatch):
    """ONNX Runtime looks engines up by the names of file and tensors: with one folder it ran another network's."""
    monkeypatch.setattr(onnxruntime, "private_folder", lambda _: tmp_path)
    monkeypatch.setattr(onnxsession.library(), "get_available_providers", lambda: EVERY)

    def cache(kind):
        return options_of(on("tensorrt"), tmp_path / kind / "model.onnx")[EVERY[0]]["trt_engine_cache_path"]

    for kind in ("one", "same", "other"):
        (tmp_path / kind).mkdir()
        onnx_of(network, SIZE, tmp_path / kind / "model.onnx")
        with torch.no_grad():
            network.stem.weight.mul_(2 if kind == "same" else 1)
    assert Path(cache("one")).is_dir()
    assert cache("one") == cache("same")
    assert cache("one") != cache("other")


def test_onnxruntime_has_fp16_on_tensorrt_only():
    with pytest.raises(ValidationError, match="precision: fp16 is for provider: tensorrt only"):
        OnnxRuntime(precision="fp16")


def test_tensorrt_is_for_gpus(model_file, tmp_path):
    with pytest.raises(RuntimeError, match="tensorrt runs on cuda, not on cpu"):
        TensorRt().load(artefact_of(tmp_path / "artefact", file=model_file, runtime=TensorRt()), Target())


def test_a_halved_file_computes_in_float16_between_float32_ends(network, model_file, tmp_path):
    """What TensorRT is given for fp16; ONNX Runtime runs it too."""
    half = tmp_path / "half.onnx"
    half.write_bytes(halved(model_file))
    graph = onnx.load(half).graph
    assert {tensor.data_type for tensor in graph.initializer} == {onnx.TensorProto.FLOAT16}
    ends = {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
    assert ends == {onnx.TensorProto.FLOAT}
    batch = np.random.default_rng(0).random((1, 3, 12, 16), np.float32)
    with torch.no_grad():
        wanted = network(torch.from_numpy(batch))
    for got, raw in zip(open_session(half, 1).run(["boxes", "scores"], {"images": batch}), wanted, strict=True):
        assert 0 < np.abs(got - raw.numpy()).max() < 0.01 * np.abs(raw.numpy()).max()


def test_a_file_of_another_input_size_is_refused(model_file, tmp_path):
    artefact = artefact_of(tmp_path / "artefact", file=model_file, size=InputSize(32, 32))
    with pytest.raises(RuntimeError, match=r"expected one float input 'images' of shape \(1, 3, 32, 32\)"):
        OnnxRuntime().load(artefact, Target())


def test_a_file_without_one_of_the_maps_is_refused(network, tmp_path):
    file = onnx_of(network, SIZE, tmp_path / "half.onnx", outputs=("boxes",))
    with pytest.raises(RuntimeError, match="has no output 'scores'; it has boxes"):
        OnnxRuntime().load(artefact_of(tmp_path / "artefact", file=file), Target())
