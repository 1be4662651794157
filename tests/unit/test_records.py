"""Records: written once, read back equal, and never read wrong."""

from __future__ import annotations

import errno
import json
import math
import threading
from dataclasses import asdict

import pytest

from paretune.core.errors import UserError
from paretune.storage import trial_record
from paretune.storage.trial_record import Record, read_record, read_records, record_file, write_record, written_beside
from tests_support_records import changed, complete, fake_records, recipe


def test_records_come_back_equal_and_in_order(tmp_path):
    records = fake_records()
    for record in reversed(records):
        write_record(tmp_path, record)
    assert read_records(tmp_path) == records
    assert read_record(tmp_path, 10).failure.startswith("RuntimeError")
    assert read_record(tmp_path, 99) is None
    assert read_records(tmp_path / "nothing") == []


def test_a_record_is_never_changed(tmp_path):
    first = fake_records()[2]
    write_record(tmp_path, first)
    write_record(tmp_path, changed(first, metrics={"map": 0.0}))
    assert read_record(tmp_path, 2) == first
    assert [p.name for p in record_file(tmp_path, 2).parent.iterdir()] == ["record.json"]


def test_numbers_beyond_four_digits_keep_their_order(tmp_path):
    one = fake_records()[2]
    for number in (10001, 9999, 3):
        write_record(tmp_path, changed(one, number=number))
    assert [record.number for record in read_records(tmp_path)] == [3, 9999, 10001]


def body_of(**changes):
    return asdict(fake_records()[2]) | changes


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{}",
        json.dumps(body_of())[:-40],
        json.dumps(body_of(state="running")),
        json.dumps(body_of(metrics={"map": math.nan})),
        json.dumps(body_of(metrics={"map": "high"})),
        json.dumps(body_of(metrics=[0.5])),
        json.dumps(body_of(surprise=1)),
        json.dumps({k: v for k, v in body_of().items() if k != "recipe"}),
        json.dumps(body_of(notes=None)),
        "\x00\x00\x00",
    ],
)
def test_a_damaged_record_is_named(tmp_path, text):
    write_record(tmp_path, fake_records()[0])
    file = record_file(tmp_path, 2)
    file.parent.mkdir(parents=True)
    file.write_text(text)
    with pytest.raises(UserError, match=r"trials/0002/record\.json: damaged record"):
        read_records(tmp_path)


def test_a_trial_that_runs_is_no_record(tmp_path):
    write_record(tmp_path, fake_records()[0])
    (tmp_path / "trials" / "0001" / "work").mkdir(parents=True)
    assert [record.number for record in read_records(tmp_path)] == [0]


def test_a_measurement_that_is_no_number_becomes_unknown_with_a_reason(tmp_path):
    record = Record.complete(
        3,
        {},
        {},
        "sampled",
        metrics={"map": math.nan, "latency_ms_p50": math.inf, "size_mib": 1.0},
        reasons={"latency_ms_p99": "too few samples"},
        notes=(),
        artefact="a",
        started=1.0,
    )
    assert record.metrics == {"size_mib": 1.0}
    assert record.reasons == {
        "map": "the measurement gave nan",
        "latency_ms_p50": "the measurement gave inf",
        "latency_ms_p99": "too few samples",
    }
    write_record(tmp_path, record)
    assert read_record(tmp_path, 3) == record


def test_a_failed_trial_ends_when_its_last_stage_did():
    record = Record.failed(4, {}, {}, "sampled", "broke", started=100.0, seconds={"prune": 2.0, "finetune": 3.5})
    assert record.finished == pytest.approx(105.5)
    assert (record.state, record.metrics, record.artefact) == ("failed", {}, None)


def test_a_changed_byte_in_a_record_is_found(tmp_path):
    """Also one that is a digit of a metric; a record of an older version has no seal, and is read."""
    one = changed(fake_records()[2], number=3, facts={"duet": {1: 0.5, 10: 2.0, 2: 1.0}}, metrics={"map": 0.375})
    write_record(tmp_path, one)
    file = tmp_path / "trials" / "0003" / "record.json"
    assert read_records(tmp_path)[0].metrics == {"map": 0.375}
    whole = json.loads(file.read_text())
    file.write_text(file.read_text().replace("0.375", "0.975"))
    with pytest.raises(UserError, match=r"0003/record\.json: damaged record"):
        read_records(tmp_path)
    del whole["sha256"]
    file.write_text(json.dumps(whole))
    assert read_records(tmp_path)[0].metrics == {"map": 0.375}


def test_a_record_is_on_the_disk_at_the_end_of_the_block_that_writes_beside(tmp_path, monkeypatch):
    one, begun, go = complete(2, recipe(64), 0.4, 4.0), threading.Event(), threading.Event()
    original = trial_record.write_text

    def slow(file, text):
        begun.set()
        go.wait(30)
        original(file, text)

    monkeypatch.setattr(trial_record, "write_text", slow)
    with written_beside():
        write_record(tmp_path, one)
        assert begun.wait(30)
        assert read_record(tmp_path, 2) is None  # nobody sees what may still be lost
        go.set()
    assert read_record(tmp_path, 2) == one
    write_record(tmp_path, complete(3, recipe(64), 0.4, 4.0))
    assert read_record(tmp_path, 3) is not None


def test_a_record_that_cannot_be_written_beside_fails_the_block(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(trial_record, "write_text", full)
    with pytest.raises(OSError, match="No space"), written_beside():
        write_record(tmp_path, complete(2, recipe(64), 0.4, 4.0))
