"""A deployment: numpy, OpenCV and the artefact's runtime are all there is, and the same is found as with everything."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from paretune.cli.main import main
from paretune.data.image_io import read_image
from tests_support_deploy import CLASSES, DETECTORS, alone, exported, run_alone, seen, seen_here

RUNTIMES = ("onnxruntime", "openvino")
OURS = {"paretune", "numpy", "cv2"}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A PNG, and a JPEG that its camera held sideways."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("pictures")
    files = [folder / "größe.png", folder / "turned.jpg"]
    for number, file in enumerate(files):
        blocks = np.random.default_rng(number).integers(0, 256, (12, 17, 3), np.uint8)
        picture = Image.fromarray(cv2.resize(blocks, (170, 120), interpolation=cv2.INTER_NEAREST))
        turned = Image.Exif()
        turned[0x0112] = 6
        picture.save(file, **({"exif": turned, "quality": 95} if file.suffix == ".jpg" else {}))
    return files


@pytest.fixture(scope="module")
def artefacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """One of each family for each runtime."""
    work = tmp_path_factory.mktemp("artefacts")
    made = [exported(work, family, RUNTIMES) for family in DETECTORS]
    return {runtime: [each[runtime] for each in made] for runtime in RUNTIMES}


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_same_is_found_with_three_packages(
    runtime: str, artefacts: dict[str, list[Path]], pictures: list[Path], tmp_path: Path
) -> None:
    path = alone(tmp_path / "site", "numpy", "cv2", runtime)
    found, modules = seen(sys.executable, path, artefacts[runtime], pictures)
    expected = seen_here(artefacts[runtime], pictures)
    assert modules - set(sys.stdlib_module_names) <= {*OURS, runtime, "__main__"} | {m for m in modules if m[0] == "_"}
    for one, other in zip(found, expected, strict=True):
        assert len(one.scores) >= 5
        assert np.array_equal(one.boxes, other.boxes)
        assert np.array_equal(one.scores, other.scores)
        assert np.array_equal(one.labels, other.labels)


def test_a_deployment_imports_what_loads_artefacts(tmp_path: Path) -> None:
    """With numpy and OpenCV alone: no runtime either."""
    found, modules = seen(sys.executable, alone(tmp_path / "site", "numpy", "cv2"), [], [])
    assert found == []
    assert {"paretune", "numpy"} <= modules
    assert not modules & {"pydantic", "PIL", "matplotlib", "yaml", "torch", "ray", "mlflow", "rich"}


@pytest.mark.slow
def test_predict_draws_and_tells_the_same_with_three_packages(
    artefacts: dict[str, list[Path]], pictures: list[Path], tmp_path: Path, capsys: Any
) -> None:
    artefact = artefacts["onnxruntime"][0]
    path = alone(tmp_path / "site", "numpy", "cv2", "onnxruntime")
    done = run_alone(path, "predict", artefact, *pictures, "--out", tmp_path / "there", "--json")
    assert done.returncode == 0
    assert main(["predict", str(artefact), *map(str, pictures), "--out", str(tmp_path / "here"), "--json"]) == 0
    out, err = capsys.readouterr()
    assert done.stderr == err
    expected = json.loads(out)
    for entry in expected["images"]:
        entry["picture"] = entry["picture"].replace("here", "there")
    assert json.loads(done.stdout) == expected
    for name in ("größe.png", "turned.png"):
        drawn = read_image(tmp_path / "there" / name)
        assert np.array_equal(drawn, read_image(tmp_path / "here" / name))
    assert {entry["class"] for image in expected["images"] for entry in image["detections"]} <= set(CLASSES)


NOT_FOR_THIS = "not installed here (pip install py"
"""What pydantic and pyyaml are missed with, whichever is imported first."""


@pytest.mark.slow
def test_what_is_missing_is_told_in_one_line(
    artefacts: dict[str, list[Path]], pictures: list[Path], tmp_path: Path
) -> None:
    artefact, picture = artefacts["onnxruntime"][0], pictures[0]
    bare, no_opencv = alone(tmp_path / "bare", "numpy", "cv2"), alone(tmp_path / "no", "numpy", "onnxruntime")
    told = {
        ("predict", artefact, picture): "which needs onnxruntime: not installed here (pip install onnxruntime)",
        ("sweep", "job.yaml"): NOT_FOR_THIS,
        ("train", "job.yaml"): NOT_FOR_THIS,
        ("check", "job.yaml"): NOT_FOR_THIS,
        ("evaluate", artefact): "which needs onnxruntime: not installed here",
        ("data", "check", tmp_path): NOT_FOR_THIS,
        ("plugins",): NOT_FOR_THIS,
        ("front", "quickstart"): NOT_FOR_THIS,
    }
    for words, line in told.items():
        done = run_alone(bare, *words)
        assert (done.returncode, done.stdout) == (2, ""), words
        assert line in done.stderr
        assert len(done.stderr.splitlines()) == 1
    done = run_alone(alone(tmp_path / "there", "numpy", "cv2", "onnxruntime"), "evaluate", artefact)
    assert (done.returncode, done.stdout) == (2, "")
    assert NOT_FOR_THIS in done.stderr
    done = run_alone(no_opencv, "predict", artefact, picture)
    assert done.returncode == 2
    assert done.stderr.endswith("opencv-python-headless: not installed here (pip install opencv-python-headless)\n")
    assert run_alone([str(tmp_path / "nothing"), *no_opencv[:1]], "predict", artefact, picture).returncode == 2


@pytest.mark.slow
def test_what_only_pillow_reads_is_told_and_the_rest_is_done(
    artefacts: dict[str, list[Path]], pictures: list[Path], tmp_path: Path
) -> None:
    odd = tmp_path / "odd.png"
    odd.write_bytes(b"no picture at all")
    path = alone(tmp_path / "site", "numpy", "cv2", "onnxruntime")
    done = run_alone(path, "predict", artefacts["onnxruntime"][0], odd, pictures[0], "--json")
    assert done.returncode == 1
    assert "pip install pillow" in done.stderr
    assert [set(entry) >= {"detections"} for entry in json.loads(done.stdout)["images"]] == [False, True]


@pytest.mark.slow
def test_a_deployment_within_a_training_takes_the_usual_target_or_says_what_to_name(
    artefacts: dict[str, list[Path]], pictures: list[Path], tmp_path: Path
) -> None:
    path = alone(tmp_path / "site", "numpy", "cv2", "onnxruntime")
    place = tmp_path / "sweep" / "trials" / "0001" / "artefact"
    shutil.copytree(artefacts["onnxruntime"][0], place)
    (tmp_path / "sweep" / "sweep.json").write_text(json.dumps({"job": {"targets": {"edge": {"threads": 2}}}}))
    done = run_alone(path, "predict", place, pictures[0], "--json")
    assert done.returncode == 0
    assert "target: cpu, 2 threads" in done.stderr
    (tmp_path / "sweep" / "sweep.json").unlink()
    (place / "job.yaml").write_text("targets: {edge: {threads: 2}}\n")
    done = run_alone(path, "predict", place, pictures[0], "--json")
    assert done.returncode == 2
    assert "name one with --device and --threads" in done.stderr
    assert run_alone(path, "predict", place, pictures[0], "--json", "--device", "cpu", "--threads", "1").returncode == 0
