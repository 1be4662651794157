"""The light distribution in an environment of its own finds in photographs what the full one does."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from tests_support import ROOT
from tests_support_deploy import DETECTORS, exported, seen, seen_here

RUNTIMES = ("onnxruntime", "openvino")
UV = Path(sys.executable).with_name("uv")
BASE = {"numpy", "opencv-python-headless", "paretune-deploy"}


def uv(*words: object) -> str:
    done = subprocess.run([UV, *map(str, words)], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not UV.is_file():
        pytest.skip("uv is not installed beside this Python: `make setup` had to take pip")
    folder = tmp_path_factory.mktemp("wheel")
    uv("build", "--wheel", "--out-dir", folder, ROOT / "platform" / "deploy")
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def artefacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    made = [exported(tmp_path_factory.mktemp(family), family, RUNTIMES) for family in DETECTORS]
    return {runtime: [each[runtime] for each in made] for runtime in RUNTIMES}


@pytest.mark.slow
@pytest.mark.photos
@pytest.mark.timeout(600)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_deployment_of_three_packages_finds_the_same_in_photographs(
    runtime: str, wheel: Path, artefacts: dict[str, list[Path]], photographs: Path, tmp_path: Path
) -> None:
    pictures = [
        file for name in ("bccd", "playing_cards") for file in islice(sorted(photographs.glob(f"{name}/**/*.jpg")), 5)
    ]
    assert len(pictures) == 10
    python = tmp_path / "env" / "bin" / "python"
    uv("venv", "--python", sys.executable, tmp_path / "env")
    uv("pip", "install", "--python", python, "-c", ROOT / "constraints.txt", f"{wheel}[{runtime}]")
    there = {entry["name"] for entry in json.loads(uv("pip", "list", "--format", "json", "--python", python))}
    assert {*BASE, runtime} <= there
    if own := there - BASE - {runtime}:  # what the runtime itself asks for, and can do without
        uv("pip", "uninstall", "--python", python, *own)
    places = [Path(shutil.copytree(place, tmp_path / str(number))) for number, place in enumerate(artefacts[runtime])]
    found, modules = seen(str(python), [], places, pictures)
    assert not modules & {"pydantic", "PIL", "matplotlib", "yaml", "torch", "ray", "mlflow"}
    expected = seen_here(artefacts[runtime], pictures)
    assert sum(len(one.scores) for one in expected) >= 100
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(one.boxes, other.boxes)
        assert np.array_equal(one.scores, other.scores)
        assert np.array_equal(one.labels, other.labels)
    command = [python.with_name("paretune"), "predict", places[0], *pictures, "--out", tmp_path / "seen"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "seen").iterdir())) == 10
    done = subprocess.run([str(command[0]), "sweep", "job.yaml"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert any(f"{name}: not installed here" in done.stderr for name in ("pydantic", "pyyaml"))
