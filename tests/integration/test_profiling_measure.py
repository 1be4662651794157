"""Measuring with real processes, of predictors whose cost is known.

Known costs are CPU time, which holds on a machine that others use too; wall time is checked from below.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from paretune.core.errors import UserError
from paretune.core.target import Target
from paretune.profiling.latency import measure as measuring
from paretune.profiling.latency import result as latency_module
from paretune.profiling.latency.measure import measure
from paretune.profiling.latency.samples import COLUMNS, column
from paretune.profiling.latency.shared_images import saved_images
from paretune.profiling.latency.worker import FRESH_TURN
from paretune.profiling.latency.worker_client import Worker
from paretune.system.cpu_cores import choose_cores
from paretune.system.device_lock import exclusive_device, shared_device
from tests_support import ROOT
from tests_support_profiling import BUSY, fake_artefact, images, quick

pytestmark = pytest.mark.slow
PLACES = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "platform"), str(ROOT / "tests")])}
ONCE = quick(repetitions=1, seconds=0.05, warmup_seconds=0.02)


def run(folder, *, target=Target(), **protocol):  # noqa: B008 - frozen
    return measure(folder, images(), target, quick(**protocol), loader=BUSY)


def gone(pid, seconds=60.0):
    """Tell whether a process ended: no such process, or a zombie that its new parent has not buried yet."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state in "ZX":
            return True
        time.sleep(0.02)
    return False


def device_is_free():
    with exclusive_device("cpu") as waited:
        return waited < 2


@contextmanager
def competitor(core):
    """Keep one core busy."""
    code = f"import os; os.sched_setaffinity(0, [{core}]); print('go', flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        try:
            process.stdout.readline()
            yield process
        finally:
            process.kill()


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """One measurement of a predictor that works for 1, 4 and 2 ms, and its artefact."""
    folder = fake_artefact(tmp_path_factory.mktemp("known"), preprocess=1, network=4, postprocess=2, chatters=True)
    before = time.monotonic()
    return run(folder), time.monotonic() - before


def test_work_is_attributed_to_its_stage(known):
    rows = known[0].rows
    for stage, cost in (("preprocess", 1), ("network", 4), ("postprocess", 2), ("latency", 7)):
        cpu = float(np.median(column(rows, f"{stage}_cpu_ns"))) / 1e6
        assert cost <= cpu <= cost * 1.1 + 0.2
        assert np.median(column(rows, f"{stage}_ns")) / 1e6 >= cost * 0.98


def test_stages_add_up_and_follow_each_other(known):
    rows = known[0].rows
    parts = sum(column(rows, f"{stage}_ns") for stage in ("preprocess", "network", "postprocess"))
    assert (parts <= column(rows, "latency_ns")).all()
    assert np.median(column(rows, "latency_ns") - parts) < 100_000
    for repetition in range(2):
        mine = rows[known[0].repetition == repetition]
        ends = column(mine, "start_ns") + column(mine, "latency_ns")
        assert (column(mine, "start_ns")[1:] >= ends[:-1]).all()


def test_the_stopwatch_of_the_caller_agrees(known):
    latency, seconds = known
    sampled = column(latency.rows, "latency_ns").sum() / 1e9
    assert 2 * 0.2 * 0.8 <= sampled <= seconds
    assert latency.metrics()["latency_samples"] == len(latency.rows) >= 2 * 12


def test_images_are_taken_in_turn(known):
    for repetition in range(2):
        seen = column(known[0].rows[known[0].repetition == repetition], "image")
        assert seen.tolist() == [(repetition * 12 + n) % 3 for n in range(len(seen))]


def test_what_was_asked_for_is_read_back(known):
    facts, (core,) = known[0].facts, choose_cores(1)
    assert facts["cores"] == facts["affinity"] == [core]
    assert (facts["omp"], facts["opencv_threads"], facts["threads"]) == ("1", 1, 1)
    assert {"cpu", "machine", "kernel", "libraries", "nice"} <= facts.keys()
    assert {"foreign", "steal"} <= known[0].elsewhere.keys()
    assert facts["images"] == 3
    assert "few_images: measured on 3 images, 100 are usual" in known[0].notes


def test_metrics_are_plain_numbers_and_the_rest_has_reasons(known):
    told = json.loads(json.dumps(known[0].to_dict()))
    assert all(isinstance(value, float) for value in told["metrics"].values())
    assert told["metrics"]["load_ms"] > 0
    assert told["metrics"]["first_inference_ms"] >= 7
    assert "latency_ms_p99" in told["reasons"]


def test_waiting_is_wall_time_and_not_cpu_time(tmp_path):
    latency = run(fake_artefact(tmp_path, sleep=20), repetitions=1)
    assert latency.metrics()["network_ms_p50"] >= 20
    assert latency.metrics()["latency_ms_p50_cpu"] < 5


@pytest.mark.alone  # windows of a few inferences, as others leave time for, agree too soon
def test_a_warm_up_lasts_until_the_plateau(tmp_path):
    """Each inference is cheaper than the one before: 4 ms at first, 1 ms in the end."""
    latency = run(fake_artefact(tmp_path, network=1, cold=3, fade=0.97), repetitions=1, warmup_cap=20)
    assert latency.steady
    assert np.median(column(latency.rows, "network_cpu_ns")) / 1e6 < 1.4


def test_no_plateau_is_said(tmp_path):
    latency = run(fake_artefact(tmp_path, network=1, cold=0.3, fade=1.06), repetitions=1, warmup_cap=0.5)
    assert not latency.steady
    assert any(note.startswith("no_steady_state") for note in latency.notes)


@pytest.mark.alone  # beside others the competitor itself waits for the core
def test_a_competitor_on_the_core_is_noticed_and_cpu_time_holds(tmp_path):
    with competitor(choose_cores(1)[0]):
        latency = run(fake_artefact(tmp_path, network=5), seconds=0.6, spare=1)
    metrics = latency.metrics()
    assert latency.elsewhere["foreign"] > 0.25
    assert metrics["clean_fraction"] < 0.9
    assert "contended" in latency.notes[0]
    assert latency.retaken == 1
    assert latency.mode in {"clean", "cpu"}
    assert 5 <= metrics["latency_ms_p50_cpu"] < 6
    assert metrics["latency_ms_p50_cpu"] < column(latency.rows, "latency_ns").mean() / 1e6
    switches, before = (column(latency.rows, name) for name in ("switches", "switches_before"))
    within = np.diff(latency.repetition) == 0
    assert (before[1:][within] == switches[:-1][within]).all()
    assert before.any()


def test_after_losing_the_core_it_sleeps_before_the_next_inference(tmp_path):
    """A process that has slept gets a whole turn; on a quiet machine no time is lost between two inferences."""
    fake_artefact(tmp_path, network=2)
    gaps = {True: [], False: []}
    with (
        competitor(choose_cores(1)[0]),
        saved_images(images()) as file,
        Worker(tmp_path, file, Target(), quick(), BUSY) as worker,
    ):
        rows = worker.sample(0.6, 30).rows
    ends = column(rows, "start_ns") + column(rows, "latency_ns")
    for gap, lost in zip(column(rows, "start_ns")[1:] - ends[:-1], column(rows, "switches_before")[1:], strict=True):
        gaps[bool(lost)].append(gap / 1e9)
    assert min(gaps[True]) >= FRESH_TURN
    assert np.median(gaps[False]) < FRESH_TURN


def test_a_disturbed_repetition_is_taken_again(tmp_path, monkeypatch):
    """The first two processes are told to have been disturbed, there is room for one more: the second is kept."""
    told, started = [], []
    monkeypatch.setattr(
        latency_module, "contention", lambda _: ["others"] if len(told) < 2 and not told.append(1) else []
    )
    monkeypatch.setattr(measuring, "Worker", lambda *given: started.append(1) or Worker(*given))
    latency = run(fake_artefact(tmp_path, network=5), spare=1)
    assert len(started) == 3
    assert latency.retaken == 1
    assert set(latency.repetition) == {0, 1}
    assert any(note.startswith("retaken: 1 ") for note in latency.notes)


def test_repetitions_that_disagree_are_joined_by_more(tmp_path, monkeypatch):
    monkeypatch.setattr(latency_module, "contention", lambda _: [])
    monkeypatch.setattr(latency_module, "UNDISTURBED", 0.0)
    monkeypatch.setattr(latency_module, "SPREAD", -1.0)
    latency = run(fake_artefact(tmp_path, network=1), spare=2)
    assert latency.retaken == 0
    assert set(latency.repetition) == {0, 1, 2, 3}


def test_memory_is_the_peak_of_the_process_without_the_images(tmp_path):
    folder = fake_artefact(tmp_path, mib=200)
    small = measure(folder, images(2), Target(), ONCE, loader=BUSY).metrics()["memory_mib_peak"]
    large = measure(folder, images(2, side=2500), Target(), ONCE, loader=BUSY).metrics()["memory_mib_peak"]
    assert 200 < small < 500
    assert large == pytest.approx(small, abs=12)


def test_what_the_first_process_took_to_compile_is_no_memory_of_predicting(tmp_path):
    latency = run(fake_artefact(tmp_path, compiles=1000), seconds=0.05, warmup_seconds=0.02)
    assert latency.metrics()["memory_mib_peak"] < 500


def test_images_may_come_from_a_file(tmp_path):
    with saved_images(images(2)) as file:
        latency = measure(fake_artefact(tmp_path), file, Target(), ONCE, loader=BUSY)
    assert set(column(latency.rows, "image").tolist()) == {0, 1}
    with pytest.raises(ValueError, match="at least one image"):
        measure(tmp_path, [], Target(), loader=BUSY)


def test_a_process_that_dies_gives_no_figures_and_frees_the_device(tmp_path):
    with pytest.raises(RuntimeError, match="killed by SIGKILL"):
        run(fake_artefact(tmp_path, network=0.5, dies_after=30))
    assert gone(int((tmp_path / "pid").read_text()))
    assert device_is_free()


def test_a_process_that_fails_says_why(tmp_path):
    with pytest.raises(RuntimeError, match="ValueError: no more"):
        run(fake_artefact(tmp_path, network=0.5, raises_after=30))
    assert device_is_free()


def test_a_process_that_hangs_is_killed_with_all_that_it_started(tmp_path, monkeypatch):
    """It may take its time to start, and must answer within the limit from then on."""

    def started(artefact, file, target, protocol, loader):
        worker = Worker(artefact, file, target, replace(protocol, limit=60), loader)
        worker._protocol = protocol
        return worker

    monkeypatch.setattr(measuring, "Worker", started)
    with pytest.raises(RuntimeError, match="did not answer within 3 s"):
        run(fake_artefact(tmp_path, hang=True), limit=3)
    assert gone(int((tmp_path / "pid").read_text()))
    assert gone(int((tmp_path / "child").read_text()))
    assert device_is_free()


def test_another_number_of_threads_is_refused(tmp_path):
    with pytest.raises(RuntimeError, match="uses 2 threads, and 1 were asked for"):
        run(fake_artefact(tmp_path, threads=2))


def test_mistakes_of_the_user_stay_such(tmp_path):
    with pytest.raises(UserError, match="not an artefact"):
        measure(tmp_path, images(), Target(), quick())
    with pytest.raises(UserError, match="threads"):
        run(fake_artefact(tmp_path), target=Target(threads=1024))


def test_workers_die_with_a_killed_supervisor(tmp_path, own_locks):
    fake_artefact(tmp_path, hang=True)
    code = (
        "from pathlib import Path; from tests_support_profiling import *;"
        "from paretune.profiling.latency.measure import measure;"
        "from paretune.core.target import Target; from paretune.system import device_lock;"
        f"device_lock.lock_folder = lambda: Path({str(own_locks)!r});"
        f"measure(Path({str(tmp_path)!r}), images(), Target(), QUICK, loader=BUSY)"
    )
    supervisor = subprocess.Popen([sys.executable, "-c", code], env=PLACES)
    try:
        end = time.monotonic() + 30
        while not (tmp_path / "child").exists() and time.monotonic() < end:
            time.sleep(0.05)
        worker = int((tmp_path / "pid").read_text())
        assert Path(f"/proc/{worker}").exists()
    finally:
        supervisor.kill()
        supervisor.wait()
    assert gone(worker)
    assert device_is_free()
    os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)  # nobody was left to end what the fake started


def test_priority_of_a_ray_worker_is_left_behind_or_told(tmp_path):
    fake_artefact(tmp_path)
    code = (
        "import json; from pathlib import Path; from tests_support_profiling import *;"
        "from paretune.profiling.latency.shared_images import saved_images;"
        "from paretune.profiling.latency.worker_client import Worker;"
        "from paretune.core.target import Target\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "with saved_images(images()) as file, Worker(folder, file, Target(), QUICK, BUSY) as worker:\n"
        "    print(json.dumps(worker.facts))"
    )
    command = ["env", "GOMP_CPU_AFFINITY=0", "nice", "-n", "15", sys.executable, "-c", code]
    said = subprocess.run(command, env=PLACES, capture_output=True, text=True, check=True).stdout
    assert json.loads(said)["nice"] == (0 if os.getuid() == 0 else 15)


def test_the_supervisor_sleeps_while_it_waits(tmp_path):
    fake_artefact(tmp_path, network=1)
    with saved_images(images()) as file, Worker(tmp_path, file, Target(), quick(), BUSY) as worker:
        before = time.process_time()
        batch = worker.sample(1.0, 1)
        spent = time.process_time() - before
    assert batch.rows.shape[1] == len(COLUMNS)
    assert spent < 0.1


def test_lead_in_does_not_count_and_images_start_where_told(tmp_path):
    fake_artefact(tmp_path)
    with saved_images(images()) as file, Worker(tmp_path, file, Target(), quick(), BUSY) as worker:
        batch = worker.sample(0, 4, lead_in=2, image=7)
    assert column(batch.rows, "image").tolist() == [1, 2, 0, 1]


def test_measuring_waits_for_the_device(tmp_path):
    """Nothing is started while somebody else uses the device."""
    held, released = threading.Event(), []

    def train():
        with shared_device("cpu"):
            held.set()
            time.sleep(1)
            released.append(time.monotonic())

    thread = threading.Thread(target=train)
    thread.start()
    assert held.wait(30)
    latency = run(fake_artefact(tmp_path), repetitions=1, seconds=0.05)
    thread.join()
    assert column(latency.rows, "start_ns")[0] / 1e9 > released[0]
