"""The Python API gives what the command line prints and what the records hold."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import paretune
from paretune.cli.main import main
from paretune.results.sweep_folder import Sweep
from paretune.storage.trial_record import read_records
from paretune.workflows import sweep as sweeps
from paretune.workflows import train as trainings
from tests_support import ROOT
from tests_support_records import finished_sweep
from tests_support_targets import records_on_both, two_target_sweep

JOB: dict[str, Any] = {
    "dataset": {"shapes": {"train": 8, "val": 4, "size": "64x48"}},
    "detector": {"yolo": {"variant": "nano"}},
    "input_size": 160,
    "space": "space.yaml",
    "constraints": {"map50": {"max_drop": 0.1}},
}
SPACE = {"input_size": 160, "steps": [{"prune": {"ratio": {"low": 0.1, "high": 0.5}}}], "runtime": "onnxruntime"}


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An output folder with a finished sweep of invented records."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    finished_sweep(tmp_path / "runs", JOB)
    return tmp_path / "runs"


@pytest.fixture
def real(tmp_path: Path) -> Sweep:
    """A real sweep on disk, of two baselines and one trial."""
    with zipfile.ZipFile(ROOT / "tests/data/sweep_of_0.1.0.zip") as archive:
        archive.extractall(tmp_path)
    return Sweep(tmp_path / "runs", "before")


def printed(capsys: Any, *words: str) -> Any:
    assert main(list(words)) == 0
    return json.loads(capsys.readouterr().out)


def test_a_front_is_what_the_command_prints(runs: Path, capsys: Any) -> None:
    front = paretune.Front("demo")
    told = printed(capsys, "front", "demo", "--json")
    assert front.tree == told
    assert front.points == told["front"]
    assert front.best is not None
    assert front.best["trial"] == told["best"]["trial"]
    assert front.artefact(front.best["trial"]) == Path("runs/demo") / told["best"]["artefact"]
    main(["front", "demo"])
    assert str(front) == capsys.readouterr().out.rstrip("\n")
    assert repr(front) == f"Front('demo', target='local': {len(told['front'])} points)"
    for place in (paretune.Front("demo", runs), paretune.Front(runs / "demo")):
        assert place.points == front.points


def test_nothing_is_printed_or_written_by_looking(runs: Path, capsys: Any) -> None:
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*")}
    front = paretune.Front("demo")
    front.dataframe(all_trials=True)
    assert front._repr_html_()
    assert front._repr_png_()
    assert {path: path.stat().st_mtime_ns for path in runs.rglob("*")} == before
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "")


def test_a_table_has_the_figures_of_the_records(runs: Path) -> None:
    front = paretune.Front("demo")
    table, every = front.dataframe(), front.dataframe(all_trials=True)
    records = {record.number: record for record in read_records(runs / "demo")}
    assert list(table.index) == [point["trial"] for point in front.points]
    assert list(every.index) == list(records)
    for number, row in every.iterrows():
        assert row["state"] == records[number].state
        if records[number].state == "complete":
            assert row["map"] == records[number].metrics["map"]
            assert row["map50"] == records[number].metrics["map50"]
    assert every.loc[10, "failure"] == records[10].failure
    assert every["map"].isna().sum() == 1  # of the failed one: unknown, not 0


def test_a_picture_shows_every_complete_trial_and_takes_axes(runs: Path) -> None:
    from matplotlib.figure import Figure

    front = paretune.Front("demo")
    axes = Figure().add_subplot()
    assert front.plot(axes) is axes
    drawn = sum(len(each.get_offsets()) for each in axes.collections)
    complete = [record for record in read_records(runs / "demo") if record.state == "complete"]
    assert drawn == len(complete)
    assert front.plot().get_title(loc="left") == "demo on local"
    assert front._repr_png_().startswith(b"\x89PNG")


def test_a_notebook_shows_a_small_table_and_a_picture(runs: Path) -> None:
    front = paretune.Front("demo")
    shown = front._repr_html_()
    assert shown.count("<tr>") + shown.count("<tr class") == len(front.points) + 2  # head and baseline
    assert "data:image/png;base64," in shown
    assert "<html" not in shown
    assert "<script" not in shown


@pytest.mark.parametrize("form", ["png", "svg", "html", "csv", "json"])
def test_a_front_is_saved_by_its_suffix(runs: Path, form: str) -> None:
    front = paretune.Front("demo")
    content = front.save(f"front.{form}").read_bytes()
    begins = {"png": b"\x89PNG", "svg": b"<?xml", "html": b"<!doctype", "csv": b"trial,", "json": b"{"}
    assert content.lower().startswith(begins[form].lower())
    if form == "json":
        assert json.loads(content) == front.tree
    if form == "csv":
        assert content.count(b"\n") == len(front.points) + 1


def test_what_a_front_cannot_do_is_told(runs: Path) -> None:
    front = paretune.Front("demo")
    for wrong, reason in (
        (lambda: front.save("front.pdf"), "png, svg, html, csv, json"),
        (lambda: front.save("nowhere/front.png"), "cannot be written"),
        (lambda: front.target("phone"), "no target 'phone'"),
        (lambda: front.artefact(9999), "not on the front"),
        (lambda: front.pick(max_drop=0.1, knee=True), "max_drop and knee"),
        (lambda: front.pick(max_latency="fast"), "10ms"),
        (lambda: front.pick(min={"map": 0.1, "map50": 0.1}), "one metric"),
        (lambda: paretune.Front("other"), "there are: demo"),
    ):
        with pytest.raises(paretune.UserError, match=reason):
            wrong()


def test_each_target_has_its_front(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    two_target_sweep(Path("runs"), records_on_both())
    one = paretune.Front("both")
    two = one.target("two")
    assert two.tree == printed(capsys, "front", "both", "--target", "two", "--json")
    assert one.tree == printed(capsys, "front", "both", "--target", "one", "--json")
    assert [point["trial"] for point in one.points] != [point["trial"] for point in two.points]
    assert list(two.dataframe().index) == [point["trial"] for point in two.points]
    assert two.plot().get_title(loc="left") == "both on two"


def test_a_pick_is_the_bundle_of_the_command(real: Sweep, tmp_path: Path, capsys: Any) -> None:
    front = paretune.Front(real.folder)
    bundle = front.pick(max_latency=10.0, out=tmp_path / "mine")
    words = ["pick", "before", "--runs", str(real.runs), "--max-latency", "10ms", "--out", str(tmp_path / "other")]
    told = printed(capsys, *words, "--json")
    assert {**bundle.facts, "made": 0, "folder": str(tmp_path / "other")} == {**told, "made": 0}
    assert json.loads((bundle.folder / "bundle.json").read_text()) == bundle.facts
    assert front.pick(min={"map": 0.0}).folder == real.folder / "picked/min-map-0"
    assert front.pick(min="map=0").facts["rule"] == {"kind": "min", "metric": "map", "limit": 0.0}


def test_predictions_are_those_of_the_command(real: Sweep, tmp_path: Path, capsys: Any) -> None:
    import cv2
    import numpy as np

    image, artefact = tmp_path / "photo.png", real.folder / "trials/0001/artefact"
    cv2.imwrite(str(image), np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8))
    told = printed(capsys, "predict", str(artefact), str(image), "--confidence", "0.001", "--json")
    (found,) = paretune.predict(artefact, image, confidence=0.001)
    assert [found.tree()] == told["images"]
    assert paretune.predict(str(artefact), [str(tmp_path / "none.png")])[0].failure
    for wrong in ({"confidence": 2.0}, {"max_detections": 0}, {"threads": 5000}, {"device": "abacus"}):
        with pytest.raises(paretune.UserError, match=r"expected|known"):
            paretune.predict(artefact, image, **wrong)  # type: ignore[arg-type]


def test_results_of_another_program_are_evaluated_as_by_the_command(tmp_path: Path, capsys: Any) -> None:
    truth, found = tmp_path / "truth.json", tmp_path / "found.json"
    box = {"image_id": 1, "category_id": 1, "bbox": [1, 1, 6, 6]}
    body = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 16, "height": 16}],
        "annotations": [{**box, "id": 1, "area": 36, "iscrowd": 0}],
        "categories": [{"id": 1, "name": "disc"}],
    }
    truth.write_text(json.dumps(body))
    found.write_text(json.dumps([{**box, "score": 0.9}]))
    report = paretune.evaluate(annotations=truth, detections=found)
    assert report.accuracy.metrics()["map"] == pytest.approx(1.0)
    told = printed(capsys, "evaluate", "--annotations", str(truth), "--detections", str(found), "--json")
    assert json.loads(json.dumps(report.tree())) == told
    with pytest.raises(paretune.UserError, match="go together"):
        paretune.evaluate(annotations=truth)


def test_a_job_is_a_file_a_tree_or_an_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("space.yaml").write_text(json.dumps(SPACE))
    Path("job.yaml").write_text(json.dumps(JOB))
    as_file = paretune.check("job.yaml", "space.yaml")
    assert [line.partition(":")[0] for line in as_file] == ["job.yaml", "space.yaml"]
    expected = as_file[0].partition(": ")[2]
    for job in (JOB, {**JOB, "space": SPACE}, paretune.Job.model_validate(JOB)):
        assert [line.partition(": ")[2] for line in paretune.check(job)] == [expected]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"trainings": 3}, "unknown field.*did you mean 'training'"),
        ({"space": {**SPACE, "runtime": "onnxruntme"}}, "space:.*onnxruntime"),
        ({"space": "nowhere.yaml"}, "no such file: nowhere.yaml"),
        ({"input_size": object()}, "a value that YAML cannot"),
    ],
)
def test_mistakes_in_a_tree_are_found_as_in_a_file(
    changes: dict[str, Any], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(paretune.UserError, match=reason):
        paretune.check({**JOB, "space": SPACE, **changes})


def test_a_sweep_of_a_tree_is_made_and_told_to_a_function_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    lines: list[str] = []

    def run(sweep: Sweep, *, reporter: Any, **_: Any) -> sweeps.SweepResult:
        reporter._log = SimpleNamespace(finish=lambda: lines.append("logged"))
        reporter.say("begun")
        reporter.finished()
        return sweeps.SweepResult(finished=True, records=())

    monkeypatch.setattr(sweeps, "run_sweep", run)
    front = paretune.sweep({**JOB, "space": SPACE}, "mine", set={"search.trials": 7}, tell=lines.append)
    assert lines == ["begun", "logged"]
    assert front.sweep.folder == Path("runs/mine")
    assert front.sweep.job.search.trials == 7
    assert list(front.sweep.space.parameters) == ["prune.ratio"]
    paretune.resume("mine", trials=9)
    assert paretune.Front("mine").sweep.job.search.trials == 9
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "")
    paretune.resume("mine", progress=True)
    assert capsys.readouterr().out == "begun\n"
    with pytest.raises(paretune.UserError, match="name: expected"):
        paretune.sweep({**JOB, "space": SPACE})


def test_a_sweep_that_is_stopped_tells_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweeps, "run_sweep", lambda *_, **__: sweeps.SweepResult(finished=False, records=()))
    with pytest.raises(paretune.Stopped, match="resume mine"):
        paretune.sweep({**JOB, "space": SPACE}, "mine")


def test_a_training_has_the_facts_on_disk_and_prints_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    facts = {"metrics": {"val": {"map": 0.25}}}

    def run(place: Any, _job: Any, *, progress: Any, **_: Any) -> dict[str, Any]:
        progress("epoch 1")
        return facts

    monkeypatch.setattr(trainings, "run_training", run)
    training = paretune.train({**JOB, "space": SPACE}, "mine")
    assert training.folder == Path("runs/trainings/mine")
    assert training.artefact == training.folder / "artefact"
    assert training.metrics == facts["metrics"]
    assert capsys.readouterr().out == ""
    paretune.train({**JOB, "space": SPACE}, "mine", resume=True, progress=True)
    assert capsys.readouterr().out == "epoch 1\n"
