"""What every runtime must do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from paretune.core import errors
from paretune.core.errors import UserError
from paretune.core.model import Model
from paretune.core.registry import Registry
from paretune.core.target import Target
from paretune.core.types import InputSize
from paretune.detectors import DETECTORS
from paretune.runtimes import RUNTIMES
from paretune.runtimes.artefact_writer import write_artefact
from paretune.runtimes.base import Runtime
from paretune.runtimes.predictor import Predictor, load_predictor
from paretune.storage.artefact import Artefact
from paretune.testing.fake_detector import FAKE_ROW, FakeDetector, noise_pictures, write_fake_onnx
from paretune.testing.plugin_contract import PluginContract

SIZE = InputSize(16, 12)
REQUIRED = {"runtime", "threads", "precision"}
"""Facts that every loaded network has."""


class RuntimeContract(PluginContract):
    """Tests of one runtime on an artefact of a tiny network; skipped where its libraries or its device are missing."""

    plugin: ClassVar[Runtime]
    table: ClassVar[Registry[Any]] = RUNTIMES
    table_module = "paretune.runtimes"
    table_name = "RUNTIMES"
    heavy = ("torch", "onnx", "cv2")
    touch = "from paretune.core.target import Target; made.unsupported_reason(Target())"

    @pytest.fixture
    def target(self, subject: Runtime) -> Target:
        """Return a target that it runs on."""
        target = Target(device=subject.own_device)
        if reason := subject.unsupported_reason(target):
            pytest.skip(reason)
        return target

    @pytest.fixture
    def network(self) -> Any:
        """Return the tiny network."""
        torch.manual_seed(0)
        return FakeDetector().build(2).eval()

    @pytest.fixture
    def artefact(
        self, subject: Runtime, target: Target, network: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Artefact:
        """Return the tiny network in the format that the runtime accepts."""
        assert target.device in subject.devices
        monkeypatch.setitem(DETECTORS.rows, "fake", FAKE_ROW)
        if subject.accepts == "torch":
            model = Model(network, None, SIZE)
        else:
            model = Model(None, write_fake_onnx(network, SIZE, tmp_path / "made.onnx"), SIZE)
        return write_artefact(
            tmp_path / "artefact", model, detector=FakeDetector(), runtime=subject, recipe_tree={}, classes=("a", "b")
        )

    @pytest.fixture
    def predictor(self, artefact: Artefact, target: Target) -> Iterator[Predictor]:
        """Return the loaded artefact."""
        before = torch.get_num_threads()
        yield load_predictor(artefact.folder, target)
        torch.set_num_threads(before)

    def test_runs_the_network_of_the_artefact(self, predictor: Predictor, network: Any) -> None:
        """The raw maps are those of the network in eager, in the detector's order."""
        batch = np.random.default_rng(0).random((1, 3, SIZE.height, SIZE.width), np.float32)
        raw = predictor.core(batch)
        with torch.no_grad():
            expected = network(torch.from_numpy(batch))
        assert isinstance(raw, tuple)
        for got, tensor in zip(raw, expected, strict=True):
            assert isinstance(got, np.ndarray)
            assert got.dtype == np.float32
            np.testing.assert_allclose(got, tensor.numpy(), atol=1e-5)

    def test_its_parts_are_the_networks_that_it_loaded(self, predictor: Predictor) -> None:
        """Parity is checked on the parts one by one."""
        batch = np.random.default_rng(0).random((1, 3, SIZE.height, SIZE.width), np.float32)
        assert list(predictor.core.parts) == ["core"]
        for got, expected in zip(predictor.core.parts["core"](batch), predictor.core(batch), strict=True):
            np.testing.assert_array_equal(got, expected)

    def test_is_deterministic_and_keeps_its_outputs(self, predictor: Predictor) -> None:
        """An output is no buffer that the next inference overwrites."""
        rng = np.random.default_rng(0)
        one, two = (rng.random((1, 3, SIZE.height, SIZE.width), np.float32) for _ in range(2))
        first = predictor.core(one)
        kept = [raw.copy() for raw in first]
        predictor.core(two)
        again = predictor.core(one)
        for raw, copied, repeated in zip(first, kept, again, strict=True):
            np.testing.assert_array_equal(raw, copied)
            np.testing.assert_array_equal(raw, repeated)

    def test_leaves_its_input_alone(self, predictor: Predictor) -> None:
        """The batch that it was given is unchanged."""
        batch = np.random.default_rng(0).random((1, 3, SIZE.height, SIZE.width), np.float32)
        copied = batch.copy()
        predictor.core(batch)
        np.testing.assert_array_equal(batch, copied)

    def test_its_facts_are_what_really_runs(self, predictor: Predictor) -> None:
        """Version, threads and precision are read back from the library."""
        facts = predictor.facts
        assert facts.keys() >= REQUIRED
        assert facts["threads"] == 1
        assert facts["precision"] in {"fp32", "bf16", "fp16", "int8"}
        assert all(isinstance(value, str | int) for value in facts.values())
        assert any(character.isdigit() for character in str(facts["runtime"]))  # the version

    @pytest.mark.parametrize("threads", [1, 2])
    def test_takes_the_threads_of_the_target(self, artefact: Artefact, target: Target, threads: int) -> None:
        """The number of threads that runs is the number that was asked for."""
        before = torch.get_num_threads()
        try:
            asked = target.model_copy(update={"threads": threads})
            assert load_predictor(artefact.folder, asked).facts["threads"] == threads
        finally:
            torch.set_num_threads(before)

    def test_finds_boxes_in_pixels_of_the_image(self, predictor: Predictor) -> None:
        """Stage by stage and at once, boxes lie in the image."""
        image = noise_pictures(side=40)[0]
        detections = predictor(image)
        assert detections.boxes.shape == (len(detections.scores), 4)
        assert (detections.boxes >= 0).all()
        assert (detections.boxes <= 40).all()
        batch, placement = predictor.preprocess(image)
        stepwise = predictor.postprocess(predictor.core(batch), placement)
        np.testing.assert_array_equal(stepwise.boxes, detections.boxes)

    def test_refuses_a_device_it_has_not(self, artefact: Artefact, subject: Runtime) -> None:
        """A GPU that it does not use, or that is not there, is refused by a line."""
        if "cuda" in subject.devices and torch.cuda.is_available():
            pytest.skip("this machine has a GPU")
        with pytest.raises(UserError, match=f"{subject.name} does not run it here.*(cuda|GPU)"):
            load_predictor(artefact.folder, Target(device="cuda"))

    def test_a_damaged_artefact_is_not_run(self, artefact: Artefact, target: Target) -> None:
        """One changed bit is found before anything runs."""
        file = next(path for path in artefact.folder.iterdir() if path.suffix in {".onnx", ".safetensors"})
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(bytes(content))
        with pytest.raises(UserError, match="damaged"):
            load_predictor(artefact.folder, target)

    def test_a_library_that_is_not_installed_is_refused_before_anything_is_built(
        self, subject: Runtime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The reason names the library and the command that installs it."""
        target, library = Target(device=subject.own_device), subject.libraries[0]
        monkeypatch.setattr(errors, "find_spec", lambda name: None if name == library else object())
        assert subject.unsupported_reason(target) == f"{subject.name} needs {errors.needed([library])}"
