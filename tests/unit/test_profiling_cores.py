"""Choice of cores and what else used them, by files as the kernel writes them."""

from __future__ import annotations

import os
import time

import pytest

from paretune.core.errors import UserError
from paretune.core.target import Target
from paretune.profiling.environment import environment
from paretune.system import cpu_cores as cores
from paretune.system import physical_gpu
from tests_support_nvml import FIRST, FakeNvml


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Four cores with two threads each: 0 and 4 share hardware, and so on."""
    for core in range(8):
        folder = tmp_path / f"cpu{core}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{core % 4},{core % 4 + 4}\n")
    monkeypatch.setattr(cores, "CPUS", tmp_path)

    def allow(*allowed):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(allowed))

    allow(*range(8))
    return allow


def test_threads_get_hardware_of_their_own(machine):
    assert cores.choose_cores(1) == [7]
    assert cores.choose_cores(4) == [4, 5, 6, 7]
    assert len({core % 4 for core in cores.choose_cores(3)}) == 3
    machine(3, 7, 1)
    assert cores.choose_cores(2) == [1, 7]


def test_siblings_are_shared_only_when_nothing_else_is_left(machine):
    machine(2, 3, 6, 7)
    assert cores.choose_cores(2) == [6, 7]
    assert cores.choose_cores(4) == [2, 3, 6, 7]


def test_more_threads_than_cores_is_the_users_mistake(machine):
    machine(0, 1)
    with pytest.raises(UserError, match=r"3 threads, .* at most 2 \(--threads, or targets.NAME.threads in a job\)"):
        cores.choose_cores(3)


def test_siblings(machine, tmp_path):
    assert cores.siblings([1, 2]) == {1, 5, 2, 6}
    (tmp_path / "cpu0/topology/thread_siblings_list").write_text("0-1,8-9\n")
    assert cores.siblings([0]) == {0, 1, 8, 9}
    assert cores.siblings([99]) == {99}  # the kernel does not tell


def test_what_runs_on_our_own_other_cores_is_not_looked_at(machine):
    assert cores.watched([1, 2]) == {1, 5, 2, 6}
    assert cores.watched([1, 2], [5, 3, 7]) == {1, 2, 6}


def test_foreign_work_is_what_the_cores_did_less_what_we_did(monkeypatch, tmp_path):
    tick = os.sysconf("SC_CLK_TCK")

    def kernel(user, system, stolen):
        (tmp_path / "stat").write_text(
            f"cpu  1 1 1 1 1 1 1 1 0 0\ncpu0 999 9 9 9 9 9 9 9 0 0\n"
            f"cpu1 {user * tick} 0 {system * tick} 500 7 0 0 {stolen * tick} 0 0\n"
        )
        (tmp_path / "pressure").write_text(f"some avg10=1.00 total={user * 100000}\nfull avg10=0.00 total=5\n")
        (tmp_path / "cpu.stat").write_text("usage_usec 5\nthrottled_usec 250000\n")

    monkeypatch.setattr(cores, "STAT", tmp_path / "stat")
    monkeypatch.setattr(cores, "PRESSURE", tmp_path / "pressure")
    monkeypatch.setattr(cores, "CGROUPS", tmp_path)
    kernel(100, 10, 0)
    before = cores.reading([1], own=20.0)
    kernel(104, 11, 1)
    spent = cores.passed(before, cores.reading([1], own=22.0))
    assert spent == pytest.approx({"foreign": 3.0, "steal": 1.0, "waiting": 0.4, "throttled": 0.0})
    assert cores.shares([{**spent, "seconds": 10.0}]) == pytest.approx(
        {"foreign": 0.3, "steal": 0.1, "waiting": 0.04, "throttled": 0.0}
    )
    assert cores.reading([77], own=0.0).keys() == {"waiting", "throttled"}


def test_shares_of_several_periods(monkeypatch):
    periods = [{"foreign": 1.0, "steal": 0.0, "seconds": 1.0}, {"foreign": -0.2, "seconds": 3.0}]
    assert cores.shares(periods) == pytest.approx({"foreign": 0.2})
    assert cores.shares([{"foreign": -0.01, "seconds": 1.0}]) == {"foreign": 0.0}


def test_own_work_is_not_foreign():
    """On the real kernel: what a thread does on the cores it may use is taken out again."""
    mine = sorted(os.sched_getaffinity(0))
    before, start = cores.reading(mine, time.process_time()), time.process_time()
    while time.process_time() - start < 0.3:
        pass
    after = cores.reading(mine, time.process_time())
    between = time.monotonic()
    without = cores.reading(mine, 0.0)["foreign"] - cores.reading(mine, time.process_time())["foreign"]
    others = len(mine) * (time.monotonic() - between)  # may have worked meanwhile
    assert without == pytest.approx(time.process_time(), abs=0.2 + others)
    assert cores.passed(before, after).get("foreign", 0.0) > -0.1


def test_a_gpu_is_part_of_the_machine_where_it_is_measured(monkeypatch):
    gpus = FakeNvml({"name": "A100", "uuid": FIRST, "mig": [[0, 0]]})
    monkeypatch.setattr(physical_gpu, "nvml", lambda: gpus)
    cpu, first = environment(Target()), environment(Target(device="cuda"))
    assert "gpu" not in cpu
    assert first["gpu"] == "A100"
    assert environment(Target(device="cuda"))["machine"] == first["machine"]
    gpus.gpus[0]["name"] = "H100"
    assert environment(Target(device="cuda"))["machine"] != first["machine"]
    assert environment(Target())["machine"] == cpu["machine"]
    gpus.init = gpus.NVMLError("driver not loaded")
    assert environment(Target(device="cuda"))["gpu"] == "unknown"


def test_environment_tells_machines_apart():
    here = environment(Target())
    assert here["machine_cores"] == os.cpu_count()
    assert here["libraries"]["numpy"]
    assert environment(Target())["machine"] == here["machine"]
    assert environment(Target(threads=2))["machine"] != here["machine"]
