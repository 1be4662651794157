"""``paretune confirm`` on a real sweep: made again with other seeds, compared, gone on with."""

from __future__ import annotations

import json
import shutil

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(900)]


def test_a_winner_is_made_again_and_goes_on_where_it_was_stopped(place, swept):
    """Trial 2 is pruned and fine-tuned."""
    shutil.copytree(swept.runs, place.runs)
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
