"""``paretune confirm`` on a real sweep: made again with other seeds, compared, gone on with."""

from __future__ import annotations

import json
import shutil

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(900)]

JOB = """\
dataset: {shapes: {train: 128, val: 24, test: 24, size: 96x64, difficulty: 0}}
detector: {yolo: {variant: nano, depthwise: false, width: 0.125}}
input_size: 96x64
training: {epochs: 4, batch_size: 4, lr: 1e-2, ema: 0.9, threads: 1}
space: space.yaml
search: {trials: 3, sampler: random}
measuring: {repetitions: 2, spare: 0, seconds: 0.2, patience: 0, rounds: 2, energy: 0}
"""
SPACE = """\
input_size: 96x64
steps:
  - prune: {ratio: {low: 0.2, high: 0.6, step: 0.1}, round_to: 4}
  - finetune: {epochs: 1}
runtime: onnxruntime
first:
  - {prune.ratio: 0.5}
"""


def test_a_winner_is_made_again_and_goes_on_where_it_was_stopped(place):
    (place.folder / "tiny.yaml").write_text(JOB)
    (place.folder / "space.yaml").write_text(SPACE)
    swept = place.run("sweep", "tiny.yaml")
    assert swept.returncode == 0, swept.stdout + swept.stderr
    words = ("confirm", "tiny", "--trial", "2", "--seeds", "2", "--max-drop", "1")
    first = place.run(*words)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "over 2 seeds: --max-drop 1 holds" in first.stdout
    told = json.loads((place.runs / "tiny/confirm.json").read_text())
    assert told["asked"] == {"trial": 2, "seeds": [1, 2], "metric": "map", "max_drop": 1.0}
    assert told["claim"]["split"] == "test"
    assert set(told["claim"]["lost_by_seed"]) == set(told["claim"]["speedups"]["eager"]) == {"1", "2"}
    assert all(row["low"] <= row["speedup"] <= row["high"] for row in told["claim"]["speedups"]["eager"].values())
    (tried,) = told["tried"]
    networks = [place.runs / "tiny" / tried["folder"] / f"seed-{seed}" for seed in (1, 2)]
    weights = [next(folder.glob("*.onnx")).read_bytes() for folder in networks]
    assert weights[0] != weights[1]
    kept = networks[0].stat().st_mtime_ns, networks[1].stat().st_mtime_ns

    again = place.run(*words, "--json")  # nothing is left to do
    assert json.loads(again.stdout) == told

    (place.runs / "tiny/confirm.json").unlink()
    shutil.rmtree(networks[1] / "evaluation")  # as of one that was stopped before it was evaluated
    resumed = place.run(*words, "--json")
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout)["tried"] == told["tried"]
    assert networks[0].stat().st_mtime_ns == kept[0]
    assert networks[1].stat().st_mtime_ns > kept[1]
    predicted = json.loads(place.run("evaluate", str(networks[0]), "--split", "test", "--json").stdout)
    assert predicted["images"] == 24
