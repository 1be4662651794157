"""Load, memory, clocks, power, energy and time of a block of code on a GPU, for any script.

    from paretune.profiling.gpu import GPUProfiler

    with GPUProfiler() as gpu:
        train()
    print(gpu.report)

    @GPUProfiler()
    def step(): ...

    step()
    print(step.profiler.report)

Without a GPU the report has the reason and the figures of the CPU. Each call of a decorated function is one profile.
"""

from __future__ import annotations

import functools
import inspect
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from paretune.profiling.gpu.nvml import Gpu, opened
from paretune.profiling.gpu.report import GpuReport
from paretune.profiling.gpu.sampler import RANGES, GpuSampler
from paretune.system.physical_gpu import NoGpuError
from paretune.system.process_memory import peak_bytes

INTERVAL = 0.05
"""Seconds between two samples."""
AS = {"memory_mib_begin": "memory_mib", "memory_mib_peak": "memory_mib", "gpu": "name"}
"""Figure → figure whose reason it shares."""
F = TypeVar("F", bound=Callable[..., Any])


class GPUProfiler:
    """A profiler of blocks (``with``) and calls (decorator); it may be used again, nested, and from several threads.

    Each profile has one thread that asks NVML every ``interval`` seconds and ends with the block, however that ends.
    If torch uses CUDA already, the profile waits for torch's current GPU before and after the block, so that time and
    energy are those of the work. A process that does not use CUDA yet is not made to.
    """

    def __init__(self, device: int | str | None = None, *, interval: float = INTERVAL) -> None:
        """Choose a GPU.

        Args:
            device: CUDA's number of the GPU in this process, or its UUID; None is torch's current GPU, or the first
                visible one.
            interval: seconds between samples.

        Raises:
            TypeError: the profiler is used as a decorator without brackets.
            ValueError: the interval is not positive.
        """
        if callable(device):
            raise TypeError("write @GPUProfiler(), with brackets")
        if not interval > 0:
            raise ValueError(f"interval is {interval}: seconds between samples, more than 0")
        self._device, self._interval = device, interval
        self._open = threading.local()
        self.reports: list[GpuReport] = []
        """Reports of all blocks and calls, in the order in which they ended."""

    @property
    def report(self) -> GpuReport:
        """Return the report of the block that ended last.

        Raises:
            RuntimeError: no block has ended.
        """
        if not self.reports:
            raise RuntimeError("the report is there when the block has ended")
        return self.reports[-1]

    def __enter__(self) -> Self:
        block = self._profile()
        block.__enter__()
        self._blocks().append(block)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the profile; an error of the block is raised on."""
        self._blocks().pop().__exit__(kind, error, trace)

    def __call__(self, function: F) -> F:
        """Return the function with each call profiled; its ``profiler`` is this profiler, with a report of each call.

        Raises:
            TypeError: the function is a generator or a coroutine, whose call does nothing yet.
        """
        kinds = (inspect.isgeneratorfunction, inspect.iscoroutinefunction, inspect.isasyncgenfunction)
        if any(is_kind(function) for is_kind in kinds):
            raise TypeError(f"a call of {function.__name__} does nothing yet: profile its use with a with block")

        @functools.wraps(function)
        def profiled(*given: Any, **named: Any) -> Any:
            with self._profile():
                return function(*given, **named)

        profiled.profiler = self  # type: ignore[attr-defined]
        return cast("F", profiled)

    def _blocks(self) -> list[Any]:
        blocks: list[Any] = self._open.__dict__.setdefault("blocks", [])
        return blocks

    @contextmanager
    def _profile(self) -> Iterator[None]:
        """Profile one block and keep its report, also when the block raises."""
        with ExitStack() as stack:
            gpu, missing = None, {}
            try:
                gpu = stack.enter_context(opened(self._device))
            except NoGpuError as error:
                missing["name"] = str(error)
            _wait_for_cuda()
            sampler = stack.enter_context(GpuSampler(gpu, self._interval))
            start, cpu = time.monotonic(), time.process_time()
            raised = None
            try:
                yield
            except BaseException as error:
                raised = type(error).__name__
                raise
            finally:
                _wait_for_cuda()
                wall, cpu = time.monotonic() - start, time.process_time() - cpu
                sampler.stop()
                self.reports.append(_report(gpu, sampler, (wall, cpu), missing, raised))


def _wait_for_cuda() -> None:
    """Wait until torch's current GPU has done its work, if this process uses CUDA by torch already."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    if cuda is not None and cuda.is_initialized() and not cuda.is_current_stream_capturing():
        with suppress(RuntimeError):  # an error of earlier work: the next call of the block's owner raises it too
            cuda.synchronize()


def _report(
    gpu: Gpu | None,
    sampler: GpuSampler,
    times: tuple[float, float],
    missing: dict[str, str],
    raised: str | None,
) -> GpuReport:
    """Return the report, with a reason for each figure that is not known."""
    wall, cpu = times
    energy = sampler.energy(wall)
    joules, source = (None, f"unavailable:{energy}") if isinstance(energy, str) else energy
    figures: dict[str, Any] = {
        "gpu": gpu and gpu.name,
        "uuid": gpu and gpu.uuid,
        "driver": gpu and gpu.driver,
        "memory_mib_begin": sampler.memory_mib_begin,
        "memory_mib_peak": sampler.memory_mib_peak,
        **{figure: sampler.range(figure) for figure in RANGES},
        "energy_j": joules,
        "limits": sampler.limits,
    }
    known = {**sampler.reasons, **missing}
    if gpu is not None and isinstance(energy, str):
        known["energy_j"] = energy
    known |= {name: known[AS[name]] for name in AS if AS[name] in known}
    otherwise = known.get("gpu", "not told") if gpu is None else "not told"
    return GpuReport(
        wall_s=wall,
        cpu_s=cpu,
        rss_mib_peak=peak_bytes() / 2**20,
        samples=sampler.count,
        energy_source=source,
        raised=raised,
        reasons={name: known.get(name, otherwise) for name, value in figures.items() if value is None},
        **figures,
    )
