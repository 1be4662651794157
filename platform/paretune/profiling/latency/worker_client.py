"""Parent side of a measured process; it waits asleep, since polling would use the measured core."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from paretune.core.errors import UserError
from paretune.core.target import Target
from paretune.profiling.latency.samples import COLUMNS, MeasurementProtocol, SampleBatch, milliseconds, steady
from paretune.system.cpu_cores import choose_cores

LOADER = "paretune.runtimes.predictor:load_predictor"
COUNTS = ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "VECLIB")
"""Libraries that read their number of threads from ``…_NUM_THREADS`` when they are imported."""
PLACES = ("GOMP_CPU_AFFINITY", "KMP_AFFINITY", "OMP_PLACES", "OMP_PROC_BIND")
"""Variables that would move threads away from the worker's cores."""


class MeasuringKilled(RuntimeError):  # noqa: N818 - as its message says
    """Raised when a measuring process was killed from outside, by a user or for want of memory."""


class Worker:
    """A process that has loaded one artefact, for a ``with`` block.

    The process, and all that it starts, dies with the thread that started it.
    """

    def __init__(
        self,
        artefact: Path,
        images: Path,
        target: Target,
        protocol: MeasurementProtocol,
        loader: str = LOADER,
        cores: Sequence[int] | None = None,
        batch: int = 1,
        beside: Sequence[int] = (),
    ) -> None:
        """Start the process and wait until it has loaded the artefact and run it once.

        Args:
            artefact: folder of the artefact.
            images: file of ``saved_images``.
            target: device and threads.
            protocol: warm-up and time limits.
            loader: ``module:function`` (folder, target) → object with ``facts``, ``preprocess``, ``core`` and
                ``postprocess`` like ``runtimes.predictor.Predictor``, imported with this process's ``sys.path``.
            cores: cores to run on, as many as the target has threads; None chooses.
            batch: images in an inference; a row of the samples is then one batch.
            beside: cores of our other processes at the same time, perhaps hyper-threads of this one's cores: work on
                them does not count as others'.

        Raises:
            UserError: the artefact is damaged, or the machine has too few cores.
            RuntimeError: the process died or did not answer; its last output is in the message.
        """
        pinned = choose_cores(target.threads) if cores is None else list(cores)
        self._target, self._protocol = target, protocol
        self._unread = b""
        self.inference_seconds = 0.0
        """Median wall time of the warm-up's last window in seconds; 0 before the warm-up."""
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in stop()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "paretune.profiling.latency.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,
            env=surroundings(target.threads),
        )
        try:
            request = {
                "parent": os.getpid(),
                "path": [str(Path(folder).absolute()) for folder in sys.path],
                "artefact": str(artefact),
                "images": str(images),
                "target": target.tree(),
                "cores": pinned,
                "loader": loader,
                "batch": batch,
                "beside": list(beside),
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

    @property
    def pid(self) -> int:
        """Return the number of the process, which leads a session with all that it starts."""
        return self._process.pid

    def stop(self) -> None:
        """End the process and all that it started."""
        self._kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
        self._errors.close()

    def warm_up(self) -> bool:
        """Run until two successive windows agree; returns False at the time limit (Barrett et al., OOPSLA 2017)."""
        protocol, target = self._protocol, self._target
        window = protocol.warmup_seconds / 2
        start, last = time.monotonic(), self.sample(window, 5)
        while time.monotonic() - start < protocol.warmup_cap:
            now = self.sample(window, 5)
            self.inference_seconds = float(np.median(milliseconds(now.rows, "latency", "wall"))) / 1000
            if steady(last.rows, now.rows, protocol, target.threads, target.device):
                return True
            last = now
        return False

    def sample(self, seconds: float, at_least: int, *, lead_in: int = 0, image: int | None = None) -> SampleBatch:
        """Run inferences and return their samples.

        Args:
            seconds: least time.
            at_least: fewest inferences.
            lead_in: inferences before the first that counts.
            image: index of the first image; None goes on.

        Raises:
            RuntimeError: the process died or did not answer.
        """
        order = {"do": "sample", "seconds": seconds, "at_least": at_least, "cap": self._protocol.cap}
        return _batch(self._ask({**order, "lead_in": lead_in, "image": image}))

    def deploy(self, score: float, inferences: int) -> dict[str, Any]:
        """Return the times of decoding, of postprocessing with this smallest score, and of transfers to a GPU and back.

        There are fewer inferences if the protocol's ``cap`` comes first. The result is that of
        ``deployment_worker.times``.

        Raises:
            RuntimeError: the process died or did not answer.
        """
        order = {"do": "deploy", "score": score, "inferences": inferences, "cap": self._protocol.cap}
        order["device"] = self._target.device
        return self._ask(order)

    def count(self, lead_in: int, inferences: int, trace: Path) -> tuple[SampleBatch, list[dict[str, Any]]]:
        """Run inferences of a core that counts its operators, and write its trace if it makes one.

        Returns:
            The samples, and the operators (``runtimes.base.Operator``) as plain data.

        Raises:
            RuntimeError: the process died or did not answer.
        """
        order = {"do": "count", "lead_in": lead_in, "inferences": inferences, "cap": self._protocol.cap}
        answer = self._ask({**order, "trace": str(trace)})
        operators: list[dict[str, Any]] = answer.pop("operators")
        return _batch(answer), operators

    def _ask(self, command: dict[str, Any]) -> dict[str, Any]:
        """Send a command as one line, and return the answer of one line."""
        stdin = self._process.stdin
        assert stdin is not None  # noqa: S101 - a pipe was asked for
        try:
            stdin.write((json.dumps(command) + "\n").encode())
            stdin.flush()
        except BrokenPipeError:
            raise self._death() from None
        answer: dict[str, Any] = json.loads(self._line())
        if "error" in answer:
            if answer["kind"] == "NotImplementedError":  # nothing failed: the runtime says what it does not do
                raise NotImplementedError(answer["error"].partition(": ")[2])
            kind = UserError if answer["kind"] == "UserError" else RuntimeError
            raise kind(f"the measuring process failed: {answer['error']}")
        return answer

    def _line(self) -> bytes:
        """Return a whole line of the process's answers.

        Raises:
            RuntimeError: the process died, or did not answer within the time limit.
        """
        stdout, limit = self._process.stdout, self._protocol.limit
        assert stdout is not None  # noqa: S101 - a pipe was asked for
        waiting = select.poll()  # select() cannot take the high file numbers of a large parent
        waiting.register(stdout, select.POLLIN)
        deadline = time.monotonic() + limit
        while b"\n" not in self._unread:
            if not waiting.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise RuntimeError(f"the measuring process did not answer within {limit:g} s")
            if not (chunk := os.read(stdout.fileno(), 1 << 20)):
                raise self._death()
            self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _kill(self) -> None:
        """Kill the process group; its number may be reused once the process has been waited for."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _death(self) -> RuntimeError:
        """Return an error that says how the process ended, with its last line of output."""
        ended = select.poll()
        process = os.pidfd_open(self._process.pid)
        try:
            ended.register(process, select.POLLIN)
            # the process is about to end; its own message is better than "killed"
            by_itself = bool(ended.poll(1000))
        finally:
            os.close(process)
        self._kill()
        code = self._process.returncode
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        killed = by_itself and code in (-signal.SIGKILL, -signal.SIGTERM)
        kind = MeasuringKilled if killed else RuntimeError
        return kind(f"the measuring process {how}: {lines[-1] if lines else 'it said nothing'}")


def _batch(answer: dict[str, Any]) -> SampleBatch:
    rows = np.array(answer.pop("rows"), np.int64).reshape(-1, len(COLUMNS))
    return SampleBatch(rows, **answer)


def surroundings(threads: int) -> dict[str, str]:
    """Return the environment of a worker, with its number of threads and with this package importable."""
    kept = {name: value for name, value in os.environ.items() if name not in PLACES}
    counts = {f"{library}_NUM_THREADS": str(threads) for library in COUNTS}
    places = [str(Path(__file__).parents[3]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**kept, **counts, "PYTHONPATH": os.pathsep.join(places)}
