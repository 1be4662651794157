"""A thread that samples a GPU and keeps sums of its samples, so that memory does not grow with their number."""

from __future__ import annotations

import threading
import time
from collections import Counter
from types import TracebackType
from typing import Self

from paretune.profiling.gpu.nvml import Gpu, GpuReading
from paretune.profiling.gpu.report import COUNTER, INTEGRATED, SampleRange

RANGES = ("utilisation", "sm_mhz", "memory_mhz", "watts", "celsius")


class GpuSampler:
    """Sampling of a GPU from the begin of a ``with`` block to ``stop``, both included; without a GPU it is idle."""

    def __init__(self, gpu: Gpu | None, interval: float) -> None:
        """Set the GPU and the seconds between two samples."""
        self._gpu, self._interval = gpu, interval
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._sums: dict[str, list[float]] = {}
        """Figure → minimum, sum, maximum, first, last and number of its values."""
        self._limits: Counter[str] = Counter()
        self._limits_known = 0
        self._power: tuple[float, float] | None = None
        self._power_joules = self._power_seconds = 0.0
        self._joules: list[float | None] = []
        self.count = 0
        self.memory_mib_begin: float | None = None
        self.memory_mib_peak: float | None = None
        self.reasons: dict[str, str] = {}
        """Figure → why it is not known."""

    def __enter__(self) -> Self:
        if self._gpu is not None:
            self._sample(self._gpu)
            self._thread = threading.Thread(target=self._run, args=(self._gpu,), name="gpu-sampler", daemon=True)
            self._thread.start()
            self._joules.append(self._gpu.joules())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the thread."""
        self.stop()

    def stop(self) -> None:
        """Take the last sample and end the thread; a second call does nothing."""
        if self._gpu is None or self._thread is None:
            return
        self._joules.append(self._gpu.joules())
        self._ended.set()
        self._thread.join()
        self._thread = None
        self._sample(self._gpu)
        self.reasons |= self._gpu.reasons

    def range(self, figure: str) -> SampleRange | None:
        """Return the range of one of ``RANGES``, or None."""
        if figure not in self._sums:
            return None
        low, total, high, first, last, count = self._sums[figure]
        return SampleRange(low, total / count, high, first, last)

    @property
    def limits(self) -> dict[str, float] | None:
        """Return the share of the samples for each reason that held the clocks back; None if none is known."""
        if not self._limits_known:
            return None
        return {name: count / self._limits_known for name, count in sorted(self._limits.items())}

    def energy(self, seconds: float) -> tuple[float, str] | str:
        """Return joules and their source, or why they are not known.

        The source is the GPU's counter or, without one, the power of the samples by trapezoids. A sample of power is
        the driver's average of up to a second, so that the energy of a short block is less exact.

        Args:
            seconds: length of the block.
        """
        if self._gpu is None:
            return "no GPU"
        before, after = (*self._joules, None, None)[:2]
        if before is not None and after is not None:
            if after > before:
                return after - before, COUNTER
            moved = "did not move: the block is shorter than its step" if after == before else "was set back meanwhile"
            return f"the GPU's energy counter {moved}"
        if self._power_seconds > 0:
            return self._power_joules / self._power_seconds * seconds, INTEGRATED
        counter, power = (self.reasons.get(name, "not told") for name in ("energy_j", "watts"))
        return counter if counter == power else f"energy counter: {counter}; power: {power}"

    def _run(self, gpu: Gpu) -> None:
        due = time.monotonic() + self._interval
        while not self._ended.wait(max(0.0, due - time.monotonic())):
            self._sample(gpu)
            due = max(due + self._interval, time.monotonic())  # a late sample delays the next ones

    def _sample(self, gpu: Gpu) -> None:
        """Add one reading; never called by two threads at once."""
        reading = gpu.read()
        self.count += 1
        for figure in RANGES:
            if (value := getattr(reading, figure)) is not None:
                low, total, high, first, _, count = self._sums.get(figure, [value, 0.0, value, value, value, 0])
                self._sums[figure] = [min(low, value), total + value, max(high, value), first, value, count + 1]
        if reading.memory_mib is not None:
            if self.memory_mib_begin is None:
                self.memory_mib_begin = reading.memory_mib
            self.memory_mib_peak = max(self.memory_mib_peak or 0.0, reading.memory_mib)
        if reading.limits is not None:
            self._limits_known += 1
            self._limits.update(reading.limits)
        self._integrate(reading)

    def _integrate(self, reading: GpuReading) -> None:
        if reading.watts is None:
            return
        if self._power is not None:
            at, watts = self._power
            self._power_joules += (reading.at - at) * (reading.watts + watts) / 2
            self._power_seconds += reading.at - at
        self._power = (reading.at, reading.watts)
