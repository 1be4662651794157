"""Sweeps as they are meant to be run: our jobs on the official layouts, and two workers in every training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from paretune.core.types import Data
from paretune.data.conversion import write_dataset
from paretune.data.synthetic.shapes import Shapes
from tests_support import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(600)]

TWO_WORKERS = """\
dataset: {voc: {root: VOCdevkit}}  # as people write it: seen from where they are, also by every worker
detector: {yolo: {variant: nano, depthwise: false, width: 0.125}}
input_size: 96x64
training: {epochs: 2, batch_size: 4, lr: 4e-3, workers: 2, threads: 1, device: cpu}
space: space.yaml
search: {allow_unlearned: true, trials: 3, sampler: random}
measuring:
  {repetitions: 2, max_extra_repetitions: 0, seconds: 0.3, contention_wait_seconds: 0, rounds: 2, energy_seconds: 0}
"""
SPACE = """\
input_size: 96x64
steps:
  - prune: {ratio: 0.3}
  - finetune: {epochs: {choices: [1, 2]}}
runtime: onnxruntime
"""


def official(folder: Path, form: str) -> tuple[str, Path]:
    """Write pictures just as COCO and Pascal VOC lie on a disk; returns the job's field and the folder it names."""
    made = Shapes(train=24, val=12, test=8, size="96x64").open(folder / "cache")
    year = "2017" if form == "coco" else ""
    splits = {f"{name}{year}": split for name, split in made.splits.items() if name != "test"}
    root = folder / ("coco" if form == "coco" else "VOCdevkit")
    place = root if form == "coco" else root / "VOC2007"
    write_dataset(Data(made.classes, splits, made.fingerprint), place, form)
    return f"dataset.{form}.root", root.relative_to(folder)


@pytest.mark.full
@pytest.mark.parametrize("form", ["coco", "voc"])
def test_our_jobs_run_on_the_official_layouts(place, form):
    field, root = official(place.folder, form)
    sets = [f"{field}={root}", f"output={place.runs}", "input_size=96x64", "training.epochs=1", "training.batch_size=4"]
    sets += ["training.warmup_epochs=0.5", "training.threads=1", "training.device=cpu"]
    job = ROOT / "jobs" / f"{form}.yaml"
    words = [word for text in sets for word in ("--set", text)]
    done = place.run("sweep", str(job), "--trials", "3", *words)
    assert done.returncode == 0, done.stderr
    front = json.loads(place.run("front", form, "--runs", str(place.runs), "--json").stdout)
    assert front["baseline"]["metrics"]["map"] is not None
    records = [json.loads(f.read_text()) for f in sorted((place.runs / form / "trials").glob("*/record.json"))]
    assert [record["state"] for record in records] == ["complete"] * 3


def test_a_sweep_with_two_workers_in_every_training(place):
    official(place.folder, "voc")
    (place.folder / "two.yaml").write_text(TWO_WORKERS)
    (place.folder / "space.yaml").write_text(SPACE)
    done = place.run("sweep", "two.yaml", "--set", f"output={place.runs}")
    assert done.returncode == 0, done.stderr
    history = json.loads((place.runs / "two" / "baseline" / "training.json").read_text())
    assert {epoch["workers"] for epoch in history["epochs"]} == {2}
    record = json.loads((place.runs / "two" / "trials" / "0002" / "record.json").read_text())
    assert record["state"] == "complete", record["failure"]
    assert record["seconds"]["finetune"] > 0
    eager = json.loads((place.runs / "two" / "trials" / "0000" / "record.json").read_text())
    assert record["metrics"]["params"] < eager["metrics"]["params"]
