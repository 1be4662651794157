"""The repository's own rules."""

from __future__ import annotations

import importlib
import platform
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from paretune.core.target import Target
from tests_support import ROOT

PACKAGE = ROOT / "platform" / "paretune"
MOST = 320
"""Lines of a file,"""
ORCHESTRATORS = {"workflows/sweep.py": 200, "workflows/trial.py": 200, "cli/main.py": 100}
"""and of those that only call others."""


def test_platform_is_the_standard_library():
    assert Path(platform.__file__).parent == Path(sysconfig.get_path("stdlib"))


@pytest.mark.slow
def test_platform_stays_the_standard_library_from_the_repository_root():
    code = "import platform, uuid, torch; print(platform.system())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == platform.system()


def test_platform_folder_holds_only_packages():
    assert sorted(p.name for p in (ROOT / "platform").glob("*.py")) == []
    folders = {p.name for p in (ROOT / "platform").iterdir() if p.is_dir() and p.name[0] not in "._"}
    assert folders == {"paretune", "deploy", "guides"}  # deploy: how the same source is installed where it is deployed
    assert not [path for name in ("deploy", "guides") for path in (ROOT / "platform" / name).rglob("*.py")]


def test_files_stay_short():
    lines = {str(path.relative_to(PACKAGE)): path.read_text().count("\n") for path in PACKAGE.rglob("*.py")}
    assert ORCHESTRATORS.keys() <= lines.keys()
    assert {name: count for name, count in lines.items() if count > ORCHESTRATORS.get(name, MOST)} == {}


@pytest.mark.parametrize(
    "place",
    [
        "paretune.compression.base:Step",
        "paretune.data.base:Dataset",
        "paretune.detectors.base:Detector",
        "paretune.profiling.gpu:GPUProfiler",
        "paretune.runtimes.base:Runtime",
        "paretune.runtimes.predictor:load_predictor",
        "paretune.target:Target",
    ],
)
def test_public_import_paths_stay(place):
    module, _, name = place.partition(":")
    found = getattr(importlib.import_module(module), name)
    assert found.__name__ == name
    assert Target is importlib.import_module("paretune.target").Target


@pytest.mark.parametrize(
    ("command", "forbidden"),
    [
        (["--help"], {"torch", "ray", "mlflow", "optuna", "pydantic"}),
        (["check", "jobs/quickstart.yaml"], {"torch", "ray", "mlflow", "optuna", "cv2", "onnxruntime"}),
        (["plugins"], {"torch", "ray", "mlflow", "optuna", "onnxruntime"}),
    ],
)
def test_quick_verbs_import_nothing_heavy(command, forbidden):
    code = (
        "import sys; from paretune.cli.main import main\n"
        "try:\n    code = main(sys.argv[1:])\nexcept SystemExit as stop:\n    code = stop.code or 0\n"
        "print('\\nMODULES', code, *{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code, *command], cwd=ROOT, capture_output=True, text=True, check=True)
    exit_code, *modules = done.stdout.rpartition("MODULES ")[2].split()
    assert exit_code == "0", done.stdout + done.stderr
    assert forbidden & set(modules) == set()
