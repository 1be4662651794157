"""What advice promised to a sweep is kept with it, and stands beside what was measured at its end."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from paretune.cli.main import main
from paretune.config.measuring import Measuring
from paretune.config.recipe import Recipe
from paretune.core.console import WIDTH
from paretune.distributed import ray_jobs as jobs
from paretune.profiling.latency import compare as comparison
from paretune.profiling.latency.compare import LatencyRatio
from paretune.profiling.roofline.advice import Advice
from paretune.results.advice_outcomes import FILE, AdvicePrediction, outcomes, pairs
from paretune.results.front_data import views_of
from paretune.results.sweep_folder import Sweep, find_sweep
from paretune.storage.trial_record import Record, write_record
from paretune.workflows import compare_front as finalists
from paretune.workflows import sweep
from paretune.workflows.advise import write_advice
from paretune.workflows.baseline import first_recipes
from paretune.workflows.front_files import write_front
from paretune.workflows.trial_context import TrialContext
from tests_support_advising import advised, artefact_in_a_training
from tests_support_records import complete

JOB = """\
dataset: {shapes: {train: 8, val: 4, size: 64x48}}
detector: {yolo: {variant: nano}}
input_size: 64
space: space.yaml
search: {trials: 6}
"""
SPACE = "input_size: 64\nsteps: []\nruntime: {choices: [eager, onnxruntime]}\n"
CLUSTERED = {"cluster": {"bits": 4}}


def recipe(*steps: dict[str, Any], size: int = 64, runtime: str = "eager") -> dict[str, Any]:
    return {"input_size": str(size), "steps": list(steps), "runtime": runtime}


FASTER = Advice("runtime: openvino", "calls", 2.0, "none", recipe(runtime="openvino"))
SMALLER = Advice("input_size: 32", "pixels", 1.5, "accuracy", recipe(size=32))


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The words of a sweep that tries two pieces of advice first; it is made, and nothing of it is run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.yaml").write_text(JOB)
    (tmp_path / "space.yaml").write_text(SPACE)
    artefact = artefact_in_a_training(tmp_path / "runs" / "trainings" / "mine")
    write_advice(advised(artefact, FASTER, SMALLER), tmp_path / "advice")
    monkeypatch.setattr(sweep, "run_sweep", lambda *_, **__: sweep.SweepResult(True, ()))
    return ["sweep", "job.yaml", "--name", "mine", "--first", "advice"]


def made(number: int, raw: dict[str, Any], **more: Any) -> Record:
    return replace(complete(number, {**raw, "runtime": {raw["runtime"]: {}}}, 0.5, 1.0, **more), recipe=normal(raw))


def normal(raw: dict[str, Any]) -> dict[str, Any]:
    return Recipe.model_validate(raw).tree()


def row(speedup: float, verdict: str) -> dict[str, Any]:
    return {"speedup": speedup, "low": 0.9 * speedup, "high": 1.1 * speedup, "verdict": verdict}


def test_a_sweep_keeps_what_was_promised_of_the_recipes_it_tries_first(words: list[str]) -> None:
    assert main(words) == 0
    kept = find_sweep(Path("runs"), "mine")  # read anew, as a sweep that goes on does
    assert [(one.knob, one.predicted) for one in kept.promises] == [("runtime: openvino", 2.0), ("input_size: 32", 1.5)]
    assert [one.recipe for one in kept.promises] == [normal(dict(one.recipe)) for one in (FASTER, SMALLER)]
    # what the advice was for is the eager baseline, which is tried anyway
    assert [next(iter(tree["runtime"])) for tree, _ in first_recipes(kept.job, kept.space)] == [
        *("eager", "onnxruntime"),
        *("openvino", "eager"),
    ]


def test_a_submitted_sweep_keeps_it_too(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def submit(job: Any, space_text: str, promises: Any, *_: Any, wait: bool, carried: Any) -> tuple[int, str]:
        with jobs.staged(job, space_text, promises, carried) as folder:
            shutil.copytree(folder, "travelled")
        return int(not wait), "one"

    monkeypatch.setattr(jobs, "submit", submit)
    assert main(["submit", *words[1:], "--address", "http://127.0.0.1:1"]) == 0
    monkeypatch.chdir("travelled")
    assert main(["sweep", "job.json", "--name", "there", "--promises", "promises.json"]) == 0
    kept = find_sweep(Path("runs"), "there")
    assert [(one.knob, one.recipe) for one in kept.promises] == [
        (one.knob, normal(dict(one.recipe))) for one in (FASTER, SMALLER)
    ]
    assert [next(iter(tree["runtime"])) for tree, _ in first_recipes(kept.job, kept.space)[2:]] == ["openvino", "eager"]


@pytest.mark.parametrize("how", ["file", "set"])
def test_what_the_job_tries_first_is_tried_after_it(words: list[str], how: str) -> None:
    own = "{input_size: 96, steps: [], runtime: eager}"
    if how == "set":
        words += ["--set", f"search.first=[{own}]"]
    else:
        Path("job.yaml").write_text(JOB.replace("{trials: 6}", f"{{trials: 6, first: [{own}]}}"))
    assert main(words) == 0
    kept = Sweep(Path("runs"), "mine")
    tried = [tree for tree, origin in first_recipes(kept.job, kept.space) if origin == "enqueued"]
    assert tried == [normal(dict(FASTER.recipe)), normal(dict(SMALLER.recipe)), normal(recipe(size=96))]


def test_what_the_advice_was_for_is_tried_before_it(words: list[str]) -> None:
    told = json.loads(Path("advice", FILE).read_text())
    Path("advice", FILE).write_text(json.dumps({**told, "recipe": recipe(CLUSTERED, runtime="onnxruntime")}))
    assert main(words) == 0
    kept = Sweep(Path("runs"), "mine")
    tried = [tree for tree, origin in first_recipes(kept.job, kept.space) if origin == "enqueued"]
    assert [next(iter(tree["runtime"])) for tree in tried] == ["onnxruntime", "openvino", "eager"]
    assert [next(iter(step)) for step in tried[0]["steps"]] == ["cluster"]


def test_one_recipe_alone_is_known_by_what_it_says_and_a_changed_one_has_no_promise(words: list[str]) -> None:
    (file,) = Path("advice").glob("2-*.yaml")
    assert main([*words[:-1], str(file)]) == 0
    assert [one.knob for one in Sweep(Path("runs"), "mine").promises] == ["input_size: 32"]
    file.write_text(file.read_text().replace("'32'", "'96'"))
    assert main([*words[:3], "other", "--first", str(file)]) == 0
    assert Sweep(Path("runs"), "other").promises == []


@pytest.mark.parametrize("said", ["no json", "[]", "{}", '{"recipe": {"runtime": "abacus"}, "advice": []}'])
def test_advice_that_cannot_be_read_is_one_line(words: list[str], said: str, capsys: Any) -> None:
    Path("advice", FILE).write_text(said)
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("advice/advice.json: cannot be read (")


def test_promises_are_judged_by_the_interleaved_latency_against_what_they_were_for() -> None:
    given = [
        AdvicePrediction(one.knob, one.predicted, normal(dict(one.recipe)), normal(recipe()))
        for one in (FASTER, SMALLER)
    ]
    given.append(AdvicePrediction("cluster", 1.2, normal(recipe(CLUSTERED)), normal(recipe(size=32))))
    given.append(AdvicePrediction("prune", 1.3, normal(recipe(size=96)), normal(recipe())))
    records = [
        made(0, recipe()),
        made(1, recipe(runtime="onnxruntime")),
        made(2, recipe(runtime="openvino")),
        made(3, recipe(size=32)),
        made(4, recipe(CLUSTERED)),
    ]
    assert pairs(given, records) == [(2, 0), (3, 0), (4, 3)]
    rows = {
        "2": {"eager": row(1.75, "faster")},
        "3": {"eager": row(1.01, "tied")},
        "4": {"trial_3": row(0.8, "slower")},
    }
    found = outcomes(given, records, {"trials": rows})
    assert [(one.trial, one.against, one.helped) for one in found] == [
        (2, 0, True),
        (3, 0, False),
        (4, 3, False),
        (None, 0, None),
    ]
    assert [one.tree()["speedup"] for one in found] == [1.75, 1.01, 0.8, None]
    assert found[3].reason == "its recipe was not tried"
    assert {one.reason for one in outcomes(given[:3], records, None)} == {"compared at the end of the sweep"}
    failed = Record.failed(2, records[2].recipe, {}, "enqueued", "UserError: no OpenVINO\nhere")
    assert pairs(given, [*records[:2], failed]) == []
    assert outcomes(given, [*records[:2], failed], {"trials": {}})[0].reason == "trial 2 failed: UserError: no OpenVINO"


def test_the_end_of_a_sweep_shows_predicted_beside_measured(words: list[str], capsys: Any) -> None:
    assert main(words) == 0
    place = Sweep(Path("runs"), "mine")
    for record in (
        made(0, recipe()),
        made(1, recipe(runtime="onnxruntime")),
        made(2, recipe(runtime="openvino")),
        made(3, recipe(size=32)),
    ):
        write_record(place.folder, record)
    rows = {"2": {"eager": row(1.75, "faster")}, "3": {"eager": row(1.01, "tied")}}
    place.comparison.write_text(json.dumps({"notes": [], "trials": rows}))
    assert main(["front", "mine"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert max(map(len, shown)) <= WIDTH
    said = [" ".join(line.split()) for line in shown]
    assert "runtime: openvino 2 0 2.00 1.75 [1.57, 1.93] helped" in said
    assert "input_size: 32 3 0 1.50 = 1.01 [0.91, 1.11] did not help" in said
    assert any("interleaved in one run" in line for line in said)
    files = {file.name: file for file in write_front(views_of(place))}
    assert "| runtime: openvino | 2.00 | 1.75 \\[1.57, 1.93\\] | helped |" in files["report.md"].read_text()
    assert '"predicted":2.0,"speedup":1.75' in files["front.html"].read_text()
    assert "did not help" in files["report.md"].read_text()
    assert main(["front", "mine", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["advice"]
    assert [(one["predicted"], one["speedup"], one["helped"]) for one in told] == [
        (2.0, 1.75, True),
        (1.5, 1.01, False),
    ]


def test_what_was_advised_is_measured_once_more_with_the_front(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(words) == 0
    place = Sweep(Path("runs"), "mine")
    for number, raw in enumerate((recipe(), recipe(runtime="onnxruntime"), recipe(runtime="openvino"))):
        slow = {"latency_ms": 9.0 if number == 2 else 1.0}  # not on the front
        write_record(place.folder, made(number, raw, metrics=slow))
    found = finalists.finalists_of(place)
    assert found.artefacts == {n: f"trials/{n:04d}/artefact" for n in (0, 1, 2)}
    assert found.pairs == [(2, 0)]


def test_a_trial_is_compared_with_another_that_is_no_baseline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = {"zero": 8.0, "one": 4.0, "five": 2.0, "seven": 1.0}
    order = ["zero", "one", "five", "seven"]

    def ratio(index: int, base: int, *, network: bool = False) -> LatencyRatio:
        one = times[order[index]] / times[order[base]]
        return LatencyRatio(one, one * 0.9, one * 1.1)

    times_of = np.array([[[times[name] for name in order]]])
    found = SimpleNamespace(
        ratio=lambda index, base=1, **more: ratio(index, base, **more),
        mode="wall",
        notes=(),
        save_samples=lambda _: None,
        latency=times_of,
        network=times_of,
    )
    monkeypatch.setattr(comparison, "compare", lambda *_, **__: found)
    data: Any = SimpleNamespace(splits={"val": []})
    job: Any = SimpleNamespace(measuring=Measuring(rounds=2), target=None)
    context = TrialContext(job, data, tmp_path, tmp_path)
    artefacts = {0: "zero", 1: "one", 5: "five", 7: "seven"}
    asked = finalists.FrontComparison(artefacts, reference=1, seen=[0, 1, 5, 6, 7], pairs=[(7, 5), (5, 0)])
    told = finalists.compare_front(context, asked)["trials"]
    assert {name: one["speedup"] for name, one in told["7"].items()} == {"eager": 8, "onnxruntime": 4, "trial_5": 2}
    assert set(told["5"]) == {"eager", "onnxruntime"}
