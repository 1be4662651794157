"""The log in MLflow: complete, the same however often it is written, and never in the way of a sweep."""

from __future__ import annotations

import json
import re
import shutil
import socket
import threading
import types
from collections import Counter
from contextlib import nullcontext, suppress
from dataclasses import replace
from types import SimpleNamespace

import pytest

from paretune.search.pareto_front import hypervolume, pareto_front
from paretune.tracking import sweep_tracker as module
from paretune.tracking.log_names import log_name
from paretune.tracking.mlflow_client import ClientInTurns, LogPlace, database_uri
from paretune.tracking.sweep_tracker import MlflowTracker
from paretune.tracking.training_run import TrainingLog
from tests_support_records import OBJECTIVES, changed, compared, fake_records, feasible, front_of, judge, write_sweep

START = 1_790_000_000.0
JOB = {"dataset.shapes.seed": 0, "objectives.map": "maximize", "search.trials": 14, "odd, name": "x" * 9000}
slow = pytest.mark.slow


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory):
    """A new database; making one takes some seconds, so it is made once and copied."""
    runs = tmp_path_factory.mktemp("empty")
    MlflowTracker(runs, "demo", None, "nothing").start({}, 0.0)
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=database_uri(runs))
    client.delete_experiment(client.get_experiment_by_name("nothing").experiment_id)
    return runs / "mlflow.db"


@pytest.fixture
def runs(tmp_path, empty_database):
    folder = tmp_path / "runs"
    folder.mkdir()
    shutil.copy(empty_database, folder)
    write_sweep(folder / "demo", fake_records())
    return folder


def tracker_of(runs, name="demo"):
    tracker = MlflowTracker(runs, name, None, "paretune")
    tracker.start(JOB, START)
    return tracker


def sync(tracker, runs, records, name="demo"):
    files = runs / name / "front"
    files.mkdir(parents=True, exist_ok=True)
    (files / "front.csv").write_text(f"{len(records)} trials")
    tracker.sync(records, runs / "demo", front_of(records, name), judge(), [files / "front.csv"])


def client_of(runs):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=database_uri(runs))


def experiment_of(runs):
    return client_of(runs).get_experiment_by_name("paretune")


def runs_in(runs):
    found = client_of(runs).search_runs([experiment_of(runs).experiment_id], max_results=1000)
    parents = [run for run in found if run.data.tags["paretune.trial"] == "all"]
    children = {int(r.data.tags["paretune.trial"]): r for r in found if r.data.tags["paretune.trial"] != "all"}
    assert len(children) + len(parents) == len(found)
    return parents, children


def snapshot(runs):
    """All that the log says, without the ids that MLflow draws."""
    client = client_of(runs)
    parents, children = runs_in(runs)
    said = {}
    for run in [*parents, *children.values()]:
        tags = {k: re.sub("[0-9a-f]{32}|paretune[0-9a-f]{12}", "ID", v) for k, v in run.data.tags.items()}
        histories = {
            name: sorted((m.step, m.timestamp, m.value) for m in client.get_metric_history(run.info.run_id, name))
            for name in run.data.metrics
        }
        times = (run.info.start_time, run.info.end_time)
        files = sorted(files_of(client, run.info.run_id))
        inputs = sorted((one.dataset.name, one.dataset.digest) for one in run.inputs.dataset_inputs)
        where = (run.info.run_name, run.info.status, times, files, inputs)
        said[run.data.tags["paretune.trial"]] = (run.data.params, histories, tags, *where)
    return said


def files_of(client, run_id, path=None):
    for file in client.list_artifacts(run_id, path):
        yield from files_of(client, run_id, file.path) if file.is_dir else [file.path]


@slow
def test_everything_of_the_records_is_in_the_log(runs):
    records = fake_records()
    tracker = tracker_of(runs)
    sync(tracker, runs, records)
    tracker.finish()
    (parent,), children = runs_in(runs)
    assert (parent.info.run_name, parent.info.status) == ("demo", "FINISHED")
    assert (parent.info.start_time, parent.info.end_time) == (START * 1000, records[-1].finished * 1000)
    assert parent.data.params["objectives.map"] == "maximize"
    assert len(parent.data.params["odd_ name"]) == 5000
    assert json.loads(parent.data.tags["paretune.hypervolume_reference"]) == {"map": 0, "latency_ms": 9.1}
    assert sorted(children) == [record.number for record in records]
    for record in records:
        run = children[record.number]
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.data.metrics.items() >= {log_name(name): value for name, value in record.metrics.items()}.items()
        assert run.data.params.items() >= {name: str(value) for name, value in record.params.items()}.items()
        assert (run.info.start_time, run.info.end_time) == (record.started * 1000, record.finished * 1000)
        assert run.info.status == ("FINISHED" if record.state == "complete" else "FAILED")
        files = set(files_of(client_of(runs), run.info.run_id))
        assert files == (
            {"artefact/artefact.json", "artefact/model.onnx", "environment.json", "samples.npz"}
            if record.state == "complete"
            else {"failure.txt"}
        )
    assert children[2].data.metrics["time/finetune_s"] == 25.0
    assert children[2].data.tags["paretune.unknown.latency_ms_p99"].startswith("662 samples")
    assert children[10].data.tags["paretune.failure"] == records[10].failure
    front = {number for number, run in children.items() if run.data.tags["paretune.front"] == "true"}
    assert front == {8, 5, 12, 6, 4, 2, 3}


@slow
def test_steps_are_the_front_after_each_trial(runs):
    records = fake_records()
    tracker = tracker_of(runs)
    for count in (1, 5, 6, 14):
        sync(tracker, runs, records[:count])
    (parent,), _ = runs_in(runs)
    client = client_of(runs)
    history = {
        name: {m.step: m.value for m in client.get_metric_history(parent.info.run_id, log_name(name))}
        for name in ("hypervolume", "front_size", "trials_done", "trials_failed")
    }
    for step in range(1, 15):
        points = [r.metrics for r in records[:step] if r.state == "complete" and feasible(r)]
        volume = hypervolume(points, OBJECTIVES, records[0].metrics)
        assert history["hypervolume"][step] == pytest.approx(volume)
        assert history["front_size"][step] == len(pareto_front(points, OBJECTIVES))
        assert history["trials_done"][step] == step
        assert history["trials_failed"][step] == (step > 10)
    assert all(len(values) == 14 for values in history.values())


@slow
def test_writing_again_changes_nothing_and_a_rebuilt_log_is_the_same(runs, tmp_path, empty_database):
    records = fake_records()
    tracker = tracker_of(runs)
    for count in range(1, 15):
        sync(tracker, runs, records[:count])
    told = compared(records, {0: 2.2, 1: 1.0, 8: 0.3})
    tracker.compared(records, front_of(records, "demo"), told)
    tracker.finish()
    first = snapshot(runs)
    ((step, stamp, gain),) = first["8"][1]["speedup/vs_eager"]
    assert (step, stamp) == (0, told["ended"] * 1000)
    assert gain == pytest.approx(2.2 / 0.3)
    assert "speedup/vs_eager" not in first["9"][1]  # it was not compared
    for _ in range(2):  # a new process each time
        again = tracker_of(runs)
        sync(again, runs, records)
        sync(again, runs, records)
        again.compared(records, front_of(records, "demo"), told)
        again.finish()
    assert snapshot(runs) == first
    rebuilt = tmp_path / "rebuilt"
    rebuilt.mkdir()
    shutil.copy(empty_database, rebuilt)
    shutil.copytree(runs / "demo", rebuilt / "demo")
    fresh = tracker_of(rebuilt)
    sync(fresh, rebuilt, records)
    fresh.compared(records, front_of(records, "demo"), told)
    fresh.finish()
    assert snapshot(rebuilt) == first


@slow
@pytest.mark.parametrize("broken", ["create_run", "log_batch", "log_artifacts", "set_terminated", "set_tag"])
def test_a_writer_killed_anywhere_is_carried_on_without_doubles(runs, monkeypatch, capsys, broken):
    from mlflow import MlflowClient

    records = fake_records()
    sync(tracker_of(runs), runs, records[:4])
    tracker = tracker_of(runs)
    calls = []

    def breaks(*_, **__):
        calls.append(1)
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, broken, breaks)
        sync(tracker, runs, records[:8])
        sync(tracker, runs, records[:9])  # not tried again so soon
    assert len(calls) == 1
    warning = capsys.readouterr().err
    assert warning.count("\n") == 1
    assert "OSError: the disk is full" in warning
    assert f"`paretune sync demo --runs {runs}` logs them" in warning
    for count in (9, 14):
        sync(tracker_of(runs), runs, records[:count])
    parents, children = runs_in(runs)
    assert (len(parents), sorted(children)) == (1, list(range(14)))
    assert {run.info.status for run in children.values()} == {"FINISHED", "FAILED"}
    history = client_of(runs).get_metric_history(parents[0].info.run_id, "trials/done")
    assert [m.value for m in sorted(history, key=lambda m: m.step)] == list(range(1, 15))


@slow
def test_a_run_that_a_server_makes_without_an_answer_is_there_once(runs, monkeypatch, capsys):
    from mlflow import MlflowClient

    real, made = MlflowClient.create_run, []

    def unanswered(*given, **named):
        made.append(real(*given, **named))
        if len(made) % 2:
            raise ConnectionResetError("connection reset by peer")
        return made[-1]

    monkeypatch.setattr(MlflowClient, "create_run", unanswered)
    monkeypatch.setattr(LogPlace, "pauses", property(lambda _: (0.0, 0.0)))
    sync(tracker_of(runs), runs, fake_records())
    assert len(made) == 15
    assert capsys.readouterr().err == ""
    parents, children = runs_in(runs)
    assert (len(parents), sorted(children)) == (1, list(range(14)))


@slow
def test_a_run_that_a_server_makes_too_late_is_removed(runs):
    """As by a request that was given up, and carried out a minute later."""
    sync(tracker_of(runs), runs, fake_records()[:9])
    (parent,), children = runs_in(runs)
    for run in (parent, children[3], children[8]):
        kept = {name: text for name, text in run.data.tags.items() if name in ("paretune.log_form", *OWN)}
        client_of(runs).create_run(experiment_of(runs).experiment_id, run.info.start_time, kept)
    sync(tracker_of(runs), runs, fake_records())
    parents, after = runs_in_experiment(runs)
    assert [run.info.run_id for run in parents] == [parent.info.run_id]
    assert sorted(int(run.data.tags["paretune.trial"]) for run in after) == list(range(14))
    assert {run.info.run_id for run in children.values()} < {run.info.run_id for run in after}


OWN = ("paretune.sweep", "paretune.trial", "mlflow.parentRunId")


def test_only_what_may_pass_is_tried_again_and_nothing_is_made_twice():
    from mlflow.exceptions import MlflowException

    def client_that(error):
        called = []

        def call(*_):
            called.append(1)
            raise error

        return ClientInTurns(SimpleNamespace(set_tag=call, create_run=call), nullcontext, (0.0, 0.0)), called

    silent = MlflowException("API request to http://h failed: Read timed out. (read timeout=10)")
    refused = MlflowException("no permission", error_code=7)
    for error, tries in ((MlflowException("too many 500 error responses"), 3), (OSError("reset"), 3), (silent, 1)):
        client, called = client_that(error)
        with pytest.raises(type(error)):
            client.set_tag("run", "a", "b")
        assert len(called) == tries
    for method, error in (("set_tag", refused), ("set_tag", KeyError("a")), ("create_run", OSError("reset"))):
        client, called = client_that(error)
        with pytest.raises(type(error)):
            getattr(client, method)("1")
        assert len(called) == 1


def raised_by(library, error):
    """A stand-in for the runs whose call of a library raises; the library is a module of that name."""
    module = types.ModuleType(library)
    exec("def call(error): raise error", module.__dict__)  # noqa: S102
    ours = types.ModuleType("paretune.tracking.sweep_runs")
    exec("def resume(call, error): call(error)", ours.__dict__)  # noqa: S102
    return SimpleNamespace(resume=lambda: ours.resume(module.call, error))


@pytest.mark.parametrize(
    ("library", "error", "surfaces"),
    [
        ("paretune.tracking.sweep_runs", KeyError("trial"), True),
        ("paretune.storage.trial_record", TypeError("None"), True),
        ("json", TypeError("not serializable"), True),  # what Python raises of what we gave it
        ("paretune.storage.trial_record", OSError("the disk is full"), False),
        ("json", PermissionError("samples.npz"), False),
        ("mlflow.store", KeyError("a server's answer"), False),
        ("sqlalchemy.orm", RuntimeError("database is locked"), False),
        ("botocore.client", ValueError("no such bucket"), False),
    ],
)
def test_our_own_mistakes_surface_and_what_libraries_raise_is_told(
    library, error, surfaces, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(module, "SweepRuns", lambda *_: raised_by(library, error))
    tracker = MlflowTracker(tmp_path, "demo", None, "paretune")
    if surfaces:
        with pytest.raises(type(error)):
            tracker.start(JOB, START)
        assert capsys.readouterr().err == ""
    else:
        tracker.start(JOB, START)
        assert str(error) in capsys.readouterr().err


@slow
def test_a_front_without_what_the_log_asks_for_is_no_fault_of_mlflows(runs):
    tracker, records = tracker_of(runs), fake_records()
    front = front_of(records, "demo")
    del front["front"][0]["trial"]
    with pytest.raises(KeyError, match="trial"):
        tracker.sync(records, runs / "demo", front, judge(), [])


@slow
def test_a_trial_that_was_run_again_replaces_its_run(runs):
    records = fake_records()
    sync(tracker_of(runs), runs, records)
    anew = changed(records[10], started=records[10].started + 5000, failure="RuntimeError: another reason")
    records[10] = anew
    sync(tracker_of(runs), runs, records)
    _, children = runs_in(runs)
    assert children[10].data.tags["paretune.failure"] == "RuntimeError: another reason"
    assert len(children) == 14


@slow
def test_sweeps_share_an_experiment_and_each_has_its_link(runs):
    records = fake_records()
    for name in ("demo", "other"):
        sync(tracker_of(runs, name), runs, records[:3], name)
    parents, _ = runs_in_experiment(runs)
    assert sorted(run.info.run_name for run in parents) == ["demo", "other"]
    lines = experiment_of(runs).tags["mlflow.note.content"].splitlines()
    for run in parents:
        (link,) = [line for line in lines if line.startswith(f"- [{run.info.run_name}](")]
        assert f"{run.info.run_id}/artifacts/front/front.html" in link


@slow
def test_a_sweep_of_the_same_name_made_anew_is_another_one(runs):
    """As after ``rm -rf runs/demo``, or of somebody else on one server: nothing of the first is taken over or lost."""
    records, again = fake_records(), {**JOB, "search.trials": 3}
    sync(tracker_of(runs), runs, records)
    first = snapshot(runs)["all"]
    later = [replace(one, started=one.started + 9e4) for one in records[:3]]
    tracker = MlflowTracker(runs, "demo", None, "paretune")
    tracker.start(again, START + 9e4)
    sync(tracker, runs, later)
    parents, children = runs_in_experiment(runs)
    new, old = sorted(parents, key=lambda run: -run.info.start_time)
    assert (new.data.params["search.trials"], old.data.params["search.trials"]) == ("3", "14")
    assert old.data.metrics["trials/done"] == len(records)
    assert new.data.metrics["trials/done"] == 3
    assert first[1].keys() == old.data.metrics.keys()
    counts = Counter(run.data.tags["mlflow.parentRunId"] for run in children)
    assert counts == {new.info.run_id: 3, old.info.run_id: len(records)}


@slow
def test_a_training_of_the_same_name_made_anew_has_a_run_of_its_own(runs):
    epoch = {"number": 1, "losses": {"box": 1.0}, "lr": 0.1, "images_per_second": 9.0, "seconds": 2.0}
    place = LogPlace(runs, "first", None, "trainings")
    for begun, entries in ((False, [epoch]), (False, [epoch]), (True, [epoch, {**epoch, "number": 2}])):
        TrainingLog(place, {"epochs": 2}, begun=begun).epochs(entries)
    client = client_of(runs)
    found = client.search_runs([client.get_experiment_by_name("trainings").experiment_id])
    done = {run.info.start_time: run.data.metrics["epochs_done"] for run in found}
    assert [done[stamp] for stamp in sorted(done)] == [1, 2]  # the newest goes on


def runs_in_experiment(runs):
    found = client_of(runs).search_runs([experiment_of(runs).experiment_id], max_results=1000)
    parents = [run for run in found if run.data.tags["paretune.trial"] == "all"]
    return parents, [run for run in found if run not in parents]


@slow
def test_somebodys_own_description_stays(runs):
    sync(tracker_of(runs), runs, fake_records()[:2])
    client_of(runs).set_experiment_tag(experiment_of(runs).experiment_id, "mlflow.note.content", "mine")
    sync(tracker_of(runs), runs, fake_records()[:3])
    assert experiment_of(runs).tags["mlflow.note.content"] == "mine"


@slow
def test_a_log_that_cannot_be_opened_costs_one_line_and_is_caught_up(tmp_path, empty_database, capsys):
    runs = tmp_path / "runs"
    (runs / "mlflow.db").mkdir(parents=True)
    records = fake_records()
    write_sweep(runs / "demo", records)
    tracker = tracker_of(runs)
    for count in (3, 4):
        sync(tracker, runs, records[:count])
    tracker.compared(records[:4], front_of(records, "demo"), compared(records, {0: 2.2, 1: 1.0, 2: 0.8}))
    tracker.finish()
    assert capsys.readouterr().err.count("\n") == 1
    (runs / "mlflow.db").rmdir()
    shutil.copy(empty_database, runs)
    tracker.start(JOB, START)
    sync(tracker, runs, records)
    tracker.finish()
    (parent,), children = runs_in(runs)
    assert (parent.info.status, len(children)) == ("FINISHED", 14)
    assert capsys.readouterr().err == "MLflow can be written again; what it lacks is logged now\n"


@slow
def test_a_dead_server_does_not_hold_a_sweep_up(tmp_path, capsys):
    """It is asked once, as often as MLflow's own client tries, and then not for each trial anew."""
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            with suppress(OSError):  # closed by the end of the test
                while True:
                    caller, _ = server.accept()
                    asked.append(caller.getpeername())
                    caller.close()

        threading.Thread(target=hang_up, daemon=True).start()
        tracker = MlflowTracker(tmp_path, "demo", f"http://127.0.0.1:{server.getsockname()[1]}", "paretune")
        tracker.start(JOB, START)
        at_start = len(asked)
        assert 0 < at_start < 10
        for count in range(1, 15):
            sync(tracker, tmp_path, fake_records()[:count])
        tracker.finish()
        assert len(asked) == at_start
        server.shutdown(socket.SHUT_RDWR)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("MLflow cannot be written (MlflowException")
