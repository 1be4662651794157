"""Who else uses the GPU, and what holds its clocks back, by an NVML whose answers are scripted."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paretune.core.target import Target
from paretune.profiling.gpu.contention import GpuContention, foreigners, monitor_device
from paretune.profiling.latency.compare import compare
from paretune.profiling.latency.measure import measure
from paretune.profiling.latency.result import Latency
from paretune.profiling.latency.samples import COLUMNS
from paretune.system.device_lock import locks_of
from tests_support_nvml import FIRST, NOT_SUPPORTED, SECOND, FakeNvml, gpu, put
from tests_support_profiling import BUSY, fake_artefact, images, quick

CUDA = Target(device="cuda")
STRANGER = 2**22 + 1
"""Above the largest number the kernel gives."""


@pytest.fixture
def worker() -> Iterator[int]:
    """A process that leads a session, with a child in it."""
    process = subprocess.Popen(
        ["sh", "-c", "sleep 100 & echo $!; wait"], start_new_session=True, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.child = int(process.stdout.readline())  # type: ignore[attr-defined]
    yield process  # type: ignore[misc]
    os.killpg(process.pid, 9)
    process.wait()
    process.stdout.close()


def seen(monkeypatch: Any, worker: Any, **values: Any) -> GpuContention:
    fake = put(monkeypatch, FakeNvml(gpu(**values)))
    with monitor_device(CUDA) as watch, watch.around(worker.pid) as looks:
        assert len(looks) == 1
    assert fake.users == 0
    assert len(looks) == 2
    told = watch.contention(looks)
    assert told is not None
    return told


def test_the_gpu_that_is_watched_is_the_one_whose_lock_is_held(monkeypatch: Any, worker: Any) -> None:
    put(monkeypatch, FakeNvml(gpu(uuid=FIRST), gpu(uuid=SECOND, bits=0x8)))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with monitor_device(CUDA) as watch, watch.around(worker.pid) as looks:
        pass
    told = watch.contention(looks)
    assert told is not None
    assert locks_of(CUDA.device) == (told.uuid,) == (SECOND,)
    assert "HwSlowdown" in "".join(told.notes)


def test_strangers_are_told_and_ours_are_not(monkeypatch: Any, worker: Any) -> None:
    ours = (worker.pid, worker.child, os.getpid())
    quiet = seen(monkeypatch, worker, pids=ours)
    assert (quiet.contended, quiet.notes) == ((), ())
    idle = seen(monkeypatch, worker, pids=(*ours, STRANGER))  # it has a context there, as whoever once trained
    assert (idle.contended, idle.notes) == ((), ())
    busy = seen(monkeypatch, worker, pids=[ours, (*ours, STRANGER)], computed=NOT_SUPPORTED)
    assert busy.contended == (f"process {STRANGER} used the GPU too",)
    assert busy.tree()["foreign"] == [[], [STRANGER]]
    assert foreigners(quiet.looks) == []


def test_a_stranger_that_came_and_went_between_two_looks_is_told(monkeypatch: Any, worker: Any) -> None:
    later = 10**18
    meanwhile = [(STRANGER - 9, 1, 80), (worker.child, later, 95), (STRANGER - 2, later, 30), (os.getpid(), later, 9)]
    met = seen(monkeypatch, worker, pids=(worker.pid,), computed=[[], meanwhile])
    assert met.contended == (f"process {STRANGER - 2} used the GPU too",)
    assert met.tree()["foreign"] == [[], [STRANGER - 2]]
    assert met.notes == ()
    alone = seen(monkeypatch, worker, pids=(worker.pid,), computed=lambda: meanwhile[:2])
    assert (alone.contended, alone.notes) == ((), ())
    hidden = seen(monkeypatch, worker, pids=(STRANGER,), computed=lambda: meanwhile)
    assert hidden.contended == ()  # numbers of another namespace tell nothing
    assert "another namespace" in hidden.notes[0]
    untold = seen(monkeypatch, worker, pids=(worker.pid,), computed=NOT_SUPPORTED)
    assert untold.contended == ()
    assert untold.notes == ("exclusivity known before and after repetitions only: NVML: not supported",)


def test_what_is_measured_has_memory_of_its_own(monkeypatch: Any, worker: Any) -> None:
    both = (worker.pid, worker.child, STRANGER)
    met = seen(monkeypatch, worker, pids=both, used=[*[2**20] * 3, *[5 * 2**20] * 3])
    assert met.own_mib == 10  # of two processes, at the second look
    assert met.tree()["own_mib"] == [2, 10]
    assert seen(monkeypatch, worker, pids=both).own_mib == "NVML does not tell"
    assert "another namespace" in str(seen(monkeypatch, worker, pids=(STRANGER,), used=2**20).own_mib)
    put(monkeypatch, FakeNvml())
    with monitor_device(CUDA) as watch, watch.around(1) as looks:
        pass
    told = watch.contention(looks)
    assert told is not None
    assert told.own_mib == "the GPU is not watched: the driver finds no GPU"


@pytest.mark.parametrize(
    ("pids", "reason"),
    [
        ((), "NVML shows no process, not the one that is measured"),
        ((STRANGER, STRANGER + 1), "2 processes by numbers of another namespace"),
        (NOT_SUPPORTED, "NVML: not supported"),
    ],
)
def test_what_a_container_hides_is_unknown(monkeypatch: Any, worker: Any, pids: Any, reason: str) -> None:
    told = seen(monkeypatch, worker, pids=pids)
    assert told.contended == ()
    (note,) = told.notes
    assert note.startswith("exclusivity unknown: ")
    assert reason in note


def test_bad_limits_are_a_note_and_others_a_record(monkeypatch: Any, worker: Any) -> None:
    told = seen(monkeypatch, worker, pids=(worker.pid,), bits=[0x1, 0x4 | 0x40], celsius=[50, 71], sm=[1900, 1200])
    assert told.notes == ("throttled: HwThermalSlowdown in 1, SwPowerCap in 1 of 2 looks before and after repetitions",)
    tree = told.tree()
    assert tree["limits"] == [["GpuIdle"], ["HwThermalSlowdown", "SwPowerCap"]]
    assert (tree["celsius"], tree["sm_mhz"], tree["uuid"]) == ([50, 71], [1900, 1200], FIRST)
    unknown = seen(monkeypatch, worker, pids=(worker.pid,), bits=NOT_SUPPORTED)
    assert unknown.notes[0].startswith("throttling unknown")


def test_without_nvml_nothing_is_claimed(monkeypatch: Any) -> None:
    put(monkeypatch, FakeNvml())
    with monitor_device(CUDA) as watch, watch.around(1) as looks:
        pass
    told = watch.contention(looks)
    assert told is not None
    assert told.notes[0] == "exclusivity unknown: the GPU is not watched: the driver finds no GPU"
    assert told.tree()["reason"].endswith("the driver finds no GPU")


def test_a_cpu_has_no_gpu_to_watch(monkeypatch: Any) -> None:
    fake = put(monkeypatch, FakeNvml(gpu()))
    with monitor_device(Target()) as watch, watch.around(1) as looks:
        assert fake.users == 0
    assert watch.contention(looks) is None


def test_a_latency_says_when_nobody_watched() -> None:
    rows = np.ones((20, len(COLUMNS)), np.int64)
    latency = Latency(
        rows, np.zeros(20, np.int64), CUDA, 1.0, {"foreign": 0.0}, True, {"load_ms": 1.0, "first_inference_ms": 1.0}
    )
    assert latency.notes == ("exclusivity unknown: the GPU was not watched",)
    assert latency.reasons["device_mib_peak"] == "the GPU was not watched"
    assert latency.reasons["allocator_mib_peak"] == "torch's allocator was not used"
    known = replace(latency, allocator_mib_peak=12.0, gpu=GpuContention((), missing="no driver"))
    assert known.metrics()["allocator_mib_peak"] == 12
    assert known.reasons["device_mib_peak"] == "no driver"
    on_cpu = replace(latency, target=Target())
    assert not {"device_mib_peak", "allocator_mib_peak"} & {*on_cpu.metrics(), *on_cpu.reasons}


@pytest.mark.slow
@pytest.mark.alone
def test_repetitions_beside_a_stranger_are_taken_again(monkeypatch: Any, tmp_path: Path) -> None:
    """The stranger is there during the first repetition and gone afterwards."""
    folder, asked = fake_artefact(tmp_path / "artefact", network=1), []

    def pids() -> list[int]:
        asked.append(1)
        ours = int((folder / "pid").read_text())
        return [ours, STRANGER] if len(asked) <= 2 else [ours]

    fake = put(monkeypatch, FakeNvml(gpu(pids=pids, bits=0x4, computed=NOT_SUPPORTED)))
    latency = measure(folder, images(), CUDA, quick(spare=1), loader=BUSY)
    assert fake.users == 0
    assert latency.retaken == 1
    assert latency.gpu is not None
    assert len(latency.gpu.looks) == 4
    assert not any("used the GPU too" in reason for reason in latency.contended)
    assert any(note.startswith("throttled: SwPowerCap in 4 of 4") for note in latency.notes)
    asked.clear()
    latency = measure(folder, images(), CUDA, quick(repetitions=1), loader=BUSY)
    assert f"process {STRANGER} used the GPU too" in latency.contended
    assert latency.to_dict()["gpu"]["foreign"] == [[STRANGER], [STRANGER]]


@pytest.mark.slow
@pytest.mark.alone
def test_a_comparison_beside_a_stranger_says_so(monkeypatch: Any, tmp_path: Path) -> None:
    folders = [fake_artefact(tmp_path / name, network=1) for name in ("one", "other")]

    def pids() -> list[int]:
        return [*(int((folder / "pid").read_text()) for folder in folders), STRANGER]

    put(monkeypatch, FakeNvml(gpu(pids=pids, computed=NOT_SUPPORTED)))
    found = compare(folders, images(), CUDA, rounds=2, blocks=2, protocol=quick(), loader=BUSY)
    assert any(f"process {STRANGER} used the GPU too" in note for note in found.notes)
    assert found.to_dict()["gpu"]["foreign"] == [[STRANGER]] * 4  # before and after two rounds; both workers are ours
