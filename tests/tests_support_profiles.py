"""Latencies that are made up, and two artefacts with their images: what profiles are made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from paretune.core.model import Model
from paretune.core.target import Target
from paretune.core.types import InputSize
from paretune.data.synthetic.shapes import Shapes
from paretune.detectors.yolox.detector import Yolo
from paretune.profiling.latency.deployment import DeploymentLatency
from paretune.profiling.latency.result import Latency
from paretune.profiling.latency.samples import COLUMNS
from paretune.runtimes.artefact_writer import write_artefact
from paretune.runtimes.eager import Eager

DETECTOR = Yolo(depthwise=False, width=0.125)
DATA = Shapes(train=2, val=3, size="64x64")
DEPLOYED = DeploymentLatency(np.full((130, 2), 1.5), np.full((130, 2), 0.25), 0.3)


def latency(count: int, *, preprocess: int, network: int, postprocess: int, **fields: Any) -> Latency:
    """Every inference takes the same ms in each stage, all of it CPU time."""
    rows = np.zeros((count, len(COLUMNS)), np.int64)
    stages = {"preprocess": preprocess, "network": network, "postprocess": postprocess}
    stages["latency"] = sum(stages.values())
    for stage, milliseconds in stages.items():
        for name in (f"{stage}_ns", f"{stage}_cpu_ns"):
            rows[:, COLUMNS.index(name)] = milliseconds * 1_000_000
    told = {"runtime": "eager", "precision": "fp32", "cpu": "a CPU"}
    more = {"steady": True, "cold": {"load_ms": 5.0, "first_inference_ms": 3.0}, "facts": told, **fields}
    return Latency(rows, np.arange(count) % 2, Target(), 100.0, {"foreign": 0.0, "steal": 0.0}, **more)


def two_artefacts(place: Path) -> list[Path]:
    """Write a small network and a wider one, and the job of their images, into a folder; returns the artefacts."""
    data = DATA.open(place / "runs" / "datasets")
    made = []
    for name, width in (("small", 0.125), ("wide", 0.5)):
        torch.manual_seed(0)
        detector, size = DETECTOR.model_copy(update={"width": width}), InputSize(96, 96)
        given = Model(detector.build(len(data.classes)).eval(), None, size)
        recipe = {"steps": [], "runtime": {"eager": {}}, "input_size": "96"}
        folder = place / name
        write_artefact(folder, given, detector=detector, runtime=Eager(), recipe_tree=recipe, classes=data.classes)
        made.append(folder)
    job = {"dataset": DATA.named(), "detector": DETECTOR.named(), "input_size": 96, "space": "space.yaml"}
    (place / "images.yaml").write_text(json.dumps(job))
    return made
