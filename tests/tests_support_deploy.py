"""Artefacts that surely find something, and processes in which a deployment's packages are all there is."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import torch

from paretune.compression.export import Export
from paretune.config.recipe import Recipe
from paretune.core.model import Model
from paretune.core.target import Target
from paretune.core.types import Detections, InputSize
from paretune.data.image_io import read_image
from paretune.detectors.base import Detector
from paretune.detectors.faster_rcnn.detector import FasterRcnn
from paretune.detectors.ssd.detector import Ssd
from paretune.detectors.yolox.detector import Yolo
from paretune.runtimes.artefact_writer import write_artefact
from paretune.runtimes.predictor import load_predictor
from tests_support import ROOT
from tests_support_compression import context

CLASSES = ("grüne Zelle", "血小板")
DETECTORS: dict[str, tuple[Detector, InputSize]] = {
    "yolo": (Yolo(depthwise=False, width=0.125), InputSize(160, 128)),
    "ssd": (Ssd(smallest=0.07), InputSize(160, 128)),
    "faster_rcnn": (FasterRcnn(anchor=16, proposals=40), InputSize(160, 128)),
}
SEES = """\
import json, sys
from pathlib import Path

sys.path[:0] = {path!r}
from paretune.data.image_io import read_image
from paretune.runtimes.predictor import load_predictor
from paretune.core.target import Target

artefacts, pictures = json.loads(sys.argv[1])
found = []
for artefact in artefacts:
    predictor = load_predictor(Path(artefact), Target())
    for picture in pictures:
        one = predictor(read_image(Path(picture)))
        found.append([one.boxes.tolist(), one.scores.tolist(), one.labels.tolist()])
here = sorted({{name.partition(".")[0] for name in sys.modules if getattr(sys.modules[name], "__file__", None)}})
print(json.dumps([found, here]))
"""


def detecting_network(family: str) -> torch.nn.Module:
    """An untrained network, made sure of what it sees by its predictors."""
    torch.manual_seed(0)
    detector, _ = DETECTORS[family]
    network = detector.build(len(CLASSES)).eval()
    with torch.no_grad():
        for layer in detector.protected(network):
            layer.weight.mul_(30)
            if family == "yolo":
                layer.bias.fill_(2)
    return network


def exported(place: Path, family: str, runtimes: tuple[str, ...]) -> dict[str, Path]:
    """A network that surely finds something as an artefact for each runtime."""
    detector, size = DETECTORS[family]
    model = Export().apply(Model(detecting_network(family), None, size, params=1, flops=1), context(place, detector))
    made = {}
    for runtime in runtimes:
        recipe = Recipe.model_validate({"input_size": str(size), "runtime": runtime})
        told: dict[str, Any] = {"runtime": recipe.runtime, "recipe_tree": recipe.tree(), "classes": CLASSES}
        made[runtime] = write_artefact(place / runtime / family / "artefact", model, detector=detector, **told).folder
    return made


def packages(folder: Path, *names: str) -> str:
    """A folder with these installed packages and no others, each with the libraries that its wheel brings."""
    site = Path(sysconfig.get_path("purelib"))
    folder.mkdir(parents=True)
    for name in names:
        libraries = {"cv2": "opencv_python_headless"}.get(name, name)
        for place in (site / name, site / f"{libraries}.libs"):
            if place.exists():
                (folder / place.name).symlink_to(place)
    return str(folder)


def seen(
    python: str, path: list[str], artefacts: list[Path], pictures: list[Path]
) -> tuple[list[Detections], set[str]]:
    """What artefacts find in pictures in a process with nothing but these folders to import from, and its modules."""
    words = json.dumps([[str(place) for place in artefacts], [str(file) for file in pictures]])
    command = [python, *(["-I", "-S"] if path else ["-I"]), "-c", SEES.format(path=path), words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found, modules = json.loads(done.stdout)
    detections = [
        Detections(np.array(b, np.float32).reshape(-1, 4), np.array(s, np.float32), np.array(k, np.int64))
        for b, s, k in found
    ]
    return detections, set(modules)


def seen_here(artefacts: list[Path], pictures: list[Path]) -> list[Detections]:
    """The same in this process, which has everything."""
    return [load_predictor(place, Target())(read_image(file)) for place in artefacts for file in pictures]


def alone(folder: Path, *names: str) -> list[str]:
    """The folders to import from: this package, and some others."""
    return [str(ROOT / "platform"), packages(folder, *names)]


def run_alone(path: list[str], *words: object) -> subprocess.CompletedProcess[str]:
    """Run a command of ours with nothing but these folders to import from."""
    code = f"import sys; sys.path[:0] = {path!r}; from paretune.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-I", "-S", "-c", code, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)
