"""What every runtime must do; a new row in the table is tested without another line here."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch

from paretune.core import errors
from paretune.core.errors import UserError
from paretune.core.model import Model
from paretune.core.target import Target
from paretune.core.types import InputSize
from paretune.detectors import DETECTORS
from paretune.runtimes import RUNTIMES
from paretune.runtimes.artefact_writer import write_artefact
from paretune.runtimes.predictor import load_predictor
from tests_support import heavy_imports
from tests_support_profiling import FAKE_ROW, FakeDetector, images, onnx_of

SIZE = InputSize(16, 12)
REQUIRED = {"runtime", "threads", "precision"}


SLOW = {"compiled"}
"""Runtimes that take their time to load anything; what is made for the tests is kept, so one minute is enough."""
ROWS = [
    pytest.param(name, marks=[pytest.mark.slow, pytest.mark.timeout(240)] if name in SLOW else [])
    for name in RUNTIMES.names
]


@pytest.fixture(params=ROWS)
def runtime(request):
    cls = RUNTIMES.load(request.param)
    for library in cls.libraries:
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"{library} is not installed")
    if "cpu" not in cls.devices and not torch.cuda.is_available():
        pytest.skip(f"{request.param} needs a GPU")
    return cls()


@pytest.fixture
def target(runtime):
    return Target(device="cpu" if "cpu" in runtime.devices else "cuda")


@pytest.fixture
def network():
    torch.manual_seed(0)
    return FakeDetector().build(2).eval()


@pytest.fixture
def artefact(runtime, network, tmp_path, monkeypatch):
    """The same fake network for every runtime, in the format it accepts."""
    monkeypatch.setitem(DETECTORS.rows, "fake", FAKE_ROW)
    if runtime.accepts == "torch":
        model = Model(network, None, SIZE)
    else:
        model = Model(None, onnx_of(network, SIZE, tmp_path / "made.onnx"), SIZE)
    return write_artefact(
        tmp_path / "artefact", model, detector=FakeDetector(), runtime=runtime, recipe_tree={}, classes=("a", "b")
    )


@pytest.fixture
def predictor(artefact, target):
    before = torch.get_num_threads()
    yield load_predictor(artefact.folder, target)
    torch.set_num_threads(before)


def test_runs_the_network_of_the_artefact(predictor, network):
    batch = np.random.default_rng(0).random((1, 3, SIZE.height, SIZE.width), np.float32)
    raw = predictor.core(batch)
    with torch.no_grad():
        wanted = network(torch.from_numpy(batch))
    assert isinstance(raw, tuple)
    for got, tensor in zip(raw, wanted, strict=True):
        assert isinstance(got, np.ndarray)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, tensor.numpy(), atol=1e-5)


def test_its_parts_are_the_networks_that_it_loaded(predictor):
    """Parity is checked on them one by one."""
    batch = np.random.default_rng(0).random((1, 3, SIZE.height, SIZE.width), np.float32)
    assert list(predictor.core.parts) == ["core"]
    for got, wanted in zip(predictor.core.parts["core"](batch), predictor.core(batch), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_is_deterministic_and_keeps_its_outputs(predictor):
    """An output must not be a buffer that the next inference overwrites."""
    rng = np.random.default_rng(0)
    one, two = (rng.random((1, 3, SIZE.height, SIZE.width), np.float32) for _ in range(2))
    first = predictor.core(one)
    kept = [raw.copy() for raw in first]
    predictor.core(two)
    again = predictor.core(one)
    for raw, copy, repeated in zip(first, kept, again, strict=True):
        np.testing.assert_array_equal(raw, copy)
        np.testing.assert_array_equal(raw, repeated)


def test_leaves_its_input_alone(predictor):
    batch = np.random.default_rng(0).random((1, 3, SIZE.height, SIZE.width), np.float32)
    copy = batch.copy()
    predictor.core(batch)
    np.testing.assert_array_equal(batch, copy)


def test_tells_what_really_runs(predictor, runtime):
    facts = predictor.facts
    assert facts.keys() >= REQUIRED
    assert facts["threads"] == 1
    assert facts["precision"] in {"fp32", "bf16", "fp16", "int8"}
    assert all(isinstance(value, str | int) for value in facts.values())
    assert any(character.isdigit() for character in str(facts["runtime"]))  # the version


@pytest.mark.parametrize("threads", [1, 2])
def test_takes_the_threads_of_the_target(artefact, target, threads):
    before = torch.get_num_threads()
    try:
        wanted = target.model_copy(update={"threads": threads})
        assert load_predictor(artefact.folder, wanted).facts["threads"] == threads
    finally:
        torch.set_num_threads(before)


def test_finds_boxes_in_pixels_of_the_image(predictor):
    image = images(side=40)[0]
    found = predictor(image)
    assert found.boxes.shape == (len(found.scores), 4)
    assert (found.boxes >= 0).all()
    assert (found.boxes <= 40).all()
    stepwise_batch, placement = predictor.preprocess(image)
    stepwise = predictor.postprocess(predictor.core(stepwise_batch), placement)
    np.testing.assert_array_equal(stepwise.boxes, found.boxes)


def test_refuses_a_device_it_has_not(artefact, runtime):
    """Either it does not run on GPUs at all, or there is none here."""
    if "cuda" in runtime.devices and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match=f"{runtime.name} does not run it here.*(cuda|GPU)"):
        load_predictor(artefact.folder, Target(device="cuda"))


def test_a_damaged_artefact_is_not_run(artefact, target):
    file = next(path for path in artefact.folder.iterdir() if path.suffix in {".onnx", ".safetensors"})
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(UserError, match="damaged"):
        load_predictor(artefact.folder, target)


@pytest.mark.parametrize("name", RUNTIMES.names)
def test_a_library_that_is_not_installed_is_told_before_anything_is_built(name, monkeypatch):
    runtime = RUNTIMES.load(name)()
    target = Target(device=runtime.devices[0])
    library = runtime.libraries[0]
    monkeypatch.setattr(errors, "find_spec", lambda name: None if name == library else object())
    assert runtime.unsupported_reason(target) == f"{name} needs {library}: not installed here (pip install {library})"


def test_their_files_import_no_library():
    """`paretune check` reads every plug-in's fields in about a second; what hinders one on a CPU is told as quickly."""
    touch = "from paretune.core.target import Target; made.unsupported_reason(Target())"
    assert heavy_imports("paretune.runtimes", "RUNTIMES", ("torch", "onnx", "cv2"), touch) == ""
