"""The profiler of blocks on a GPU, by an NVML whose answers are scripted: figures are worked out by hand."""

from __future__ import annotations

import builtins
import dataclasses
import json
import subprocess
import sys
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from paretune.profiling.gpu import GPUProfiler, nvml
from paretune.profiling.gpu.report import COUNTER_STEP, GpuReport, SampleRange
from tests_support_nvml import FIRST, NOT_SUPPORTED, FakeNvml, gpu, put, stepping

ONCE = 1000.0
"""An interval within which nothing happens: samples are taken at the begin and at the end only."""


def profiled(monkeypatch: Any, interval: float = ONCE, **values: Any) -> GpuReport:
    fake = put(monkeypatch, FakeNvml(gpu(**values)))
    with GPUProfiler(interval=interval) as found:
        assert fake.users == 1
    assert fake.users == 0
    return found.report


def unknown(report: GpuReport) -> set[str]:
    return {field.name for field in dataclasses.fields(report) if getattr(report, field.name) is None} - {"raised"}


def test_figures_are_those_of_the_samples(monkeypatch: Any) -> None:
    report = profiled(
        monkeypatch,
        percent=[10, 90],
        mib=[500, 1524],
        sm=[1200, 1800],
        celsius=[40, 50],
        milliwatts=[70_000, 130_000],
        millijoules=[1_000_000, 1_012_345],
        bits=[0x1, 0x4 | 0x20],
    )
    assert (report.gpu, report.uuid, report.driver, report.samples) == ("Fake 100", FIRST, "600.1", 2)
    assert report.utilisation == SampleRange(0.1, 0.5, 0.9, 0.1, 0.9)
    assert (report.memory_mib_begin, report.memory_mib_peak) == (500, 1524)
    assert report.sm_mhz == SampleRange(1200, 1500, 1800, 1200, 1800)
    assert report.memory_mhz == SampleRange(1600, 1600, 1600, 1600, 1600)
    assert report.watts == SampleRange(70, 100, 130, 70, 130)
    assert report.celsius == SampleRange(40, 45, 50, 40, 50)
    assert report.energy_j == pytest.approx(12.345)
    assert report.energy_source == "nvml_counter"
    assert report.limits == {"GpuIdle": 0.5, "SwPowerCap": 0.5, "SwThermalSlowdown": 0.5}
    assert report.throttled == {"SwPowerCap": 0.5, "SwThermalSlowdown": 0.5}
    assert unknown(report) == set(report.reasons) == set()
    assert json.loads(json.dumps(report.tree()))["watts"] == {
        "low": 70,
        "mean": 100,
        "high": 130,
        "first": 70,
        "last": 130,
    }
    assert "throttled: SwPowerCap in 50%" in str(report)
    assert "12.3 J (nvml_counter" in str(report)


def test_a_stepping_counter_is_right_to_a_step(monkeypatch: Any) -> None:
    """However long others hold the cores between two readings: their times are noted where the counter is read."""
    counter, readings = stepping(200), list[float]()

    def read() -> int:
        readings.append(time.monotonic())
        return int(counter())

    put(monkeypatch, FakeNvml(gpu(millijoules=read)))
    with GPUProfiler(interval=0.02) as found:
        time.sleep(0.45)
    report = found.report
    assert report.energy_j is not None
    assert report.energy_j % 20 == pytest.approx(0)
    assert abs(report.energy_j - 200 * (readings[-1] - readings[0])) <= 200 * COUNTER_STEP
    assert report.wall_s >= 0.45
    assert report.samples >= 4


def test_a_block_shorter_than_a_step_has_no_energy(monkeypatch: Any) -> None:
    report = profiled(monkeypatch, millijoules=1_000_000)
    assert report.energy_j is None
    assert "shorter than its step" in report.reasons["energy_j"]
    assert report.energy_source.startswith("unavailable:")
    assert "set back" in profiled(monkeypatch, millijoules=[5_000, 10]).reasons["energy_j"]


def test_power_is_integrated_where_there_is_no_counter(monkeypatch: Any) -> None:
    """From 100 W to 200 W: 150 W on average, over the block."""
    report = profiled(monkeypatch, milliwatts=[100_000, 200_000], millijoules=NOT_SUPPORTED)
    assert report.energy_source == "nvml_power_integrated"
    assert report.energy_j == pytest.approx(150 * report.wall_s)


def test_what_is_not_supported_has_its_reason(monkeypatch: Any) -> None:
    figures = ("percent", "mib", "sm", "memory_clock", "celsius", "milliwatts", "millijoules", "bits", "name")
    fake = gpu(**dict.fromkeys(figures, NOT_SUPPORTED))
    put(monkeypatch, FakeNvml({**fake, "name": ["a", NOT_SUPPORTED]}))
    with GPUProfiler(interval=ONCE) as found:
        pass
    report = found.report
    assert unknown(report) == set(report.reasons)
    assert {"gpu", "utilisation", "memory_mib_peak", "sm_mhz", "watts", "celsius", "energy_j", "limits"} < unknown(
        report
    )
    assert report.reasons["energy_j"] == "NVML: not supported"
    assert report.throttled == {}
    assert "not known: " in str(report)


def test_a_figure_that_fails_once_is_known_from_the_rest(monkeypatch: Any) -> None:
    report = profiled(monkeypatch, celsius=[FakeNvml.NVMLError("Unknown Error"), 55])
    assert report.celsius == SampleRange(55, 55, 55, 55, 55)
    assert "celsius" not in report.reasons


@pytest.mark.parametrize(
    ("fake", "reason"),
    [
        (FakeNvml(init=FakeNvml.NVMLError("NVML Shared Library Not Found")), "no NVIDIA driver is installed"),
        (FakeNvml(init=FakeNvml.NVMLError("Driver Not Loaded")), "driver not loaded"),
        (FakeNvml(), "the driver finds no GPU"),
    ],
)
def test_without_a_gpu_the_cpu_is_told(monkeypatch: Any, fake: FakeNvml, reason: str) -> None:
    put(monkeypatch, fake)
    with GPUProfiler() as found:
        end = time.process_time() + 0.05
        while time.process_time() < end:
            pass
    report = found.report
    assert reason in str(report).split("no GPU: ")[1]
    assert 0.05 <= report.cpu_s < 0.5
    assert report.wall_s > 0.04
    assert 5 < report.rss_mib_peak < 1e5
    assert report.samples == 0
    assert unknown(report) == set(report.reasons)
    assert fake.users == 0


def test_pynvml_that_is_missing_or_another_one(monkeypatch: Any) -> None:
    real = builtins.__import__

    def without(name: str, *given: Any) -> Any:
        if name == "pynvml":
            raise ImportError(name)
        return real(name, *given)

    monkeypatch.setattr(builtins, "__import__", without)
    with GPUProfiler() as found:
        pass
    assert "nvidia-ml-py) is not installed" in found.report.reasons["gpu"]


def test_nothing_is_left_behind_when_the_block_raises(monkeypatch: Any) -> None:
    fake = put(monkeypatch, FakeNvml(gpu()))
    before = threading.active_count()
    profiler = GPUProfiler(interval=0.01)

    def block() -> None:
        with profiler:
            assert threading.active_count() == before + 1
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        block()
    assert threading.active_count() == before
    assert fake.users == 0
    assert profiler.report.raised == "KeyError"
    assert profiler.report.energy_j == pytest.approx(7)
    assert "ended by KeyError" in str(profiler.report)


def test_blocks_are_nested_and_repeated(monkeypatch: Any) -> None:
    fake = put(monkeypatch, FakeNvml(gpu()))
    profiler = GPUProfiler(interval=0.01)
    with profiler:
        with profiler:
            assert fake.users == 2
            time.sleep(0.02)
        inner = profiler.report
        with GPUProfiler():
            pass
    assert fake.users == 0
    assert profiler.reports == [inner, profiler.report]
    assert profiler.report.wall_s > inner.wall_s >= 0.02
    with profiler:
        pass
    assert len(profiler.reports) == 3


def test_a_decorator_without_a_name_keeps_the_report_of_each_call(monkeypatch: Any) -> None:
    put(monkeypatch, FakeNvml(gpu()))

    @GPUProfiler()
    def double(number: int) -> int:
        return 2 * number

    class Trainer:
        @GPUProfiler()
        def step(self) -> Trainer:
            return self

    assert [double(number) for number in (1, 2, 3)] == [2, 4, 6]
    assert len(double.profiler.reports) == 3
    assert double.profiler.report is double.profiler.reports[-1]
    assert double.profiler.report.gpu == "Fake 100"
    trainer = Trainer()
    assert trainer.step() is trainer
    assert len(trainer.step.profiler.reports) == len(Trainer.step.profiler.reports) == 1
    with pytest.raises(TypeError, match="brackets"):
        GPUProfiler(double)  # type: ignore[arg-type]


def test_each_call_is_a_profile_of_its_own(monkeypatch: Any) -> None:
    fake = put(monkeypatch, FakeNvml(gpu()))
    profiler = GPUProfiler(interval=ONCE)

    @profiler
    def factorial(n: int) -> int:
        """Say what it does."""
        return 1 if n < 2 else n * factorial(n - 1)

    assert factorial(4) == 24
    assert factorial.__doc__ == "Say what it does."
    assert len(profiler.reports) == 4
    walls = [report.wall_s for report in profiler.reports]
    assert walls == sorted(walls)  # the innermost call ended first

    for function in (generator, coroutine):
        with pytest.raises(TypeError, match="with block"):
            profiler(function)
    assert fake.users == 0


def generator() -> Any:
    yield 1


async def coroutine() -> None:
    pass


def test_threads_do_not_end_each_others_blocks(monkeypatch: Any) -> None:
    fake = put(monkeypatch, FakeNvml(gpu()))
    profiler = GPUProfiler(interval=ONCE)
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with profiler:
            inside.set()
            leave.wait(5)

    with profiler:
        thread = threading.Thread(target=other)
        thread.start()
        assert inside.wait(5)
    mine = profiler.report
    leave.set()
    thread.join()
    assert profiler.reports[0] is mine
    assert len(profiler.reports) == 2
    assert fake.users == 0


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="interval is 0"):
        GPUProfiler(interval=0)
    with pytest.raises(RuntimeError, match="when the block has ended"):
        _ = GPUProfiler().report


class FakeCuda:
    """The part of ``torch.cuda`` that is asked."""

    def __init__(self, uuid: str, *, broken: bool = False) -> None:
        self.uuid, self.broken, self.said = uuid, broken, []

    def is_initialized(self) -> bool:
        return True

    def is_current_stream_capturing(self) -> bool:
        return False

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def get_device_properties(self, number: int) -> Any:
        return SimpleNamespace(uuid=self.uuid.removeprefix("GPU-"))

    def synchronize(self) -> None:
        self.said.append("wait")
        if self.broken:
            raise RuntimeError("an illegal memory access\nand much more")


def test_cuda_is_waited_for(monkeypatch: Any) -> None:
    put(monkeypatch, FakeNvml(gpu(), gpu(uuid="GPU-second", name="Other")))
    cuda = FakeCuda("GPU-second")
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    with GPUProfiler(interval=ONCE) as found:
        cuda.said.append("block")
    assert cuda.said == ["wait", "block", "wait"]
    assert found.report.gpu == "Other"  # torch's own word, not the first number
    assert found.report.reasons == {}


def test_an_error_of_cuda_costs_no_figure(monkeypatch: Any) -> None:
    fake = put(monkeypatch, FakeNvml(gpu()))
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=FakeCuda(FIRST, broken=True)))
    with GPUProfiler(interval=ONCE) as found:
        pass
    assert found.report.energy_j == pytest.approx(7)
    assert fake.users == 0


def test_names_of_bits() -> None:
    assert nvml.names_of(0) == frozenset()
    assert nvml.names_of(0x1 | 0x2 | 0x8 | 0x100) == {
        "GpuIdle",
        "ApplicationsClocksSetting",
        "HwSlowdown",
        "DisplayClockSetting",
    }
    assert nvml.names_of(0x40 | 0x80 | 0x10 | 0x1000) == {
        "HwThermalSlowdown",
        "HwPowerBrakeSlowdown",
        "SyncBoost",
        "bit 0x1000",
    }


def test_the_public_name_is_the_profiler_and_loads_nothing_before_it_is_used() -> None:
    code = (
        "import sys, paretune.profiling.gpu as gpu; before = 'paretune.profiling.gpu.profiler' in sys.modules; "
        "print(before, gpu.GPUProfiler.__module__, hasattr(gpu, 'Profiler'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", GPUProfiler.__module__, "False"]
