"""One sweep for two targets against one for a single target: time on the clock, trainings, and a front for each.

The same job, seed and number of trials run with a CPU of one thread, and with one and two threads. It runs on the
built-in dataset; `--trials`, `--epochs` and `--images` make it smaller or larger.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from figures import BENCH, ROOT, Figures

sys.path.append(str(ROOT / "tests"))
from paretune.storage.trial_record import STAGES, Record, read_records
from tests_support import brute_force_front

MOST = 1.25
"""Largest allowed time of two targets as a multiple of the time of one."""
TARGETS = {
    "one": "{one: {device: cpu, threads: 1}}",
    "two": "{one: {device: cpu, threads: 1}, two: {device: cpu, threads: 2}}",
}
JOB = """\
dataset: {{shapes: {{train: {images}, val: 64, size: 160x128, difficulty: 0.1}}}}
detector: {{yolo: {{variant: nano}}}}
input_size: 160x128
training: {{epochs: {epochs}, batch_size: 8, lr: 4e-3}}
space: space.yaml
targets: {targets}
search: {{allow_unlearned: true, trials: {trials}, sampler: random, seed: 3, cheap_first: false, siblings: 0}}
measuring: {{energy_seconds: 0}}
store: {{url: {store}}}
"""
SPACE = """\
input_size: 160x128
steps:
  - prune: {{ratio: {{low: 0.1, high: 0.7, step: 0.05}}, round_to: 8}}
  - finetune: {{epochs: {epochs}}}
runtime: onnxruntime
"""


def main() -> int:
    """Run both sweeps, count their trainings, and hold the printed fronts against brute force."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=14, help="of each sweep, both baselines included")
    parser.add_argument("--epochs", type=int, default=16, help="of each training")
    parser.add_argument("--images", type=int, default=512, help="to train on")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    given = parser.parse_args()
    place = BENCH / "targets"
    shutil.rmtree(place, ignore_errors=True)  # the time is what is measured: nothing is reused
    seconds = {name: swept(place / name, name, given) for name in TARGETS}
    figures = Figures("targets")
    ratio = seconds["two"] / seconds["one"]
    figures.add("time of two targets as a multiple of the time of one", ratio, at_most=MOST)
    for name, value in seconds.items():
        figures.add(f"seconds of the sweep with {name}", value, "s")
    records = {name: read_records(place / name / "runs" / "bench") for name in TARGETS}
    for name, found in records.items():
        figures.add(f"trainings of the trials with {name}", sum(trainings(found).values()))
    figures.add("trainings that ran more than once", repeated(records["two"]), at_most=0)
    figures.add("failed trials", sum(one.state == "failed" for found in records.values() for one in found), at_most=0)
    fronts = printed(place / "two")
    for name, front in fronts.items():
        figures.add(f"points on the front of {name}", len(front["front"]), at_least=1)
        compared = json.loads((place / "two/runs/bench" / f"comparison{'-two' * (name == 'two')}.json").read_text())
        figures.add(f"points of {name} that differ from brute force", apart(front, records["two"], compared), at_most=0)
    figures.more["fronts"] = fronts
    return figures.end(as_json=given.json)


def swept(folder: Path, name: str, given: argparse.Namespace) -> float:
    """Run a sweep in a folder of its own; returns its seconds on the clock."""
    folder.mkdir(parents=True)
    fields = {**vars(given), "targets": TARGETS[name], "store": folder / "store"}
    (folder / "job.yaml").write_text(JOB.format(**fields))
    (folder / "space.yaml").write_text(SPACE.format(**fields))
    start = time.monotonic()
    command = [sys.executable, "-m", "paretune", "sweep", "job.yaml", "--name", "bench"]
    subprocess.run(command, cwd=folder, env=dict(os.environ), check=True, stdout=sys.stderr)
    return time.monotonic() - start


def trainings(records: list[Record]) -> Counter[str]:
    """Return key of a fine-tuning → times that it was computed."""
    stages = (stage for record in records for stage in record.facts.get(STAGES, ()))
    return Counter(stage["key"] for stage in stages if stage["stage"] == "finetune" and not stage["reused"])


def repeated(records: list[Record]) -> int:
    """Return how many fine-tunings were computed more than once."""
    return sum(times > 1 for times in trainings(records).values())


def printed(folder: Path) -> dict[str, Any]:
    """Return target → front, as the command line prints it."""
    command = [sys.executable, "-m", "paretune", "front", "bench", "--json"]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    fronts: dict[str, Any] = json.loads(done.stdout)["targets"]
    return fronts


def apart(front: dict[str, Any], records: list[Record], comparison: dict[str, Any]) -> int:
    """Return how many points differ from the front of a comparison's ratios, found by brute force."""
    quality = {record.number: record.metrics["map"] for record in records if record.state == "complete"}
    points = {int(trial): (quality[int(trial)], row["ratio"]) for trial, row in comparison["latencies"].items()}
    return len(brute_force_front(points) ^ {point["trial"] for point in front["front"]})


if __name__ == "__main__":
    sys.exit(main())
