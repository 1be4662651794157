"""An artefact of a training, as ``paretune train`` leaves it, without training anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from paretune.core.model import Model
from paretune.core.types import InputSize
from paretune.detectors.yolox.detector import Yolo
from paretune.profiling.roofline.advice import Advice
from paretune.profiling.roofline.diagnosis import diagnose
from paretune.profiling.roofline.hardware_peaks import HardwarePeaks
from paretune.profiling.roofline.layer_work import LayerWork
from paretune.runtimes.artefact_writer import write_artefact
from paretune.runtimes.eager import Eager
from paretune.storage.artefact import Artefact
from paretune.workflows.advise import AdviceReport

JOB = """\
dataset: {shapes: {train: 2, val: 2, size: 64x64}}
detector: {yolo: {depthwise: false, width: 0.125}}
input_size: 64
space: space.yaml
"""


def artefact_in_a_training(folder: Path) -> Artefact:
    """Write a job, a network and its artefact; returns the artefact."""
    from paretune.networks.network_files import save_network

    torch.manual_seed(0)
    detector = Yolo(depthwise=False, width=0.125)
    network = detector.build(3).eval()
    save_network(network, folder)
    (folder / "job.yaml").write_text(JOB)
    told = {"detector": detector.named(), "input_size": "64", "classes": ["a", "b", "c"]}
    (folder / "training.json").write_text(json.dumps(told))
    tree = {"input_size": "64", "steps": [], "runtime": {"eager": {}}}
    return write_artefact(
        folder / "artefact",
        Model(network, None, InputSize(64, 64)),
        detector=detector,
        runtime=Eager(),
        recipe_tree=tree,
        classes=("a", "b", "c"),
    )


def advised(artefact: Artefact, *advice: Advice) -> AdviceReport:
    """Return advice for an artefact with a diagnosis that is made up."""
    work = LayerWork("stem", 2e6, 100, 1000, "fp32")
    roofs = HardwarePeaks("cpu", {"fp32": 1e9}, [(1000, 1e9)], {})
    stages: Any = {"preprocess": 1.0, "network": 8.0, "postprocess": 1.0}
    return AdviceReport(artefact, diagnose(stages, {"stem": 3.0}, {"stem": work}, roofs), advice, ("a note",))
