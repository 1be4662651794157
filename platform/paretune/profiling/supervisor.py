"""Starting workers and waiting for them, asleep: a parent that polls takes the core it measures on."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from paretune.structures import Image
from paretune.target import Target

LOADER = "paretune.runtimes.predictor:load_predictor"
COLUMNS = ("preprocess_ns", "network_ns", "postprocess_ns", "latency_ns", "cpu_ns", "switches")


@dataclass(frozen=True)
class Protocol:
    """How long is measured. Times are in seconds."""

    repetitions: int = 3
    """Fresh processes; the spread between them is part of the result."""
    seconds: float = 1.0
    """Sampling in each of them, at least."""
    samples: int = 30
    """Inferences in each of them, at least: 64 in all give a 90th percentile."""
    warmup_seconds: float = 0.5
    """At least, in windows of half of it; ends when two window medians agree to 3 %."""
    warmup_cap: float = 10.0
    cap: float = 30.0
    """Sampling ends here even without enough samples."""
    limit: float = 180.0
    """A worker that does not answer for so long is killed."""


@dataclass(frozen=True)
class Batch:
    """Inferences that a worker ran in one go."""

    rows: NDArray[np.int64]
    """(N, 6): the columns of COLUMNS."""
    foreign: float
    """Cores' worth of other processes' work on our cores meanwhile."""
    steal: float
    """Cores' worth of time the hypervisor took from them."""
    peak_bytes: int
    """Peak resident memory so far, without the images."""

    def medians(self, threads: int) -> float:
        """Return the median by which a plateau is found: CPU time of one thread, which others disturb least."""
        column = "cpu_ns" if threads == 1 else "latency_ns"
        return float(np.median(self.rows[:, COLUMNS.index(column)]))


def choose_cores(threads: int) -> list[int]:
    """Return as many of the cores we may use: the last ones, since the first serve interrupts.

    Raises:
        RuntimeError: there are fewer.
    """
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < threads:
        raise RuntimeError(
            f"the target wants {threads} threads, each on a core of its own; this process may use {len(allowed)}"
        )
    return allowed[-threads:]


@contextmanager
def saved_images(images: Sequence[Image]) -> Iterator[Path]:
    """Give a file with the images, which every worker reads."""
    with tempfile.TemporaryDirectory(prefix="paretune-measure-") as folder:
        file = Path(folder) / "images.npz"
        named: dict[str, Any] = {f"{index:05d}": image for index, image in enumerate(images)}
        np.savez(file, **named)
        yield file


class Worker:
    """A process that has loaded one artefact; use it in a ``with`` block."""

    def __init__(self, artefact: Path, images: Path, target: Target, limit: float, loader: str = LOADER) -> None:
        """Start the process and wait until it has loaded the artefact and run it once.

        Raises:
            RuntimeError: it died or did not answer; what it said last is in the message.
        """
        self._limit = limit
        self._threads = target.threads
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in stop()
        threads = {f"{library}_NUM_THREADS": str(target.threads) for library in ("OMP", "MKL", "OPENBLAS")}
        package = Path(__file__).parents[2]
        path = os.pathsep.join([str(package), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "paretune.profiling.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,
            env={**os.environ, **threads, "PYTHONPATH": path},
        )
        try:
            request = {
                "parent": os.getpid(),
                "artefact": str(artefact),
                "images": str(images),
                "target": target.tree(),
                "cores": choose_cores(target.threads),
                "loader": loader,
            }
            self.facts: dict[str, Any] = self._ask(request)["facts"]
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process and all that it started."""
        self.stop()

    def stop(self) -> None:
        """End the process and all that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._errors.close()

    def warm_up(self, protocol: Protocol) -> bool:
        """Run until two windows agree to 3 %; returns False when the cap came first."""
        window, start, last = protocol.warmup_seconds / 2, time.monotonic(), 0.0
        while time.monotonic() - start < protocol.warmup_cap:
            now = self.sample(window, 5, protocol.cap).medians(self._threads)
            if last and abs(now - last) <= 0.03 * last:
                return True
            last = now
        return False

    def sample(self, seconds: float, at_least: int, at_most_seconds: float) -> Batch:
        """Run for at least so long and so often."""
        answer = self._ask({"seconds": seconds, "at_least": at_least, "at_most_seconds": at_most_seconds})
        rows = np.array(answer.pop("rows"), np.int64).reshape(-1, len(COLUMNS))
        return Batch(rows, **answer)

    def _ask(self, command: dict[str, Any]) -> dict[str, Any]:
        """Send one line and wait for one line."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None  # noqa: S101 - pipes were asked for
        assert stdout is not None  # noqa: S101
        try:
            stdin.write((json.dumps(command) + "\n").encode())
            stdin.flush()
        except BrokenPipeError:
            raise RuntimeError(self._last_words()) from None
        ready, _, _ = select.select([stdout], [], [], self._limit)
        if not ready:
            raise RuntimeError(f"the measuring process did not answer within {self._limit:g} s")
        line = stdout.readline()
        if not line:
            raise RuntimeError(self._last_words())
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _last_words(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"the measuring process ended with {code}: {said[-1] if said else 'it said nothing'}"
