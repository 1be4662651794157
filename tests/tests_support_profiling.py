"""Fakes that the tests of runtimes and profiling share: predictors of known cost.

The measuring process imports this file too, so torch and onnx are imported inside functions only.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from paretune.core.types import InputSize, Thresholds
from paretune.profiling.latency.samples import MeasurementProtocol
from paretune.storage.artefact import Artefact
from paretune.testing.fake_detector import FAKE_ROW, FakeDetector
from paretune.testing.fake_detector import noise_pictures as images
from paretune.testing.fake_detector import write_fake_onnx as onnx_of

__all__ = [
    "BUSY",
    "DEPLOYABLE",
    "FAKE_ROW",
    "QUICK",
    "Busy",
    "Deployable",
    "FakeDetector",
    "fake_artefact",
    "images",
    "load_busy",
    "load_deployable",
    "onnx_of",
    "quick",
    "spin",
]
BUSY = "tests_support_profiling:load_busy"
DEPLOYABLE = "tests_support_profiling:load_deployable"
QUICK = MeasurementProtocol(
    repetitions=2,
    spare=0,
    patience=0,
    seconds=0.2,
    samples=12,
    warmup_seconds=0.1,
    warmup_cap=3,
    limit=60,
    block_seconds=0.03,
)


def fake_artefact(folder: Path, **costs) -> Path:
    """Make a folder for ``load_busy``: milliseconds of CPU time per stage, and what shall go wrong."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "fake.json").write_text(json.dumps(costs))
    return folder


def spin(milliseconds: float) -> None:
    """Work for so much CPU time, however much wall time that takes on a busy machine."""
    end = time.process_time_ns() + milliseconds * 1e6
    while time.process_time_ns() < end:
        pass


class Busy:
    """A predictor of known cost."""

    def __init__(self, folder: Path, target) -> None:
        self.costs = json.loads((folder / "fake.json").read_text())
        self.folder = folder
        self.runs = 0
        self.ballast = np.ones(int(self.costs.get("mib", 0) * 2**17))
        if "compiles" in self.costs and not (folder / "pid").exists():  # the first process takes more, for a moment
            np.ones(int(self.costs["compiles"] * 2**17))
        self.facts = {
            "threads": self.costs.get("threads", target.threads),
            "omp": os.environ["OMP_NUM_THREADS"],
            "affinity": sorted(os.sched_getaffinity(0)),
        }
        (folder / "pid").write_text(str(os.getpid()))

    def preprocess(self, image):
        spin(self.costs.get("preprocess", 0))
        return image, None

    def core(self, batch):
        self.runs += 1
        costs = self.costs
        if self.runs > 1 and "hang" in costs:
            child = subprocess.Popen(["sleep", "1000"])
            (self.folder / "child").write_text(str(child.pid))
            signal.pause()
        if self.runs > costs.get("dies_after", self.runs):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.runs > costs.get("raises_after", self.runs):
            raise ValueError("no more")
        if "chatters" in costs:
            print("a library says something on standard output")
        if self.runs > 1 and gc.isenabled():
            raise AssertionError("garbage is collected while sampling")
        time.sleep(costs.get("sleep", 0) / 1000)
        spin(costs.get("network", 0) * (1 + costs.get("cold", 0) * costs.get("fade", 1) ** self.runs))
        return ()

    def postprocess(self, raw, placement):
        spin(self.costs.get("postprocess", 0))


def load_busy(folder: Path, target) -> Busy:
    return Busy(folder, target)


@dataclass(frozen=True)
class Deployable:
    """A predictor that sleeps, and whose postprocessing takes less for surer boxes."""

    artefact: Artefact
    asleep: float
    facts: dict = field(default_factory=dict)

    def preprocess(self, image):
        return image, None

    def core(self, batch):
        time.sleep(self.asleep)
        return ()

    def postprocess(self, raw, placement):
        spin(5 * (1 - self.artefact.thresholds.score))


def load_deployable(folder: Path, target) -> Deployable:
    asleep = json.loads((folder / "fake.json").read_text())["sleep"] / 1000
    return Deployable(Artefact(folder, "torch", {}, {}, {}, (), InputSize(8, 8), Thresholds(score=0.0)), asleep)


def quick(**changes) -> MeasurementProtocol:
    return replace(QUICK, **changes)
