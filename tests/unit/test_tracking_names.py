"""What people read in MLflow, without a log: names of metrics and runs, curves, the description, the saved view."""

from __future__ import annotations

import base64
import json
import re
import zlib
from typing import Any

import pytest

from paretune.core.metrics import METRICS
from paretune.core.recipe_text import main_settings, trial_title
from paretune.storage.trial_events import Event
from paretune.storage.trial_record import Record
from paretune.tracking.log_names import log_name
from paretune.tracking.mlflow_client import LogPlace, key_of
from paretune.tracking.saved_views import known_version, view_key, view_value
from paretune.tracking.sweep_note import NoteLinks, sweep_note
from paretune.tracking.trial_values import curves_of, metrics_of, quality_of, tags_of
from tests_support_records import INT8, changed, fake_records, finetune, front_of, judge, prune, recipe

PAGE = "#/page"


@pytest.mark.parametrize(
    "name", ["a//b", "/a", "..", "../a", ".", "", "a/./b", "a/../b", "a/", "x" * 300, "/" * 300, "a|b"]
)
def test_any_name_becomes_a_key_that_mlflow_takes(name: str) -> None:
    from mlflow.utils.validation import _validate_param_name, _validate_tag_name

    _validate_param_name(key_of(name))
    _validate_tag_name(key_of(name))


def test_every_metric_is_in_a_group_and_no_two_share_a_name() -> None:
    names = {metric: log_name(metric) for metric in METRICS}
    assert len(set(names.values())) == len(names)
    groups = {name.split("/")[0] for name in names.values()}
    assert groups == {"accuracy", "latency", "memory", "energy", "model"}
    assert all(name.count("/") == 1 and key_of(name) == name for name in names.values())


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        ("map", "accuracy/map"),
        ("map_delta_low", "accuracy/map_delta_low"),
        ("latency_ms", "latency/ms"),
        ("latency_ms_p50", "latency/p50_ms"),
        ("latency_ms_p50_low", "latency/p50_low_ms"),
        ("network_ms_high", "latency/network_high_ms"),
        ("memory_mib_peak", "memory/peak_mib"),
        ("energy_mj_image", "energy/mj_image"),
        ("size_mib", "model/size_mib"),
        ("seconds_finetune", "time/finetune_s"),
        ("trials_done", "trials/done"),
        ("speedup_vs_trial_7", "speedup/vs_trial_7"),
        ("test_map", "test/map"),
        ("test_latency_ms", "test/latency_ms"),
        ("somebodys_own", "other/somebodys_own"),
    ],
)
def test_names_in_the_log(metric: str, name: str) -> None:
    assert log_name(metric) == name


def test_a_run_is_named_by_its_recipe() -> None:
    pruned = recipe(160, prune(0.4), finetune(7))
    assert trial_title(4, pruned, starred=True, usual_size=160) == "004 ★ prune 40 % → finetune 7 → ONNX Runtime"
    assert trial_title(11, recipe(128), starred=False, usual_size=160) == "011 128 unchanged → ONNX Runtime"
    assert trial_title(0, recipe(160, runtime="eager"), starred=False, usual_size="160") == "000 unchanged → PyTorch"
    assert trial_title(6, recipe(160, INT8), starred=False, usual_size=160) == "006 int8 → ONNX Runtime"
    fast = {**pruned, "runtime": {"openvino": {"precision": "bf16"}}}
    assert trial_title(1234, fast, starred=False).endswith("1234 160 prune 40 % → finetune 7 → OpenVINO bf16")


def test_the_few_settings_that_are_compared_first() -> None:
    twice = recipe(128, prune(0.5), finetune(3), prune(0.2), finetune(4), INT8)
    assert main_settings(twice, {"precision": "int8 (read back)"}) == {
        "size": 128,
        "prune": 0.6,  # 1 - 0.5 * 0.8
        "finetune": 7,
        "precision": "int8",
        "runtime": "onnxruntime",
    }
    assert main_settings(recipe(160), {"precision": "bf16"})["precision"] == "bf16"
    assert main_settings(recipe(160), {})["precision"] == "fp32"


def epoch(stage: str, key: str, number: int, at: float, **metrics: float) -> Event:
    return Event("epoch", stage, at, key=key, epoch=number, epochs=9, metrics=metrics)


def test_curves_have_one_value_an_epoch_the_last_one_and_further_trainings_a_number() -> None:
    events = [
        Event("begin", "finetune", 1.0, key="a"),
        epoch("finetune", "a", 1, 2.0, loss=5.0, map=0.1),
        epoch("finetune", "a", 2, 3.0, loss=4.0),
        epoch("finetune", "a", 2, 9.0, loss=3.5),  # after a kill
        epoch("finetune", "b", 1, 11.0, loss=2.0),
        Event("end", "finetune", 12.0, key="b", metrics={"loss": 1.0}),
    ]
    assert {(one.name, one.epoch): (one.value, one.stamp) for one in curves_of(events)} == {
        ("curves/finetune_loss", 1): (5.0, 2000),
        ("curves/finetune_map", 1): (0.1, 2000),
        ("curves/finetune_loss", 2): (3.5, 9000),
        ("curves/finetune2_loss", 1): (2.0, 11000),
    }
    assert curves_of([]) == []


def test_tags_tell_how_a_trial_ended_and_how_far_it_can_be_trusted() -> None:
    records = fake_records()
    failed = tags_of(records[10])
    assert failed["paretune.failure"] == records[10].failure
    assert "paretune.quality" not in failed
    stopped = Record.stopped(3, records[3].recipe, {}, "sampled", "too slow", stage="prune", metrics={}, facts={})
    assert tags_of(stopped)["paretune.stopped"] == "too slow"
    assert tags_of(records[2])["paretune.quality"] == "ok"
    assert quality_of(changed(records[2], notes=("contended: others used 3 cores",))) == "contended"
    assert quality_of(changed(records[2], facts={"duet": {"unstable": True}})) == "unstable"


def test_the_seconds_of_stages_are_metrics_too() -> None:
    assert metrics_of(fake_records()[3], log_name)["time/finetune_s"] == 25.0
    assert metrics_of(fake_records()[3], str)["seconds_finetune"] == 25.0  # as older versions name them


def note(records: list[Record], front: dict[str, Any], *, ended: bool = True) -> str:
    links = NoteLinks(PAGE, {record.number: f"#/run{record.number}" for record in records}, "#/view")
    return sweep_note(front, records, judge(), links, ended=ended)


def test_the_description_begins_with_the_answer_and_holds_the_front() -> None:
    records = fake_records()
    front = front_of(records)
    lines = note(records, front).splitlines()
    assert front["best"]["trial"] == 8
    assert lines[0] == (
        "**008 128 prune 55 % → finetune 8 → int8 → ONNX Runtime** is the fastest that is accurate enough: "
        "1.25 ms, 7.3 times as fast as the unchanged network in PyTorch, map 0.449."
    )
    assert lines[2] == f"[The front as a page]({PAGE}) · [all trials as charts](#/view)"
    rows = [line for line in lines if line.startswith("| [")]
    assert [int(re.findall(r"#/run(\d+)\)", row)[0]) for row in rows] == [point["trial"] for point in front["front"]]
    assert lines[-1] == f"Cost: 14 trials (1 failed), {(13 * 35 + 1.5) / 3600:.2f} h of all trials together."
    assert note(records, front, ended=False).startswith("So far: **008")


def test_the_description_of_a_sweep_without_a_front() -> None:
    records = fake_records()[:1]
    front = {**front_of(records), "front": [], "best": None}
    assert note(records, front).startswith("no trial keeps the constraints.")


def test_a_large_front_fits_into_a_tag_and_says_what_is_left_out() -> None:
    records = fake_records()
    front = front_of(records)
    front["front"] = [{**front["front"][0], "trial": number} for number in range(500)]
    front["best"] = {**front["best"], "trial": 0}
    links = NoteLinks(PAGE, dict.fromkeys(range(500), f"#/experiments/1/runs/{'0' * 32}"))
    text = sweep_note(front, records, judge(), links, ended=True)
    assert len(text) < 5000
    shown = text.count("\n| [")
    assert f"and {500 - shown} more points on the page" in text


def test_names_are_shown_as_they_are() -> None:
    records = fake_records()
    front = front_of(records)
    evil = {"<script>alert(1)</script>": {"a|b": "[x](y)"}}
    for point in front["front"]:
        point["recipe"] = {**point["recipe"], "steps": [evil]}
    text = note(records, front)
    assert "<script" not in text
    assert all(line.count(" | ") == 3 for line in text.splitlines() if line.startswith("| ["))


def test_a_view_is_written_as_mlflow_reads_it_and_for_known_versions_only() -> None:
    run_id = "0123456789abcdef0123456789abcdef"
    body = json.loads(view_value("demo on laptop", 5, run_id, ["accuracy/map", "latency/ms", "model/size_mib"]))
    assert (body["name"], body["createdAt"]) == ("demo on laptop", 5)
    kind, _, packed = body["state"].partition(";")
    state = json.loads(zlib.decompress(base64.b64decode(packed)))
    assert kind == "deflate"
    assert state["searchFilter"] == f"tags.`mlflow.parentRunId` = '{run_id}'"
    scatter, parallel = state["compareRunCharts"]
    assert (scatter["xaxis"]["key"], scatter["yaxis"]["key"]) == ("latency/ms", "accuracy/map")
    assert parallel["selectedParams"] == ["size", "prune", "finetune", "precision", "runtime"]
    (section,) = state["compareRunSections"]
    assert {chart["metricSectionId"] for chart in state["compareRunCharts"]} == {section["uuid"]}
    assert state["runsHiddenMode"] == "SHOW_ALL"
    assert "metrics.`model/size_mib`" in state["selectedColumns"]
    assert re.fullmatch("[a-z0-9]+", view_key(run_id, "laptop (4 cores)"))
    assert view_key(run_id, "a") != view_key(run_id, "b")
    versions = {"3.17.2": True, "3.9.0": False, "4.0.0": False, "4.1.0rc1": False, "main": False}
    assert {version: known_version(version) for version in versions} == versions


def test_the_log_goes_where_the_job_says_or_the_environment_or_under_the_output_folder(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    plain = LogPlace.of(tmp_path, "demo", None, None)
    assert (plain.server, plain.experiment, plain.address) == (None, "paretune", None)
    assert plain.words == f"experiment 'paretune' in {tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:canary-secret@ml.example/base/")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "team")
    around = LogPlace.of(tmp_path, "demo", None, None)
    assert (around.uri, around.experiment) == ("https://me:canary-secret@ml.example/base/", "team")
    assert around.address == "https://ml.example/base"
    assert "canary" not in around.words
    named = LogPlace.of(tmp_path, "demo", "http://127.0.0.1:5000", "mine")
    assert (named.server, named.experiment) == ("http://127.0.0.1:5000", "mine")
