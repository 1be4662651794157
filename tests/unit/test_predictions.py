"""``paretune predict``: boxes in images from the artefact alone; what cannot be read is told and does not stop it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from paretune.cli.main import main
from paretune.config.recipe import Recipe
from paretune.core.errors import UserError
from paretune.core.model import Model
from paretune.core.target import Target
from paretune.core.types import InputSize
from paretune.data.image_io import read_image
from paretune.data.preprocess import Preprocess
from paretune.detectors.yolox.detector import Yolo
from paretune.runtimes.artefact_writer import write_artefact
from paretune.runtimes.predictor import load_predictor
from tests_support_yolo import DETECTOR, yolo_artefact

CLASSES = ("ant", "bee")


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return yolo_artefact(tmp_path_factory.mktemp("eager") / "artefact", CLASSES)


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    files = [tmp_path / "one.png", tmp_path / "two.jpg", tmp_path / "other" / "one.png"]
    (tmp_path / "other").mkdir()
    for number, file in enumerate(files):
        cv2.imwrite(str(file), np.random.default_rng(number).integers(0, 256, (60, 80 + number, 3), np.uint8))
    return files


def predict(*words: Any) -> int:
    return main(["predict", *map(str, words)])


def test_draws_boxes_with_nothing_else_given(
    artefact: Path, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert predict(artefact, *images) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    predictor = load_predictor(artefact, Target())
    for file, line in zip(images, lines, strict=True):
        found = predictor(read_image(file))
        counts = [int(((found.labels == label) & (found.scores >= 0.3)).sum()) for label in range(2)]
        said = [f"{count} {CLASSES[label]}" for label, count in sorted(enumerate(counts), key=lambda e: -e[1]) if count]
        assert line == f"{file}: {', '.join(said)}"
        assert said
    assert last == "pictures: predictions"
    for name, file in zip(("one.png", "two.png", "one_2.png"), images, strict=True):
        drawn, own = read_image(tmp_path / "predictions" / name), read_image(file)
        assert drawn.shape == own.shape
        assert (np.abs(drawn.astype(int) - own).max(-1) > 40).mean() > 0.02


def test_json_has_every_box_and_draws_only_when_asked_to(
    artefact: Path, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    found = load_predictor(artefact, Target())(read_image(images[0]))
    confidence = float(np.median(found.scores))
    assert predict(artefact, images[0], "--json", "--confidence", confidence) == 0
    body = json.loads(capsys.readouterr().out)
    (entry,) = body["images"]
    assert (body["confidence"], entry["image"]) == (confidence, str(images[0]))
    assert not (tmp_path / "predictions").exists()
    sure = found.scores >= confidence
    assert 0 < sure.sum() < len(sure)
    assert [e["class"] for e in entry["detections"]] == [CLASSES[label] for label in found.labels[sure]]
    np.testing.assert_allclose([e["box"] for e in entry["detections"]], found.boxes[sure], atol=0.01)
    np.testing.assert_allclose([e["score"] for e in entry["detections"]], found.scores[sure], atol=1e-4)
    assert predict(artefact, images[0], "--json", "--out", tmp_path / "drawn") == 0
    picture = json.loads(capsys.readouterr().out)["images"][0]["picture"]
    assert picture == str(tmp_path / "drawn" / "one.png")
    assert Path(picture).is_file()


def test_what_cannot_be_read_is_told_and_the_others_are_done(
    artefact: Path, images: list[Path], tmp_path: Path, capsys: Any
) -> None:
    broken, missing = tmp_path / "broken.jpg", tmp_path / "missing.jpg"
    broken.write_bytes(images[1].read_bytes()[:200])
    out = tmp_path / "out"
    assert predict(artefact, broken, images[0], missing, images[1], "--out", out) == 1
    told = capsys.readouterr()
    assert [line.split(":")[0] for line in told.err.splitlines()[:2]] == [str(broken), str(missing)]
    assert told.err.splitlines()[2:] == ["2 of 4 images could not be read"]
    assert sorted(path.name for path in out.iterdir()) == ["one.png", "two.png"]
    assert predict(artefact, broken, images[0], "--json") == 1
    entries = json.loads(capsys.readouterr().out)["images"]
    assert [set(entry) for entry in entries] == [{"image", "error"}, {"image", "detections"}]
    assert predict(artefact, images[0], "--json") == 0
    for nothing in ([broken], [missing, broken]):
        assert predict(artefact, *nothing, "--json") == 2


def test_a_large_image_is_drawn_pixel_for_pixel_with_larger_letters(artefact: Path, tmp_path: Path) -> None:
    file = tmp_path / "large.png"
    cv2.imwrite(str(file), np.random.default_rng(5).integers(0, 256, (613, 2001, 3), np.uint8))
    assert predict(artefact, file, "--out", tmp_path / "out") == 0
    assert read_image(tmp_path / "out" / "large.png").shape == (613, 2001, 3)


@pytest.mark.parametrize("runtime", [{"onnxruntime": {"provider": "cuda"}}, {"tensorrt": {}}])
def test_a_runtime_that_needs_a_gpu_is_given_one_unasked(
    runtime: dict[str, Any], images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    recipe = Recipe.model_validate({"input_size": "64", "runtime": runtime})
    file = tmp_path / "no.onnx"
    file.write_bytes(b"nothing")
    model = Model(None, file, InputSize(64, 64), params=1, flops=1)
    told: dict[str, Any] = {"runtime": recipe.runtime, "recipe_tree": recipe.tree(), "classes": CLASSES}
    folder = write_artefact(tmp_path / "artefact", model, detector=DETECTOR, **told).folder
    assert json.loads((folder / "artefact.json").read_text())["device"] == "cuda"
    asked: list[Target] = []

    def loaded(_: Path, target: Target) -> Any:
        asked.append(target)
        raise UserError("loaded")

    monkeypatch.setattr("paretune.workflows.predict.load_predictor", loaded)
    monkeypatch.setattr("paretune.workflows.evaluate.load_predictor", loaded)
    for words in (["predict", folder, images[0]], ["evaluate", folder, "--threads", 2]):
        assert main(list(map(str, words))) == 2
    assert predict(folder, images[0], "--device", "cpu") == 2
    assert asked == [Target(device="cuda"), Target(device="cuda", threads=2), Target(device="cpu")]
    said = [line.partition(", which")[0] for line in capsys.readouterr().err.splitlines()]
    assert said == ["target: cuda", "loaded", "target: cuda", "loaded", "loaded"]


def test_an_artefact_preprocesses_as_it_tells_whatever_its_detector_does_now(
    artefact: Path, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = read_image(images[0])
    before, _ = load_predictor(artefact, Target()).preprocess(image)
    told = json.loads((artefact / "artefact.json").read_text())["preprocessing"]
    assert (told["resize"], told["fill"], told["order"], told["scale"]) == ("letterbox", 114, "bgr", 1.0)
    assert before[0, 0, -1, 0] == told["fill"]  # 80x60 in 64x64: grey at the bottom
    assert (before[0, :, 0, 0] == cv2.resize(image, (64, 48), interpolation=cv2.INTER_LINEAR)[0, 0, ::-1]).all()
    monkeypatch.setattr(Yolo, "preprocess", Preprocess("stretch", order="rgb"))
    after, _ = load_predictor(artefact, Target()).preprocess(image)
    assert np.array_equal(before, after)
