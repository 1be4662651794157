"""Two trials at once: what trains, measures and draws, by clocks that know nothing of the product's locks.

The detector is somebody's own, which notes when its loss is computed. A measurement's raw samples hold their times. The
pictures and the log are noted by the process that makes them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from paretune.storage.trial_record import read_records
from paretune.system.device_turns import LONGEST
from tests_support import ROOT, runs_of, with_locks_of_its_own

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(1200)]

NOTES = "PARETUNE_TEST_NOTES"
NOTED = '''\
"""YOLO that notes when it trains."""

import os
import time
from pathlib import Path
from typing import ClassVar

from paretune.detectors.yolox.detector import Yolo


class Noted(Yolo):
    """YOLO that notes when it trains."""

    name: ClassVar[str] = "noted"

    def training_loss(self, *given, **named):
        start = time.monotonic_ns()
        found = super().training_loss(*given, **named)
        with (Path(os.environ["PARETUNE_TEST_NOTES"]) / f"train-{os.getpid()}").open("a") as file:
            file.write(f"{start} {time.monotonic_ns()}\\n")
        return found
'''
SITE = '''

def noted(module, name, what):
    """Have calls of a function noted with their times, in whichever process."""
    import functools, importlib, os, time

    place = importlib.import_module(module)
    *path, name = name.split(".")
    for part in path:
        place = getattr(place, part)
    real = getattr(place, name)

    @functools.wraps(real)
    def call(*given, **named):
        start = time.monotonic_ns()
        try:
            return real(*given, **named)
        finally:
            with open(os.path.join(os.environ["PARETUNE_TEST_NOTES"], what + "-" + str(os.getpid())), "a") as file:
                file.write(f"{start} {time.monotonic_ns()}\\n")

    setattr(place, name, call)


with suppress(ImportError):
    noted("paretune.tracking.mlflow_client", "ClientInTurns._made", "log")
    noted("paretune.reports.front_plot", "front_pictures", "draw")
'''
JOB = """\
dataset: {shapes: {train: 64, val: 16, size: 96x64, difficulty: 0}}
detector: {noted: {variant: nano, depthwise: false, width: 0.125}}
input_size: 96x64
training: {epochs: 2, batch_size: 8, lr: 1e-2, threads: 1}
space: space.yaml
search: {allow_unlearned: true, trials: 6, concurrent: 2, sampler: random}
measuring:
  {repetitions: 2, max_extra_repetitions: 0, seconds: 0.3, rounds: 2, contention_wait_seconds: 0,
  energy_seconds: 0}
"""
SPACE = """\
input_size: 96x64
steps:
  - prune: {ratio: {low: 0.2, high: 0.6, step: 0.05}, round_to: 4}
  - finetune: {epochs: {choices: [2, 3, 4]}}
runtime: onnxruntime
"""


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("two")
    site, notes = folder / "own", folder / "notes"
    (site / "mypackage").mkdir(parents=True)
    notes.mkdir()
    (site / "mypackage" / "__init__.py").write_text("")
    (site / "mypackage" / "noted.py").write_text(NOTED)
    facts = site / "mypackage-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: mypackage\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[paretune.detector]\nnoted = mypackage.noted:Noted\n")
    (folder / "two.yaml").write_text(JOB)
    (folder / "space.yaml").write_text(SPACE)
    path = with_locks_of_its_own(folder, os.pathsep.join([str(ROOT / "platform"), str(site)]))
    first = Path(path.split(os.pathsep)[0]) / "sitecustomize.py"
    first.write_text(first.read_text() + SITE)
    environment = {**os.environ, "PYTHONPATH": path, NOTES: str(notes), "MPLCONFIGDIR": str(folder / "mpl")}
    command = [sys.executable, "-m", "paretune", "sweep", "two.yaml"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def noted(folder: Path, what: str) -> list[tuple[int, int]]:
    """When something was done, (begin, end) in nanoseconds of the monotonic clock."""
    lines = [line for file in (folder / "notes").glob(f"{what}-*") for line in file.read_text().splitlines()]
    return [(int(begin), int(end)) for begin, end in (line.split() for line in lines)]


def measured(folder: Path) -> list[tuple[int, int]]:
    """When samples were taken, a span for each round of blocks of each trial and of the comparison."""
    spans = []
    for file in [*(folder / "runs/two/trials").glob("*/samples.npz"), folder / "runs/two/comparison.npz"]:
        with np.load(file) as kept:
            start, took, rounds = kept["start_ns"], kept["latency_ns"], kept["round"]
            spans += [
                (int(start[rounds == r].min()), int((start + took)[rounds == r].max())) for r in np.unique(rounds)
            ]
    return spans


def overlapping(one: list[tuple[int, int]], other: list[tuple[int, int]]) -> list[Any]:
    return [(a, b) for a in one for b in other if a[0] < b[1] and b[0] < a[1]]


def test_trials_really_ran_at_the_same_time(swept: Path) -> None:
    spans = [(r.started, r.finished) for r in read_records(swept / "runs/two")]
    assert any(a[0] < b[1] and b[0] < a[1] for n, a in enumerate(spans) for b in spans[:n])


def test_nothing_of_ours_trains_or_draws_while_a_latency_is_taken(swept: Path) -> None:
    spans = measured(swept)
    assert len(spans) == 1 + 2 * 5 + 2  # trial 0 is a reference: one round
    assert len(noted(swept, "train")) > 8 * 2  # the baseline's steps alone
    assert overlapping(spans, noted(swept, "train")) == []
    assert len(noted(swept, "draw")) >= 2  # the first trial, and the last; between them after half a minute
    assert overlapping(spans, noted(swept, "draw")) == []
    turns = [(begin, min(end, begin + int(LONGEST * 1e9))) for begin, end in noted(swept, "log")]  # then it lets go
    assert len(turns) > 10
    assert overlapping(spans, turns) == []


def test_no_two_measurements_run_at_the_same_time(swept: Path) -> None:
    spans = sorted(measured(swept))
    assert all(end <= begin for (_, end), (begin, _) in pairwise(spans))


def test_no_record_is_lost_and_the_log_has_each_once(swept: Path) -> None:
    records = read_records(swept / "runs/two")
    assert [record.number for record in records] == list(range(6))
    assert [record.failure for record in records if record.state == "failed"] == []
    _, parent, children = runs_of(SimpleNamespace(runs=swept / "runs"), "two")
    assert sorted(int(run.data.tags["paretune.trial"]) for run in children) == list(range(6))
    assert {run.info.status for run in (parent, *children)} == {"FINISHED"}
    assert json.loads((swept / "runs/two/comparison.json").read_text())["seen"] == list(range(6))
