"""``sync``, ``mlflow rebuild``, ``promote`` and ``ui SWEEP``: what they leave in the log and what they print."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from paretune.cli.main import build_parser, main
from paretune.core.errors import UserError
from paretune.results.sweep_folder import Sweep
from paretune.storage.trial_record import write_record
from paretune.tracking.mlflow_client import LogPlace, database_uri
from paretune.tracking.ui_server import show_server
from paretune.workflows.sweep_log import write_log
from paretune.workflows.sweep_reporter import SweepReporter
from tests_support_records import complete, finished_sweep, recipe

JOB = {"dataset": "shapes", "detector": "yolo", "space": "none.yaml", "input_size": 160}
IDENTITY = {"data": {"fingerprint": "f00d", "classes": ["a"], "images_train": 4, "boxes_train": 9, "images_val": 2}}
slow = pytest.mark.slow


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    return finished_sweep(tmp_path, JOB)


def command_in(line: str) -> Any:
    """The printed command in a line, read as the program reads it."""
    typed = line[line.rindex("paretune ") :].partition("`")[0]
    return build_parser().parse_args(shlex.split(typed)[1:])


def runs_of(runs: Path, experiment: str = "paretune") -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=database_uri(runs))
    found: list[Any] = client.search_runs([client.get_experiment_by_name(experiment).experiment_id], max_results=999)
    return found


@slow
@pytest.mark.timeout(300)
def test_sync_writes_what_is_missing_once_and_rebuild_makes_all_again(
    sweep: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep.note(identity=IDENTITY)
    named = ["demo", "--runs", str(tmp_path)]
    assert main(["sync", *named]) == 0
    line = capsys.readouterr().out.strip()
    assert line.startswith(f"14 trials of 'demo' are in experiment 'paretune' in {tmp_path / 'mlflow.db'}; to look: ")
    assert (command_in(line).sweep, command_in(line).runs) == ("demo", tmp_path)
    first = runs_of(tmp_path)
    assert len(first) == 15
    (parent,) = [run for run in first if run.data.tags["paretune.trial"] == "all"]
    assert (parent.info.status, parent.data.tags["paretune.data"]) == ("FINISHED", "f00d")
    assert parent.data.tags["mlflow.source.name"] == "paretune sweep demo"
    assert sorted(one.dataset.name for one in parent.inputs.dataset_inputs) == ["shapes/train", "shapes/val"]
    write_record(sweep.folder, complete(14, recipe(96), 0.3, 0.9))  # as if a dead server had missed it
    assert main(["sync", *named]) == 0
    second = runs_of(tmp_path)
    assert {run.info.run_id for run in first} < {run.info.run_id for run in second}
    assert len(second) == 16
    assert main(["mlflow", "rebuild", *named]) == 0
    third = runs_of(tmp_path)
    assert len(third) == 16
    assert not {run.info.run_id for run in second} & {run.info.run_id for run in third}
    assert sorted(run.info.run_name for run in third) == sorted(run.info.run_name for run in second)


@slow
def test_a_log_that_cannot_be_written_is_an_exit_code_of_its_own(
    sweep: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mlflow.db").mkdir()
    assert main(["sync", "demo", "--runs", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("MLflow cannot be written (")


def test_a_running_sweep_logs_itself(sweep: Sweep) -> None:
    with sweep.lock(), pytest.raises(UserError, match="sweep 'demo'"):
        write_log(sweep)


def test_where_the_log_goes_is_said_at_the_start(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:canary-secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "team")
    reporter = SweepReporter(sweep)
    monkeypatch.setattr(reporter._log, "start", lambda: None)
    reporter.started()
    line = capsys.readouterr().out.strip()
    assert "MLflow: experiment 'team' in http://127.0.0.1:9; to look at it: " in line
    assert "canary" not in line
    assert command_in(line).sweep == "demo"


@slow
def test_ui_of_a_sweep_on_a_server_prints_the_servers_pages(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A database stands in for the server: its address is what is printed, its runs are what is looked up."""
    write_log(sweep)
    capsys.readouterr()
    place = LogPlace(tmp_path, "demo", "https://ml.example", "paretune")
    monkeypatch.setattr(LogPlace, "uri", property(lambda _: database_uri(tmp_path)))
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    show_server(place, sweep.facts["created"], browser=True)
    experiment, front = capsys.readouterr().out.splitlines()
    assert experiment == "experiment: https://ml.example/#/experiments/1/runs?workflowType=machine_learning"
    assert front.startswith("front of demo: https://ml.example/#/experiments/1/runs/")
    assert opened == [front.partition(": ")[2]]
    with pytest.raises(UserError, match=r"sweep 'demo' is not in experiment 'paretune'") as raised:
        show_server(place, sweep.facts["created"] + 1)
    assert command_in(str(raised.value)).runs == tmp_path


def test_ui_of_a_store_without_pages(sweep: Sweep, tmp_path: Path) -> None:
    place = LogPlace(tmp_path, "demo", f"sqlite:///{tmp_path}/other.db", "paretune")
    with pytest.raises(UserError, match="has no pages"):
        show_server(place, 5.0)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--trial", "99"], "sweep 'demo' has no trial 99"),
        (["--trial", "10"], "trial 10 of sweep 'demo' is failed: it has no artefact to register"),
        (["--target", "phone"], "sweep 'demo' has no target 'phone'"),
    ],
)
def test_what_cannot_be_promoted(
    words: list[str], problem: str, sweep: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["promote", "demo", "--runs", str(tmp_path), *words]) == 2
    assert capsys.readouterr().err.startswith(problem)
