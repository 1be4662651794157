"""A training, a sweep and an evaluation tell and record what of the data is not used, and stop where that is much."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import pytest

from paretune.cli.main import main
from paretune.config.plan import read_plan
from paretune.core.errors import UserError
from paretune.distributed import ray_session as session
from paretune.results.sweep_folder import find_sweep, new_sweep
from paretune.storage.trial_record import Record, write_record
from paretune.training.training_job import TrainingJob
from paretune.training.worker import run_worker
from paretune.workflows.baseline import look_at_data
from paretune.workflows.sweep_log_worker import log_params
from tests_support_data import shares, yolo

JOB = """\
dataset: {yolo: {root: data, policy: skip}}
detector: {yolo: {variant: nano, depthwise: false, width: 0.125}}
input_size: 64x64
training: {epochs: 1, threads: 1, device: cpu, batch_size: 4}
space: space.yaml
"""
SPACE = "{input_size: 64x64, steps: [{prune: {ratio: {low: 0.1, high: 0.5}}}], runtime: onnxruntime}"
LINE = "left out: 1 boxes (not readable, the first data/labels/train/t0.txt: line 2), 1 images (an object in them is left out, the first data/images/train/t0.jpg)"  # noqa: E501
NOTE = "1 boxes have numbers behind them, such as a confidence, that are not used; the first: data/labels/train/t1.txt: line 1"  # noqa: E501
ENTRIES = [
    {"what": "boxes", "count": 1, "why": "not readable", "first": "data/labels/train/t0.txt: line 2"},
    {"what": "images", "count": 1, "why": "an object in them is left out", "first": "data/images/train/t0.jpg"},
]


@pytest.fixture
def place(tmp_path, monkeypatch):
    (tmp_path / "job.yaml").write_text(JOB)
    (tmp_path / "space.yaml").write_text(SPACE)
    root = yolo(tmp_path / "data", f"0 {shares()}\n0 0.5 0.5\n")
    (root / "labels/train/t1.txt").write_text(f"0 {shares()} 0.9\n1 {shares()}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(session, "session", lambda *_, **__: nullcontext())
    return tmp_path


def emptied(place):
    """No dog is left to be learnt."""
    for file in (place / "data/labels/train").iterdir():
        file.write_text(f"0 {shares()}\n")


def test_a_sweep_tells_it_and_keeps_it(place):
    sweep, said = new_sweep(read_plan(Path("job.yaml")), "one"), []
    look_at_data(sweep, said.append)
    assert said == [NOTE, LINE]
    found = find_sweep(Path("runs"), "one")
    assert found.left_out == ENTRIES
    assert found.facts["data"] == {"notes": [NOTE], "left_out": ENTRIES}
    assert found.job.dataset.policy == "skip"


@pytest.mark.parametrize("whole", [False, True])
def test_a_sweeps_run_in_the_log_has_it_as_a_param(place, whole):
    sweep = new_sweep(read_plan(Path("job.yaml")), "one")
    if not whole:
        look_at_data(sweep, lambda _: None)
    assert log_params(find_sweep(Path("runs"), "one"))["left_out"] == ("nothing" if whole else LINE)


def test_a_sweep_that_was_begun_goes_on(place):
    emptied(place)
    sweep, said = new_sweep(read_plan(Path("job.yaml")), "one"), []
    with pytest.raises(UserError, match="train holds no object of 'dog'"):
        look_at_data(sweep, said.append)
    write_record(sweep.folder, Record.failed(0, {}, {}, "baseline", "of old"))
    look_at_data(sweep, said.append)
    assert said == []


def test_data_that_are_on_other_machines_alone_are_told_so(place):
    sweep, said = new_sweep(read_plan(Path("job.yaml")), "one"), []
    (place / "data").rename(place / "moved")
    with pytest.raises(UserError, match="no such folder: data"):
        look_at_data(sweep, said.append)
    look_at_data(sweep, said.append, elsewhere=True)
    assert said == [f"what of the data is left out is not known here: {said[0].partition('here: ')[2]}"]
    assert "no such folder: data" in said[0]


def test_a_training_anywhere_refuses_what_lacks_a_class(place):
    emptied(place)
    job = read_plan(Path("job.yaml")).job
    order = TrainingJob(job.detector, job.dataset, place / "cache", job.size, job.training, place / "out")
    with pytest.raises(UserError, match="train holds no object of 'dog'"):
        run_worker(order, device="cpu", threads=1)


@pytest.mark.parametrize("verb", ["train", "sweep"])
def test_what_lacks_a_class_is_refused_and_leaves_no_folder(place, capsys, verb):
    emptied(place)
    assert main([verb, "job.yaml", "--name", "one"]) == 2
    said = capsys.readouterr().err
    assert "data: train holds no object of 'dog'" in said
    assert "--set dataset.yolo.allow_missing=true" in said
    assert not list(Path("runs").glob("one")) + list(Path("runs/trainings").glob("one"))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_training_and_an_evaluation_tell_it_and_keep_it(place, capsys):
    assert main(["train", "job.yaml", "--name", "one"]) == 0
    out = capsys.readouterr().out
    assert {NOTE, LINE} <= set(out.splitlines())
    kept = json.loads(Path("runs/trainings/one/training.json").read_text())
    assert (kept["left_out"], kept["notes"]) == (ENTRIES, [NOTE])
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{place / 'runs/mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "paretune"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.params["left_out"] == LINE
    artefact = "runs/trainings/one/artefact"
    assert main(["evaluate", artefact]) == 0
    assert {NOTE, LINE} <= set(capsys.readouterr().out.splitlines())
    assert main(["evaluate", artefact, "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert (tree["left_out"], tree["notes"]) == (ENTRIES, [NOTE])
    assert tree["images"] == 3
    assert main(["optimize", artefact, "--out", "made", "--runtime", "onnxruntime"]) == 0
    assert {NOTE, LINE} <= set(capsys.readouterr().out.splitlines())
    assert json.loads(Path("made/evaluation/accuracy.json").read_text())["data"]["left_out"] == ENTRIES
    emptied(place)
    assert main(["optimize", artefact, "--out", "more", "--step", "finetune={epochs: 1}"]) == 2
    assert "train holds no object of 'dog'" in capsys.readouterr().err
    assert main(["train", "job.yaml", "--name", "two", "--set", "dataset.yolo.allow_missing=true"]) == 0
