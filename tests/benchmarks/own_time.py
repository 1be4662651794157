"""The share of a finished sweep's search that was none of its trials' stages, from the events that they left."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from figures import Figures

from paretune.storage.trial_events import read_events

REAL = """\
dataset: {{shapes: {{train: 96, val: 32}}}}
detector: {{yolo: {{variant: nano}}}}
input_size: 160
training: {{epochs: 2}}
space: real.yaml
search: {{allow_unlearned: true, trials: 6}}
output: {output}
"""
"""A job as the demo's, with fewer images and trials."""
REAL_SPACE = """\
steps:
  - prune: {ratio: {low: 0.2, high: 0.6}}
  - finetune: {epochs: 2}
runtime: {choices: [onnxruntime, eager]}
input_size: 160
"""


@dataclass(frozen=True)
class OwnTime:
    """Seconds of a search from its first stage to its last one."""

    wall: float
    staged: float
    """Seconds in which at least one trial was in a stage: trained, exported, evaluated, measured."""
    trials: int

    @property
    def share(self) -> float:
        """Return the share of the time in which no trial was in a stage."""
        return 1 - self.staged / self.wall


def own_time(sweep: Path) -> OwnTime:
    """Return the time of a search that was not stopped and resumed in between: a pause would count as own time.

    Args:
        sweep: folder of the sweep.

    Raises:
        ValueError: no trial left a finished stage.
    """
    folders = [folder for folder in (sweep / "trials").glob("*/") if folder.name.isdecimal()]
    spans = sorted(span for folder in folders for span in _stages(folder))
    if not spans:
        raise ValueError(f"{sweep}: no trial left a finished stage in events.jsonl")
    staged, until = 0.0, spans[0][0]
    for start, end in spans:
        staged += max(0.0, end - max(start, until))
        until = max(until, end)
    return OwnTime(until - spans[0][0], staged, len(folders))


def _stages(folder: Path) -> Iterator[tuple[float, float]]:
    """Yield begin and end of each stage of a trial, in seconds since 1970; a stage that was killed has no end."""
    begun: dict[str, float] = {}
    for event in read_events(folder):
        if event.kind == "begin":
            begun[event.stage] = event.time
        elif event.kind == "end" and event.stage in begun:
            yield begun.pop(event.stage), event.time


def real_sweep(folder: Path) -> Path:
    """Run a small sweep in a process of its own, as the demo does, and return its folder."""
    (folder / "real.job.yaml").write_text(REAL.format(output=folder / "runs"))
    (folder / "real.yaml").write_text(REAL_SPACE)
    words = ["-m", "paretune", "sweep", str(folder / "real.job.yaml"), "--name", "real"]
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
    return folder / "runs" / "real"


def add_own_time(figures: Figures, sweep: Path) -> None:
    """Add the own time of a finished sweep to the figures."""
    found = own_time(sweep)
    figures.add(f"seconds of the search of {sweep.name}, {found.trials} trials", found.wall, "s")
    figures.add("own time of this search, outside of all stages", found.share, "of it", at_most=0.05)
