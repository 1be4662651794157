"""What MLflow shows of a sweep, in a real store: names, inputs, description, views, and logs of older versions."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from paretune.storage.trial_events import EventLog
from paretune.storage.trial_record import Record, trial_folder
from paretune.tracking.mlflow_client import database_uri
from paretune.tracking.sweep_about import LoggedDataset, SweepAbout
from paretune.tracking.sweep_tracker import MlflowTracker
from tests_support_records import changed, fake_records, front_of, judge, write_sweep

START = 1_790_000_000.0
ABOUT = SweepAbout(
    ("laptop",),
    LoggedDataset("shapes", "c68bc7399a333273", {"train": {"images": 400, "boxes": 2168}, "val": {"images": 300}}),
    {
        "paretune.data": "c68bc7399a333273",
        "paretune.version": "0.1.0",
        "paretune.seed": "0",
        "paretune.device": "a CPU",
    },
)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new database; making one takes some seconds, so it is made once and copied."""
    runs = tmp_path_factory.mktemp("empty")
    MlflowTracker(runs, "demo", None, "nothing").start({}, 0.0)
    client_of(runs).delete_experiment(client_of(runs).get_experiment_by_name("nothing").experiment_id)
    return runs / "mlflow.db"


@pytest.fixture
def runs(tmp_path: Path, empty_database: Path) -> Path:
    folder = tmp_path / "runs"
    folder.mkdir()
    shutil.copy(empty_database, folder)
    write_sweep(folder / "demo", fake_records())
    return folder


def client_of(runs: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=database_uri(runs))


def logged(runs: Path, records: list[Record], *, about: SweepAbout = ABOUT, ended: bool = False) -> MlflowTracker:
    tracker = MlflowTracker(runs, "demo", None, "paretune")
    tracker.start({"search.trials": 14}, START, about)
    tracker.sync(records, runs / "demo", front_of(records), judge(), [], ended=ended)
    return tracker


def read(runs: Path) -> tuple[Any, Any, dict[int, Any]]:
    """The experiment, the sweep's run, and trial → run."""
    client = client_of(runs)
    experiment = client.get_experiment_by_name("paretune")
    found = client.search_runs([experiment.experiment_id], max_results=1000)
    (parent,) = [run for run in found if run.data.tags["paretune.trial"] == "all"]
    children = {int(run.data.tags["paretune.trial"]): run for run in found if run is not parent}
    assert len(children) == len(found) - 1
    return experiment, parent, children


def test_runs_say_recipe_front_data_and_lineage(runs: Path) -> None:
    records = fake_records()
    logged(runs, records, ended=True)
    experiment, parent, children = read(runs)
    assert parent.info.run_name == "demo"
    assert children[4].info.run_name == "004 ★ prune 50 % → finetune 8 → ONNX Runtime"
    assert children[9].info.run_name == "009 128 prune 60 % → finetune 3 → int8 → ONNX Runtime"
    on_front = {point["trial"] for point in front_of(records)["front"]}
    for number, run in children.items():
        tags = run.data.tags
        assert ("★" in run.info.run_name) == (number in on_front)
        assert tags["paretune.front"] == tags["paretune.front.laptop"] == str(number in on_front).lower()
        assert {name: tags[name] for name in ABOUT.lineage} == ABOUT.lineage
    params = children[4].data.params
    assert {name: params[name] for name in ("size", "prune", "finetune", "precision", "runtime")} == {
        "size": "160",
        "prune": "0.5",
        "finetune": "8",
        "precision": "fp32",
        "runtime": "onnxruntime",
    }
    assert params["prune.ratio"] == "0.5"  # the recipe in the words of its fields
    for run in (parent, children[0], children[10]):
        inputs = {
            one.dataset.name: (one.dataset.digest, json.loads(one.dataset.profile), [tag.value for tag in one.tags])
            for one in client_of(runs).get_run(run.info.run_id).inputs.dataset_inputs
        }
        assert inputs == {
            "shapes/train": ("c68bc7399a333273", {"images": 400, "boxes": 2168}, ["train"]),
            "shapes/val": ("c68bc7399a333273", {"images": 300}, ["val"]),
        }
    note = parent.data.tags["mlflow.note.content"]
    assert note.startswith("**008 128 prune 55 %")
    for number in on_front:
        assert f"/runs/{children[number].info.run_id}?" in note
    address = f"#/experiments/{experiment.experiment_id}/runs/{parent.info.run_id}/artifacts/front/front.html"
    assert address in note
    first = experiment.tags["mlflow.note.content"].splitlines()[0]
    assert first == f"Paretune, fronts of sweeps: [demo]({address}?workflowType=machine_learning)"
    (view,) = [name for name in experiment.tags if name.startswith("mlflow.sharedViewState.")]
    assert f"viewStateShareKey={view.removeprefix('mlflow.sharedViewState.')}" in note


def test_a_point_that_leaves_the_front_loses_its_star(runs: Path) -> None:
    records = fake_records()
    logged(runs, records[:3])
    assert read(runs)[2][1].info.run_name == "001 ★ unchanged → ONNX Runtime"
    better = changed(records[3], metrics={**records[3].metrics, "latency_ms": 0.1, "map": 0.9, "map50": 0.99})
    logged(runs, [*records[:3], better])
    children = read(runs)[2]
    assert children[1].info.run_name == "001 unchanged → ONNX Runtime"
    assert children[1].data.tags["paretune.front.laptop"] == "false"
    assert children[3].info.run_name == "003 ★ prune 30 % → finetune 6 → ONNX Runtime"
    assert {run.info.status for run in children.values()} == {"FINISHED"}
    assert children[1].info.end_time == records[1].finished * 1000  # a new name is no new end


def test_a_run_is_named_again_only_if_its_star_changes(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    records, renamed = fake_records(), list[str]()
    update = MlflowClient.update_run

    def noting(client: Any, run_id: str, status: str | None = None, name: str | None = None) -> None:
        renamed.extend([] if name is None else [name])
        update(client, run_id, status, name)

    monkeypatch.setattr(MlflowClient, "update_run", noting)
    logged(runs, records)
    assert len(renamed) == len(front_of(records)["front"])
    assert all("★" in name for name in renamed)


def test_logging_again_calls_for_nothing(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    records = fake_records()
    logged(runs, records)
    calls: list[str] = []
    writing = ("create_run", "log_batch", "log_inputs", "log_dict", "log_artifact", "set_tag", "set_experiment_tag")

    def noting(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*given: Any, **named: Any) -> Any:
            calls.append(name)
            return call(*given, **named)

        return noted

    for name in writing:
        monkeypatch.setattr(MlflowClient, name, noting(name, getattr(MlflowClient, name)))
    tracker = MlflowTracker(runs, "demo", None, "paretune")
    tracker.start({"search.trials": 14}, START, ABOUT)
    tracker.sync(records, runs / "demo", front_of(records), judge(), [])
    # the reference of the hypervolume and the links, which other sweeps change, are written each time
    assert sorted(calls) == ["set_experiment_tag", "set_tag"]


def test_curves_of_trainings_inside_trials_are_metrics_by_epoch(runs: Path) -> None:
    records = fake_records()[:4]
    events = EventLog(trial_folder(runs / "demo", 3), clock=iter([100.0, 200.0, 300.0]).__next__)
    events.add("begin", "finetune", key="a")
    events.add("epoch", "finetune", key="a", epoch=1, epochs=2, metrics={"loss": 5.0, "map": 0.25})
    events.add("epoch", "finetune", key="a", epoch=2, epochs=2, metrics={"loss": 4.0, "map": float("nan")})
    logged(runs, records)
    run_id = read(runs)[2][3].info.run_id
    history = client_of(runs).get_metric_history(run_id, "curves/finetune_loss")
    assert [(one.step, one.value, one.timestamp) for one in history] == [(1, 5.0, 200_000), (2, 4.0, 300_000)]
    assert [one.value for one in client_of(runs).get_metric_history(run_id, "curves/finetune_map")] == [0.25]


def log_of_before(runs: Path, records: list[Record]) -> dict[int, str]:
    """A log as versions before groups of metrics wrote it; returns trial → id of its run."""
    client = client_of(runs)
    experiment = client.create_experiment(
        "paretune",
        artifact_location=(runs / "mlartifacts").as_uri(),
        tags={"mlflow.note.content": "**Paretune**\n\n- [demo](x)"},
    )
    tags = {"paretune.sweep": "demo"}
    parent = client.create_run(
        experiment, start_time=int(START * 1000), run_name="demo", tags={**tags, "paretune.trial": "all"}
    )
    client.log_metric(parent.info.run_id, "trials_done", float(len(records)), step=len(records))
    ids = {}
    for record in records:
        more = {
            "paretune.trial": str(record.number),
            "mlflow.parentRunId": parent.info.run_id,
            "paretune.front": "false",
        }
        run = client.create_run(
            experiment, start_time=int(record.started * 1000), run_name=f"t{record.number:04d}", tags={**tags, **more}
        )
        client.log_metric(run.info.run_id, "latency_ms", record.metrics["latency_ms"])
        client.set_terminated(run.info.run_id, "FINISHED", end_time=int(record.finished * 1000))
        ids[record.number] = run.info.run_id
    return ids


def test_the_log_of_an_older_version_goes_on_under_its_own_names(runs: Path) -> None:
    records = fake_records()
    ids = log_of_before(runs, records[:3])
    for _ in range(2):
        logged(runs, records)
    experiment, parent, children = read(runs)
    assert {number: children[number].info.run_id for number in ids} == ids
    assert {run.info.run_name for run in children.values()} == {f"t{number:04d}" for number in range(14)}
    for run in children.values():
        assert not any("/" in name for name in run.data.metrics)
    assert children[4].data.metrics["latency_ms"] == 2.6
    history = client_of(runs).get_metric_history(parent.info.run_id, "trials_done")
    assert sorted(one.step for one in history) == list(range(3, 15))
    on_front = {point["trial"] for point in front_of(records)["front"]}
    assert {number for number, run in children.items() if run.data.tags["paretune.front"] == "true"} == on_front
    assert parent.data.tags["mlflow.note.content"].startswith("So far: **008 128 prune 55 %")
    assert experiment.tags["mlflow.note.content"].startswith("Paretune, fronts of sweeps: [demo](")


def test_a_rebuilt_log_of_an_older_version_has_todays_names(runs: Path) -> None:
    records = fake_records()
    old = log_of_before(runs, records[:3])
    tracker = MlflowTracker(runs, "demo", None, "paretune")
    tracker.start({}, START, ABOUT)
    for _ in range(2):
        tracker.delete()
        tracker.sync(records, runs / "demo", front_of(records), judge(), [], ended=True)
    tracker.finish()
    experiment, parent, children = read(runs)  # deleted runs are not found
    assert sum(name.startswith("mlflow.sharedViewState.") for name in experiment.tags) == 1
    assert not {run.info.run_id for run in children.values()} & set(old.values())
    assert children[4].info.run_name.startswith("004 ★ prune 50 %")
    assert children[4].data.metrics["latency/ms"] == 2.6
    assert parent.data.metrics["trials/done"] == 14
    assert parent.info.status == "FINISHED"


def test_a_view_is_not_written_for_an_mlflow_that_may_not_read_it(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.setattr(mlflow, "__version__", "4.0.0")
    logged(runs, fake_records()[:3])
    experiment, parent, _ = read(runs)
    assert not any(name.startswith("mlflow.sharedViewState.") for name in experiment.tags)
    assert "all trials as charts" not in parent.data.tags["mlflow.note.content"]
