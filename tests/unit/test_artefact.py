"""Artefacts: the manifest tells all of them, and a folder is replaced as a whole or not at all."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from paretune.core.model import Model
from paretune.core.types import Thresholds
from paretune.detectors.yolox.detector import Yolo
from paretune.networks.network_files import copy_network
from paretune.runtimes import RUNTIMES
from paretune.runtimes.artefact_writer import write_artefact
from paretune.runtimes.base import Runtime
from paretune.storage.artefact import MANIFEST, Artefact, read_artefact
from paretune.storage.atomic_files import new_folder
from tests_support_compression import CLASSES, model

DETECTOR = Yolo(width=0.0625, depthwise=False)
THRESHOLDS = Thresholds(score=0.02, detections=9)
RECIPE = {"input_size": "64x48", "steps": [{"prune": {"ratio": 0.5}}]}


@pytest.fixture(params=["eager", "onnxruntime"])
def runtime(request: pytest.FixtureRequest) -> Runtime:
    return RUNTIMES.load(request.param)()


@pytest.fixture
def finished(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A network, or a file whose content nobody reads here."""
    made = model(DETECTOR).noted("told once")
    if runtime.accepts == "torch":
        return made
    file = tmp_path_factory.mktemp("work") / "any.onnx"
    file.write_bytes(b"any")
    return replace(made, network=None, file=file)


def write(folder: Path, finished: Model, runtime: Runtime) -> Artefact:
    more = {"classes": CLASSES, "thresholds": THRESHOLDS, "seed": 5}
    return write_artefact(folder, finished, detector=DETECTOR, runtime=runtime, recipe_tree=RECIPE, **more)


def test_the_manifest_tells_all_of_it(finished: Model, runtime: Runtime, tmp_path: Path) -> None:
    written = write(tmp_path / "artefact", finished, runtime)
    assert written == read_artefact(tmp_path / "artefact")
    assert (written.detector, written.runtime, written.recipe) == (DETECTOR.named(), runtime.named(), RECIPE)
    assert (written.classes, written.input_size, written.thresholds) == (CLASSES, finished.input_size, THRESHOLDS)
    assert (written.params, written.flops, written.notes) == (finished.params, finished.flops, ("told once",))
    assert written.format == runtime.accepts
    assert (written.seed, written.device) == (5, "cpu")
    told = json.loads((written.folder / MANIFEST).read_text())["preprocessing"]
    assert told["mean"] == [0, 0, 0]
    assert told["std"] == [1, 1, 1]
    assert told["shrinking"] == "halved as often as it goes, then bilinear"
    files = [path for path in written.folder.iterdir() if path.name != MANIFEST]
    assert written.size_mib == sum(path.stat().st_size for path in files) / 2**20 > 0


def test_writing_again_replaces_it_and_leaves_nothing_beside(finished: Model, runtime: Runtime, tmp_path: Path) -> None:
    write(tmp_path / "artefact", finished, runtime)
    again = write(tmp_path / "artefact", replace(finished, notes=("second",)), runtime)
    assert read_artefact(tmp_path / "artefact").notes == again.notes == ("second",)
    assert [path.name for path in tmp_path.iterdir()] == ["artefact"]


def test_a_model_that_the_runtime_cannot_load_is_not_written(finished: Model, runtime: Runtime, tmp_path: Path) -> None:
    (other,) = (RUNTIMES.load(name)() for name in ("eager", "onnxruntime") if name != runtime.name)
    with pytest.raises(ValueError, match=f"runtime '{other.name}' loads"):
        write(tmp_path / "artefact", finished, other)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_not_finite_leave_the_artefact_before_as_it_was(tmp_path: Path) -> None:
    eager, made = RUNTIMES.load("eager")(), model(DETECTOR)
    first = write(tmp_path / "artefact", made, eager)
    spoilt = copy_network(made.network)
    with torch.no_grad():
        next(spoilt.parameters()).fill_(torch.inf)
    with pytest.raises(ValueError, match="not finite"):
        write(tmp_path / "artefact", replace(made, network=spoilt), eager)
    assert read_artefact(tmp_path / "artefact") == first
    assert [path.name for path in tmp_path.iterdir()] == ["artefact"]


def test_a_new_folder_removes_what_a_killed_process_left_of_it(tmp_path: Path) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    for name in (f".mine.{dead.pid}.part", f".mine.{os.getppid()}.part", f".other.{dead.pid}.part"):
        (tmp_path / name).mkdir()
    with new_folder(tmp_path / "mine") as draft:
        (draft / "file").write_text("whole")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"mine", f".mine.{os.getppid()}.part", f".other.{dead.pid}.part"}  # one that still writes stays
