"""A sweep on disk that was made before the packages got their present layout: it shows its front, resumes, deploys."""

from __future__ import annotations

import json
import zipfile
from typing import Any

import numpy as np
import pytest

from paretune.core.target import Target
from paretune.runtimes.predictor import load_predictor
from tests_support import ROOT, runs_of

ARCHIVE = ROOT / "tests" / "data" / "sweep_of_0.1.0.zip"
"""Two baselines and one trial on the built-in dataset, whole as a sweep leaves them."""
RUNTIMES = ("eager", "onnxruntime", "onnxruntime")


@pytest.fixture(scope="module")
def before(place_in: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    place = place_in(tmp_path_factory.mktemp("before"))
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(place.folder)
    return place


def kept_front(place: Any) -> dict[str, Any]:
    """The front as the sweep itself wrote it."""
    front: dict[str, Any] = json.loads((place.runs / "before" / "front" / "front.json").read_text())
    return front


def test_the_front_is_shown_as_it_was_written(before: Any) -> None:
    shown, kept = json.loads(before.run("front", "before", "--json").stdout), kept_front(before)
    best = {name: shown["best"][name] for name in kept["best"]}
    assert {**{name: shown[name] for name in kept}, "best": best} == kept
    assert "has not learned" in shown["best"]["note"]  # said by later versions alone
    assert "map" in before.run("front", "before").stdout


@pytest.mark.parametrize("number", range(3))
def test_artefacts_load_and_predict(before: Any, number: int) -> None:
    predictor = load_predictor(before.runs / "before" / "trials" / f"{number:04d}" / "artefact", Target())
    found = predictor(np.zeros((64, 96, 3), np.uint8))
    assert len(found.boxes) == len(found.scores) == len(found.labels)
    assert predictor.artefact.runtime.keys() == {RUNTIMES[number]}


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_it_resumes_with_one_more_trial(before: Any) -> None:
    """No old trial is run again, and the new one stands beside them on the front's data and in the log."""
    records = {path: path.read_bytes() for path in sorted((before.runs / "before" / "trials").glob("*/record.json"))}
    assert len(records) == 3
    assert before.run("resume", "before", "--trials", "4").returncode == 2  # its baseline has not learned
    more = before.run("resume", "before", "--trials", "4", "--allow-unlearned")
    assert more.returncode == 0, more.stderr
    assert "4/4 done" in more.stdout
    assert {path: path.read_bytes() for path in records} == records
    (new,) = set((before.runs / "before" / "trials").glob("*/record.json")) - set(records)
    record = json.loads(new.read_text())
    assert (record["number"], record["state"]) == (3, "complete")
    assert record["metrics"]["latency_ms"] > 0
    assert kept_front(before)["decided_by"] == "comparison"
    _, parent, children = runs_of(before, "before")
    assert len(children) == parent.data.metrics["trials/done"] == 4
    assert {run.info.status for run in [parent, *children]} == {"FINISHED"}
