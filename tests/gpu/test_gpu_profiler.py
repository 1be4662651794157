"""The profiler of blocks on a real GPU: stopwatch, idling and planted memory are the oracles."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
import torch

from paretune.profiling.gpu import GPUProfiler
from paretune.profiling.gpu.contention import GpuMonitor
from paretune.profiling.gpu.nvml import opened
from paretune.system.physical_gpu import NoGpuError

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.alone,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU"),
]


@pytest.fixture(autouse=True)
def _initialized() -> Iterator[None]:
    """CUDA is in use, the matrices' libraries are loaded, and the threads that were there are there again."""
    torch.cuda.init()
    multiply(0.5)
    before = threading.active_count()
    yield
    assert threading.active_count() == before


def multiply(seconds: float) -> None:
    """Keep the GPU busy: matrices that are multiplied, waited for every now and then."""
    matrix = torch.randn(4096, 4096, device="cuda")
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for _ in range(10):
            torch.mm(matrix, matrix)
        torch.cuda.synchronize()


def test_the_gpu_is_the_one_that_torch_uses() -> None:
    with GPUProfiler() as gpu:
        multiply(0.2)
    report = gpu.report
    assert report.uuid is not None
    assert report.uuid.startswith(("GPU-", "MIG-"))
    if report.uuid.startswith("GPU-"):
        assert report.uuid == f"GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}"
        assert report.gpu == torch.cuda.get_device_name()
    assert report.samples >= 3
    assert report.gpu is not None
    assert report.gpu in str(report)


@pytest.mark.parametrize("turns", [40, 400])
def test_the_time_is_that_of_a_stopwatch(turns: int) -> None:
    """The work is only begun inside the block: the profiler waits for it."""
    matrix = torch.randn(4096, 4096, device="cuda")

    def work() -> None:
        for _ in range(turns):
            torch.mm(matrix, matrix)

    work()
    torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    torch.cuda.synchronize()
    stopwatch = time.perf_counter() - start
    with GPUProfiler() as gpu:
        work()
    assert gpu.report.wall_s == pytest.approx(stopwatch, rel=0.1, abs=2e-3)


def test_a_busy_second_takes_more_than_an_idle_one() -> None:
    time.sleep(2)
    with GPUProfiler() as idle:
        time.sleep(1.5)
    with GPUProfiler() as busy:
        multiply(1.5)
    if busy.report.energy_j is None:
        pytest.skip(busy.report.reasons["energy_j"])
    assert idle.report.energy_j is not None
    assert busy.report.energy_source == idle.report.energy_source
    watts = [report.energy_j / report.wall_s for report in (idle.report, busy.report)]  # type: ignore[operator]
    assert 5 < watts[0] < watts[1] < 2000
    assert watts[1] > 1.2 * watts[0]
    assert busy.report.utilisation is not None
    assert busy.report.utilisation.high > 0.5
    assert busy.report.sm_mhz is not None
    assert 200 < busy.report.sm_mhz.high < 4000


def test_planted_memory_is_seen_at_its_peak() -> None:
    torch.zeros(2**10, dtype=torch.uint8, device="cuda")  # its kernel is loaded now, which takes memory too
    torch.cuda.empty_cache()
    with GPUProfiler() as gpu:
        planted = torch.zeros(2**30, dtype=torch.uint8, device="cuda")
        time.sleep(0.3)
        del planted
        torch.cuda.empty_cache()
    report = gpu.report
    assert report.memory_mib_begin is not None
    assert report.memory_mib_peak is not None
    assert report.memory_mib_peak - report.memory_mib_begin == pytest.approx(1024, abs=64)


def test_what_raises_and_what_is_nested_leaves_nothing() -> None:
    """By pynvml's own count of users: torch opens the library too, and never closes it."""
    pynvml = pytest.importorskip("pynvml")
    profiler, users = GPUProfiler(interval=0.01), pynvml._nvmlLib_refcount

    @profiler
    def fails() -> None:
        with profiler:
            assert pynvml._nvmlLib_refcount == users + 2
            multiply(0.1)
        raise KeyError("mine")

    for _ in range(3):
        with pytest.raises(KeyError, match="mine"):
            fails()
    assert [report.raised for report in profiler.reports] == [None, "KeyError"] * 3
    assert pynvml._nvmlLib_refcount == users


def test_cuda_visible_devices_is_followed_without_torch() -> None:
    with opened(0) as gpu:
        uuid = gpu.uuid
    code = "from paretune.profiling.gpu.nvml import opened\nwith opened() as gpu: print(gpu.uuid)"

    def said(visible: str) -> str:
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": visible, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else done.stderr.splitlines()[-1]

    assert said(str(uuid)) == uuid
    assert NoGpuError.__name__ in said("-1")


def test_this_process_is_watched_as_a_worker_is() -> None:
    """Seen from outside it would be foreign; in a container that hides processes it is unknown, with the reason."""
    multiply(0.1)
    with opened(0) as gpu:
        with GpuMonitor(gpu).around(os.getsid(0)) as looks:
            multiply(0.1)
        found = gpu.processes()
    assert len(looks) == 2
    for look in looks:
        assert look.reading.limits is not None
        if found and os.getpid() in found:
            assert not isinstance(look.foreign, str)
            assert os.getpid() not in look.foreign
        else:
            assert isinstance(look.foreign, str)
            assert look.foreign
