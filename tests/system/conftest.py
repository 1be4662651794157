"""A small real sweep that several tests look at."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests_support import with_locks_of_its_own

JOB = """\
dataset: {shapes: {train: 48, val: 24, size: 96x64}}
detector: {yolo: {variant: nano, depthwise: false, width: 0.125}}
input_size: 96x64
training: {epochs: 2, batch_size: 8, lr: 4e-3}
space: space.yaml
search: {allow_unlearned: true, trials: 6, sampler: random}
measuring:
  {repetitions: 2, max_extra_repetitions: 0, seconds: 0.3, contention_wait_seconds: 0, rounds: 2, energy_seconds: 0}
"""
LEARNS = JOB.replace(
    "{train: 48, val: 24, size: 96x64}", "{train: 128, val: 24, test: 24, size: 96x64, difficulty: 0}"
).replace("{epochs: 2, batch_size: 8, lr: 4e-3}", "{epochs: 4, batch_size: 4, lr: 1e-2, ema: 0.9}")
"""A little longer, so that something is found: figures are then more than zeros."""
SPACE = """\
input_size: 96x64
steps:
  - name: slim
    choices:
      none: null
      pruned:
        - prune: {ratio: {low: 0.2, high: 0.6, step: 0.1}, round_to: 4}
        - finetune: {epochs: 1}
  - name: precision
    choices: {fp32: null, int8: {quantize: {images: 8}}}
runtime: onnxruntime
first:
  - {slim: pruned, slim.pruned.prune.ratio: 0.5, precision: fp32}
  - {slim: none, precision: int8}
"""


class Place:
    """A folder with a job, a home of its own, and the command line."""

    def __init__(self, folder: Path, job: str = JOB, space: str = SPACE) -> None:
        self.folder = folder
        self.runs = folder / "runs"
        self.home = folder / "home"
        self.home.mkdir(parents=True)
        self.path = with_locks_of_its_own(folder, os.environ.get("PYTHONPATH", ""))
        (folder / "tiny.yaml").write_text(job)
        (folder / "space.yaml").write_text(space)

    @property
    def environment(self) -> dict[str, str]:
        places = {"HOME": str(self.home), "MPLCONFIGDIR": str(self.folder / "mpl"), "PYTHONPATH": self.path}
        return {**os.environ, **places}

    def start(self, *words: str) -> subprocess.Popen[str]:
        return self._started([sys.executable, "-m", "paretune", *words])

    def typed(self, line: str) -> subprocess.Popen[str]:
        """Start a command as a shell does in which it is typed."""
        return self._started(["bash", "-c", f"exec {line}"])

    def _started(self, command: list[str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, *words: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        process = self.start(*words)
        out, err = process.communicate(timeout=timeout)
        return subprocess.CompletedProcess(words, process.returncode, out, err)


@pytest.fixture(scope="session")
def place_in():
    """How a place is made in a folder, for fixtures of modules."""
    return Place


@pytest.fixture
def place(tmp_path) -> Place:
    return Place(tmp_path)


@pytest.fixture(scope="session")
def swept(tmp_path_factory) -> Place:
    """A place where the tiny sweep has run to its end."""
    place = Place(tmp_path_factory.mktemp("swept"), LEARNS)
    done = place.run("sweep", "tiny.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    (place.folder / "out.txt").write_text(done.stdout)
    return place
