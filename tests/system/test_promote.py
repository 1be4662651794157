"""A promoted trial loads by ``mlflow.pyfunc`` in an environment without Paretune, and finds what its artefact does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paretune.cli.main import main
from paretune.core.target import Target
from paretune.runtimes.predictor import load_predictor
from paretune.tracking.mlflow_client import database_uri
from tests_support import ROOT
from tests_support_deploy import exported

UV = Path(sys.executable).with_name("uv")
ARCHIVE = ROOT / "tests" / "data" / "sweep_of_0.1.0.zip"
HEAVY = ("torch", "ray", "optuna", "torchvision", "openvino")
LOAD = """
import importlib.util, json, sys
import numpy as np
assert importlib.util.find_spec("paretune") is None, "Paretune is installed here"
missing = [name for name in {heavy!r} if importlib.util.find_spec(name) is not None]
assert missing == [], missing
import mlflow
mlflow.set_tracking_uri({uri!r})
model = mlflow.pyfunc.load_model({model!r})
table = model.predict(np.load({images!r}))
with open({out!r}, "w") as file:
    json.dump(table.to_dict("list"), file)
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep on disk, logged; its trial 1 is a network that sees something, unlike the one trained there."""
    place = tmp_path_factory.mktemp("promoted")
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(place)
    artefact = place / "runs" / "before" / "trials" / "0001" / "artefact"
    shutil.rmtree(artefact)
    exported(place / "made", "yolo", ("onnxruntime",))["onnxruntime"].rename(artefact)
    assert main(["sync", "before", "--runs", str(place / "runs")]) == 0
    return place / "runs"


def promoted(runs: Path, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["promote", "before", "--runs", str(runs), "--json", *words]) == 0
    made: dict[str, Any] = json.loads(capsys.readouterr().out)
    return made


def test_a_version_has_its_alias_and_is_made_once(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from mlflow import MlflowClient

    front = json.loads((runs / "before" / "front" / "front.json").read_text())
    target = front["target"]
    first, again = promoted(runs, capsys), promoted(runs, capsys)
    assert first == again
    assert first["alias"] == f"fastest-{target}"
    other = next(number for number in range(3) if number != front["best"]["trial"])
    second = promoted(runs, capsys, "--trial", str(other))
    assert (second["alias"], int(second["version"])) == (f"trial-{other}", int(first["version"]) + 1)
    client = MlflowClient(tracking_uri=database_uri(runs))
    version = client.get_model_version_by_alias("before", f"fastest-{target}")
    assert version.tags["paretune.trial"] == str(front["best"]["trial"])
    assert client.get_run(version.run_id).data.tags["paretune.trial"] == str(front["best"]["trial"])


def test_it_predicts_in_an_environment_without_paretune(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow import MlflowClient

    if not UV.is_file():
        pytest.skip("uv is not installed beside this Python: `make setup` had to take pip")
    made = promoted(runs, capsys, "--trial", "1")
    version = MlflowClient(tracking_uri=database_uri(runs)).get_model_version("before", made["version"])
    requirements = runs / "mlartifacts" / str(version.run_id) / "artifacts" / "model" / "requirements.txt"
    python = tmp_path / "env" / "bin" / "python"
    asked = [*("pip", "install", "--python", python), *("-c", ROOT / "constraints.txt", "-r", requirements)]
    for words in (["venv", "--python", sys.executable, tmp_path / "env"], asked):
        done = subprocess.run([UV, *map(str, words)], capture_output=True, text=True, check=False, cwd=ROOT)
        assert done.returncode == 0, done.stderr
    images = np.random.default_rng(0).integers(0, 255, (3, 96, 128, 3), np.uint8)
    np.save(tmp_path / "images.npy", images)
    code = LOAD.format(
        heavy=HEAVY,
        uri=database_uri(runs),
        model=made["uri"],
        images=str(tmp_path / "images.npy"),
        out=str(tmp_path / "found.json"),
    )
    around = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False, env=around)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    predictor = load_predictor(
        Path(shutil.copytree(runs / "before" / "trials" / "0001" / "artefact", tmp_path / "here")), Target()
    )
    rows = []
    for number, image in enumerate(images):
        one = predictor(image)
        rows += [
            (number, predictor.artefact.classes[int(label)], score, *box)
            for box, score, label in zip(one.boxes, one.scores, one.labels, strict=True)
        ]
    assert len(rows) > 5
    assert [(image, label) for image, label, *_ in rows] == list(zip(found["image"], found["label"], strict=True))
    figures = [[float(value) for value in row[2:]] for row in rows]
    named = [list(row) for row in zip(*(found[name] for name in ("score", "x1", "y1", "x2", "y2")), strict=True)]
    assert np.allclose(figures, named, rtol=0, atol=1e-4)
