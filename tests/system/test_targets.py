"""One real sweep for two targets, a CPU with one thread and with two: trained once, and a front for each."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from paretune.storage.target_records import on_target
from paretune.storage.trial_events import read_events
from paretune.storage.trial_record import STAGES, read_records, trial_folder

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(2400)]

JOB = """\
dataset: {shapes: {train: 128, val: 24, test: 24, size: 96x64, difficulty: 0}}
detector: {yolo: {variant: nano, depthwise: false, width: 0.125}}
input_size: 96x64
training: {epochs: 4, batch_size: 4, lr: 1e-2, ema: 0.9}
space: space.yaml
targets: {one: {device: cpu, threads: 1}, two: {device: cpu, threads: 2}}
search: {allow_unlearned: true, trials: 4, sampler: random}
measuring:
  {repetitions: 2, max_extra_repetitions: 0, seconds: 0.2, contention_wait_seconds: 0, rounds: 2, energy_seconds: 0}
"""
SPACE = """\
input_size: 96x64
steps:
  - prune: {ratio: 0.5, round_to: 4}
  - finetune: {epochs: 2}
  - name: precision
    choices: {fp32: null, int8: {quantize: {images: 8}}}
runtime: onnxruntime
"""
"""Two versions of one trained network."""


@pytest.fixture(scope="module")
def both(tmp_path_factory, place_in):
    place = place_in(tmp_path_factory.mktemp("both"), JOB, SPACE)
    done = place.run("sweep", "tiny.yaml", timeout=2000)
    assert done.returncode == 0, done.stdout + done.stderr
    (place.folder / "out.txt").write_text(done.stdout)
    return place


def test_every_training_ran_once_and_every_version_is_measured_on_both(both):
    folder = both.runs / "tiny"
    records = read_records(folder)
    assert [record.number for record in records if record.state == "failed"] == []
    keys = Counter(
        stage["key"]
        for record in records
        for stage in record.facts[STAGES]
        if stage["stage"] == "finetune" and not stage["reused"]
    )
    assert list(keys.values()) == [1]
    assert [len(record.targets) for record in records] == [2] * 4
    for record in (one for one in records if one.state == "complete"):
        begun = Counter(
            event.stage for event in read_events(trial_folder(folder, record.number)) if event.kind == "begin"
        )
        assert (begun["measure"], begun["measure_two"], begun["evaluate"]) == (1, 1, 1)
        one, two = record, on_target(record, "two")
        assert one.facts["threads"] == 1
        assert two.facts["threads"] == 2
        assert one.metrics["map"] == two.metrics["map"]
        assert one.metrics["latency_ms_p50"] != two.metrics["latency_ms_p50"]


def test_each_target_has_a_front(both):
    printed = json.loads(both.run("front", "tiny", "--json").stdout)
    assert list(printed["targets"]) == ["one", "two"]
    for name in ("one", "two"):
        front = json.loads(both.run("front", "tiny", "--target", name, "--json").stdout)
        assert front == printed["targets"][name]
        assert front["target"] == name
        assert front["decided_by"] == "comparison"
        assert front["front"]
    assert {key: printed[key] for key in printed if key != "targets"} == printed["targets"]["one"]
    text = both.run("front", "tiny").stdout
    assert "target one (cpu, 1 thread)" in text
    assert "target two (cpu, 2 threads)" in text
    assert (both.runs / "tiny" / "front-two" / "front.html").is_file()
    assert (both.runs / "tiny" / "comparison-two.json").is_file()


def test_a_bundle_is_picked_for_a_target(both):
    bundle = json.loads(both.run("pick", "tiny", "--target", "two", "--json").stdout)
    assert bundle["target"] == {"name": "two", "device": "cpu", "threads": 2, "labels": {}, "resources": {}}
    front = json.loads(both.run("front", "tiny", "--target", "two", "--json").stdout)
    assert bundle["trial"] == front["best"]["trial"]


def test_a_finished_sweep_is_resumed_without_a_new_trial(both):
    before = read_records(both.runs / "tiny")
    done = both.run("resume", "tiny")
    assert done.returncode == 0, done.stdout + done.stderr
    assert read_records(both.runs / "tiny") == before
