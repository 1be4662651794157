"""A bundle's own loader, where it may import its runtime and numpy only, against Paretune's predictor."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paretune.cli.main import main
from paretune.compression.export import Export
from paretune.compression.quantize.step import Quantize
from paretune.config.recipe import Recipe
from paretune.core.model import Model
from paretune.core.target import Target
from paretune.core.types import InputSize
from paretune.data.preprocess import IN_FLOAT, SHRINKING, Preprocess
from paretune.runtimes import RUNTIMES
from paretune.runtimes.artefact_writer import write_artefact
from paretune.runtimes.predictor import load_predictor
from paretune.storage.artefact import read_artefact
from paretune.workflows.bundle import _template, export_artefact, write_loader
from tests_support import ROOT
from tests_support_compression import context
from tests_support_deploy import CLASSES, DETECTORS, detecting_network

ARCHIVE = ROOT / "tests" / "data" / "sweep_of_0.1.0.zip"
SIZES = ((211, 333), (97, 64), (480, 641), (128, 160), (31, 500))
PIXELS, SHARE = 0.01, 1e-4
"""Farthest that a corner may lie away, in pixels of the image, and a score."""
TORCH = ("eager", "compiled")
BLOCKED = ("paretune", "cv2", "pydantic", "PIL", "yaml", "ray", "mlflow", "optuna")
RUNS = """\
import json, sys
from importlib.abc import MetaPathFinder

class Blocker(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Blocker())
import importlib.util
import numpy as np
spec = importlib.util.spec_from_file_location("detect", sys.argv[1] + "/detect.py")
loader = importlib.util.module_from_spec(spec)
spec.loader.exec_module(loader)
images = np.load(sys.argv[2])
found = {{}}
for name in images.files:
    for kind, array in zip(("boxes", "scores", "labels"), loader.detect(images[name])):
        found[name + kind] = array
np.savez(sys.argv[3], **found)
"""


def images() -> dict[str, Any]:
    """Pictures of odd sizes with edges of all directions, and noise."""
    random, made = np.random.default_rng(0), {}
    for number, (height, width) in enumerate(SIZES):
        y, x = np.mgrid[:height, :width]
        waves = np.stack([np.sin(x / (3 + k) + y / (7 - k)) for k in range(3)], axis=-1) * 90 + 128
        made[str(number)] = np.clip(waves + random.normal(0, 25, waves.shape), 0, 255).astype(np.uint8)
    return made


def found_by(python: str, bundle: Path, place: Path, blocked: tuple[str, ...]) -> Any:
    """What the loader of a bundle finds in the pictures, in a process of its own."""
    np.savez(place / "images.npz", **images())
    words = [python, "-I", "-c", RUNS.format(blocked=blocked), bundle, place / "images.npz", place / "found.npz"]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return np.load(place / "found.npz")


def same(found: Any, artefact: Path) -> tuple[int, float, float]:
    """Hold the boxes to the predictor's; returns their number, and the largest differences of corners and scores.

    Boxes are matched by class and place: near ties may change their order, and a box at a threshold may be missing.
    """
    predictor, count, off, apart, lost = load_predictor(artefact, Target()), 0, 0.0, 0.0, 0
    for name, image in images().items():
        expected = predictor(image)
        boxes, scores, labels = (found[name + kind] for kind in ("boxes", "scores", "labels"))
        assert abs(len(boxes) - len(expected.boxes)) <= max(1, len(expected.boxes) // 20)
        for box, score, label in zip(expected.boxes, expected.scores, expected.labels, strict=True):
            away = np.abs(boxes - box).max(axis=1) + np.where(labels == label, 0, np.inf)
            nearest = int(away.argmin())
            if away[nearest] > PIXELS or abs(scores[nearest] - score) > SHARE:
                lost += 1
                continue
            off, apart = max(off, float(away[nearest])), max(apart, float(abs(scores[nearest] - score)))
            count += 1
    assert count >= 20
    assert lost <= count // 20, (count, lost)
    return count, off, apart


@pytest.fixture(scope="module")
def artefact_of(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A function that returns an untrained network, which surely finds something, as an artefact."""
    models: dict[tuple[str, str], Model] = {}

    def made(family: str, runtime: str, kind: str = "float") -> Path:
        place = tmp_path_factory.mktemp(family)
        detector, size = DETECTORS[family]
        form = kind if runtime in ("onnxruntime", "openvino", "tensorrt") else "torch"
        if (family, form) not in models:
            around, model = context(place, detector), Model(detecting_network(family), None, size, params=1, flops=1)
            if form != "torch":
                model = Export().apply(model, around)
            if form == "int8":
                model = Quantize(images=4).apply(model, around)
            models[family, form] = model
        recipe = Recipe.model_validate({"input_size": str(size), "runtime": runtime})
        told: dict[str, Any] = {"runtime": recipe.runtime, "recipe_tree": recipe.tree(), "classes": CLASSES}
        return write_artefact(place / "artefact", models[family, form], detector=detector, **told).folder

    return made


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "runtime", "kind"),
    [
        ("yolo", "onnxruntime", "float"),
        ("yolo", "openvino", "float"),
        ("ssd", "onnxruntime", "float"),
        ("faster_rcnn", "onnxruntime", "float"),
        *(
            pytest.param(family, runtime, kind, marks=pytest.mark.full)
            for family, runtime, kind in (
                ("ssd", "openvino", "float"),
                ("faster_rcnn", "openvino", "float"),
                *((family, runtime, "int8") for family in DETECTORS for runtime in ("onnxruntime", "openvino")),
                *((family, runtime, "float") for family in DETECTORS for runtime in ("eager", "compiled")),
            )
        ),
    ],
)
def test_the_loader_finds_what_the_predictor_finds(
    family: str, runtime: str, kind: str, artefact_of: Any, tmp_path: Path
) -> None:
    artefact = artefact_of(family, runtime, kind)
    assert export_artefact(artefact, tmp_path / "out")["loader_missing"] is None
    found = found_by(sys.executable, tmp_path / "out", tmp_path, (*BLOCKED, *(() if runtime in TORCH else ("torch",))))
    count, off, apart = same(found, artefact)
    print(family, runtime, kind, count, off, apart)  # shown by -s


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_the_requirements_are_enough_in_an_empty_environment(runtime: str, artefact_of: Any, tmp_path: Path) -> None:
    artefact = artefact_of("yolo", runtime)
    export_artefact(artefact, tmp_path / "out")
    python, uv = tmp_path / "env" / "bin" / "python", Path(sys.executable).with_name("uv")
    for words in (
        ["venv", "--python", sys.executable, tmp_path / "env"],
        ["pip", "install", "--python", python, "-r", tmp_path / "out" / "requirements.txt"],
    ):
        done = subprocess.run([uv, *map(str, words)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    same(found_by(str(python), tmp_path / "out", tmp_path, ()), artefact)


@pytest.mark.parametrize("shrinking", [SHRINKING, IN_FLOAT])
@pytest.mark.parametrize("resize", ["letterbox", "stretch"])
def test_images_are_resized_as_by_the_predictor(shrinking: Any, resize: Any) -> None:
    module: dict[str, Any] = {}
    exec(_template("math_begin"), module)  # noqa: S102 - what bundles hold
    for order, fill in (("rgb", 114), ("bgr", "mean")):
        how = Preprocess(resize=resize, order=order, fill=fill, mean=(0.4, 0.5, 0.6), shrinking=shrinking)  # type: ignore[arg-type]
        for image in images().values():
            settings = {"preprocessing": how.tree(), "input_size": [160, 128]}
            batch, scales = module["network_input"](image, settings)
            expected, placement = how(image, InputSize(160, 128))
            assert np.abs(batch[0] - expected).max() < 1e-5
            assert scales[:2] == pytest.approx([placement.scale_x, placement.scale_y])


@pytest.mark.parametrize("runtime", RUNTIMES.names)
def test_every_runtime_has_a_loader_that_is_python(runtime: str) -> None:
    compile(_template(runtime) + _template("detect_end"), runtime, "exec")
    assert 20 <= len(_template(runtime).splitlines()) <= 50


def test_what_has_no_loader_gets_one_reason(artefact_of: Any) -> None:
    artefact = read_artefact(artefact_of("yolo", "eager"))
    for other, word in (
        (replace(artefact, runtime={"packed": {}}), "runtime packed"),
        (replace(artefact, detector={"fake": {}}), "detector fake"),
    ):
        assert word in str(write_loader(other, Target(), {}))
        assert not artefact.file("detect.py").exists()


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(tmp_path)  # noqa: S202 - our own
    return tmp_path / "runs"


def test_a_trial_is_exported_with_its_figures_whole(runs: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    words = [
        "export",
        "before",
        "--runs",
        str(runs),
        "--trial",
        "1",
        "--out",
        str(out),
        "--archive",
        ".tar.gz",
        "--json",
    ]
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["trial"], told["rule"]["kind"]) == (1, "trial")
    listed = json.loads((out / "manifest.json").read_text())["files"]
    for name, facts in listed.items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == facts["sha256"]
    assert {*listed, "manifest.json"} == {path.name for path in out.iterdir() if path.is_file()}
    with tarfile.open(told["archive"]) as archive:
        assert f"out/{next(iter(listed))}" in archive.getnames()
    card = (out / "README.md").read_text()
    assert all(
        word in card for word in ("latency_ms", "the images hold no large objects", "AMD EPYC", "onnxruntime 1.32")
    )
    check = [sys.executable, str(out / "detect.py"), "--check"]
    assert subprocess.run(check, capture_output=True, check=False).returncode == 0
    (out / "settings.json").write_text((out / "settings.json").read_text() + " ")
    assert subprocess.run(check, capture_output=True, check=False).returncode == 1
    assert main(["export", str(out), "--out", str(tmp_path / "again")]) == 0  # of a bundle
    assert json.loads((tmp_path / "again" / "bundle.json").read_text())["figures"] == told["figures"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--trial", "9"], "no trial 9"),
        (["--target", "phone"], "no target 'phone'"),
        (["--max-latency", "1us"], "no point of the front"),
    ],
)
def test_what_cannot_be_exported_ends_with_2(
    words: list[str], reason: str, runs: Path, tmp_path: Path, capsys: Any
) -> None:
    assert main(["export", "before", "--runs", str(runs), "--out", str(tmp_path / "out"), *words]) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
