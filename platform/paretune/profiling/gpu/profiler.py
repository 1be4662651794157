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
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, ParamSpec, Protocol, Self, TypeVar, cast

from paretune.profiling.gpu.nvml import Gpu, opened
from paretune.profiling.gpu.report import GpuReport
from paretune.profiling.gpu.sampler import RANGES, GpuSampler
from paretune.system.physical_gpu import NoGpuError
from paretune.system.process_memory import peak_bytes

INTERVAL = 0.05
"""Seconds between two samples."""
AS = {"memory_mib_begin": "memory_mib", "memory_mib_peak": "memory_mib", "gpu": "name"}
"""Figure → figure whose reason it shares."""
P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)


class ProfiledFunction(Protocol[P, R_co]):
    """A decorated function."""

    profiler: GPUProfiler
    """Profiler with a report of each call."""

    def __call__(self, *given: P.args, **named: P.kwargs) -> R_co:
        """Run the function and profile the call."""
        ...

    def __get__(self, instance: object, owner: type | None = None) -> Callable[..., R_co]:
        """Bind a method, as a function does."""
        ...


class GPUProfiler:
    """A profiler of blocks (``with``) and calls (decorator); it may be used again, nested, and from several threads.

    Each profile has one thread that asks NVML every ``interval`` seconds and ends with the block, however that ends.
    If torch uses CUDA already, the profile waits for CUDA before and after the block, so that time and energy are those
    of the work. A process that does not use CUDA yet is not made to.
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

    def __call__(self, function: Callable[P, R_co]) -> ProfiledFunction[P, R_co]:
        """Return the function with each call profiled; its ``profiler`` is this profiler, with a report of each call.

        Raises:
            TypeError: the function is a generator, whose call does nothing yet.
        """
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(f"{function.__name__} is a generator: profile the loop over it with a with block")
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def awaited(*given: P.args, **named: P.kwargs) -> Any:
                with self._profile():
                    return await function(*given, **named)

            return cast("ProfiledFunction[P, R_co]", self._with_profiler(awaited))

        @functools.wraps(function)
        def profiled(*given: P.args, **named: P.kwargs) -> R_co:
            with self._profile():
                return function(*given, **named)

        return cast("ProfiledFunction[P, R_co]", self._with_profiler(profiled))

    def _with_profiler(self, function: Any) -> Any:
        function.profiler = self
        return function

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
            cuda = _Cuda(self._device, gpu)
            cuda.wait()
            sampler = stack.enter_context(GpuSampler(gpu, self._interval))
            cuda.begin()
            start, cpu = time.monotonic(), time.process_time()
            raised = None
            try:
                yield
            except BaseException as error:
                raised = type(error).__name__
                raise
            finally:
                seconds = cuda.end()
                wall, cpu = time.monotonic() - start, time.process_time() - cpu
                sampler.stop()
                if cuda.missing:
                    missing["cuda_s"] = cuda.missing
                self.reports.append(_report(gpu, sampler, (wall, cpu, seconds), missing, raised))


class _Cuda:
    """CUDA by way of torch, if this process uses it already."""

    def __init__(self, device: int | str | None, gpu: Gpu | None) -> None:
        """Find out whether there is a GPU to wait for; if not, ``missing`` is the reason."""
        self._torch = torch = sys.modules.get("torch")
        self.missing = ""
        self._first: Any = None
        self._device = device
        cuda = getattr(torch, "cuda", None)
        if cuda is None:
            self.missing = "torch is not imported"
        elif not cuda.is_initialized():
            self.missing = "torch did not use CUDA before the block"
        elif cuda.is_current_stream_capturing():
            self.missing = "a CUDA graph is being captured, which must not be waited for"
        elif device is None:
            self._device = cuda.current_device()
        elif isinstance(device, str):
            uuids = [f"GPU-{getattr(cuda.get_device_properties(n), 'uuid', '')}" for n in range(cuda.device_count())]
            if gpu is None or gpu.uuid not in uuids:
                self.missing = f"torch does not see the GPU {device}"
            else:
                self._device = uuids.index(gpu.uuid)

    def wait(self) -> None:
        """Wait until the GPU has done all its work."""
        self._try(lambda cuda: cuda.synchronize(self._device))

    def begin(self) -> None:
        """Record the first event."""
        self._first = self._try(self._event)

    def end(self) -> float | None:
        """Wait for the GPU and return the seconds since the first event."""
        self.wait()
        last = self._try(self._event)
        found: float | None = self._try(lambda _: self._between(last))
        return found

    def _between(self, last: Any) -> float:
        last.synchronize()
        return float(self._first.elapsed_time(last)) / 1e3

    def _event(self, cuda: Any) -> Any:
        with cuda.device(self._device):
            event = cuda.Event(enable_timing=True)
            event.record()
        return event

    def _try(self, action: Callable[[Any], Any]) -> Any:
        """Run an action; an error of CUDA becomes the reason, and no further action is run."""
        if self.missing:
            return None
        try:
            return action(cast("Any", self._torch).cuda)
        except RuntimeError as error:
            self.missing = f"CUDA: {(str(error).splitlines() or ['an error'])[0]}"
            return None


def _report(
    gpu: Gpu | None,
    sampler: GpuSampler,
    times: tuple[float, float, float | None],
    missing: dict[str, str],
    raised: str | None,
) -> GpuReport:
    """Return the report, with a reason for each figure that is not known."""
    wall, cpu, seconds = times
    energy = sampler.energy(wall)
    joules, source = (None, f"unavailable:{energy}") if isinstance(energy, str) else energy
    figures: dict[str, Any] = {
        "cuda_s": seconds,
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
