"""Artefacts: another process computes the same from the folder alone; a flipped byte is found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from paretune.compression.base import Context
from paretune.compression.export import Export
from paretune.compression.prune.step import Prune
from paretune.core.errors import UserError
from paretune.core.model import Model
from paretune.core.types import Thresholds
from paretune.detectors.yolox.detector import Yolo
from paretune.runtimes import RUNTIMES
from paretune.runtimes.artefact_writer import write_artefact
from paretune.runtimes.base import Runtime
from paretune.storage.artefact import MANIFEST, Artefact, read_artefact
from paretune.storage.atomic_files import new_folder
from tests_support_compression import CLASSES, context, model, pictures

pytestmark = pytest.mark.slow

DETECTOR = Yolo(width=0.125, depthwise=False)
THRESHOLDS = Thresholds(score=0.02, detections=9)
RECIPE = {"input_size": "64x48", "steps": [{"prune": {"ratio": 0.5}}]}
ELSEWHERE = """
import sys, numpy as np
from pathlib import Path
from paretune.runtimes.predictor import load_predictor
from paretune.core.target import Target
predictor = load_predictor(Path(sys.argv[1]), Target())
images = np.load(sys.argv[2])
raw = predictor.core(predictor.preprocess(images)[0])
np.savez(sys.argv[3], *raw)
print(len(predictor(images).scores), predictor.artefact.params, 'torch' in sys.modules)
"""


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Context:
    return context(tmp_path_factory.mktemp("work"), DETECTOR)


@pytest.fixture(scope="module")
def pruned(used: Context) -> Model:
    return Prune(ratio=0.5).apply(model(DETECTOR), used).noted("told once")


@pytest.fixture(scope="module", params=["eager", "onnxruntime"])
def runtime(request: pytest.FixtureRequest) -> Runtime:
    return RUNTIMES.load(request.param)()


@pytest.fixture(scope="module")
def finished(runtime: Runtime, pruned: Model, used: Context) -> Model:
    return Export().apply(pruned, used) if runtime.accepts == "onnx" else pruned


def write(folder: Path, finished: Model, runtime: Runtime) -> Artefact:
    return write_artefact(
        folder,
        finished,
        detector=DETECTOR,
        runtime=runtime,
        recipe_tree=RECIPE,
        classes=CLASSES,
        thresholds=THRESHOLDS,
        seed=5,
    )


@pytest.mark.slow
def test_another_process_computes_the_same(finished: Model, pruned: Model, runtime: Runtime, tmp_path: Path) -> None:
    import torch

    written = write(tmp_path / "artefact", finished, runtime)
    picture = pictures(1).pictures[0]
    np.save(tmp_path / "picture.npy", picture)
    arguments = [str(written.folder), str(tmp_path / "picture.npy"), str(tmp_path / "raw.npz")]
    run = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, *arguments], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    found, params, torch_needed = run.stdout.split()
    assert int(found) <= THRESHOLDS.detections
    assert int(params) == pruned.params
    assert torch_needed == str(runtime.name == "eager")
    planes, _ = DETECTOR.preprocess(picture, pruned.input_size)
    with torch.no_grad():
        wanted = pruned.network(torch.from_numpy(planes[None]))
    with np.load(tmp_path / "raw.npz") as raw:
        for expected, name in zip(wanted, raw.files, strict=True):
            scale = float(expected.abs().max())
            assert np.abs(expected.numpy() - raw[name]).max() <= 1e-4 * scale


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


def test_a_flipped_byte_in_any_file_is_found(finished: Model, runtime: Runtime, tmp_path: Path) -> None:
    written = write(tmp_path / "artefact", finished, runtime)
    files = [path for path in written.folder.iterdir() if path.name != MANIFEST]
    assert files
    for path in files:
        good = path.read_bytes()
        for place in (0, len(good) // 2, len(good) - 1):
            bad = bytearray(good)
            bad[place] ^= 1
            path.write_bytes(bad)
            with pytest.raises(UserError, match=f"{path.name}: damaged or missing"):
                read_artefact(written.folder)
        path.unlink()
        with pytest.raises(UserError, match=f"{path.name}: damaged or missing"):
            read_artefact(written.folder)
        path.write_bytes(good)
    assert read_artefact(written.folder) == written


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


def test_weights_that_are_not_finite_leave_the_artefact_before_as_it_was(pruned: Model, tmp_path: Path) -> None:
    import torch

    from paretune.networks.network_files import copy_network

    eager = RUNTIMES.load("eager")()
    first = write(tmp_path / "artefact", pruned, eager)
    spoilt = copy_network(pruned.network)
    with torch.no_grad():
        next(spoilt.parameters()).fill_(torch.inf)
    with pytest.raises(ValueError, match="not finite"):
        write(tmp_path / "artefact", replace(pruned, network=spoilt), eager)
    assert read_artefact(tmp_path / "artefact") == first
    assert [path.name for path in tmp_path.iterdir()] == ["artefact"]


def test_a_new_folder_removes_what_a_killed_process_left_of_it(tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    for name in (f".mine.{dead.pid}.part", f".mine.{os.getppid()}.part", f".other.{dead.pid}.part"):
        (tmp_path / name).mkdir()
    with new_folder(tmp_path / "mine") as draft:
        (draft / "file").write_text("whole")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"mine", f".mine.{os.getppid()}.part", f".other.{dead.pid}.part"}  # one that still writes stays
