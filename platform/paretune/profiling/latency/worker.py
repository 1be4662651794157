"""The measured process: it loads one artefact and runs it on command.

``worker_client.Worker`` starts it as ``python -m paretune.profiling.latency.worker``. Commands come as JSON lines on
standard input, and answers go as JSON lines to standard output. Between commands the process sleeps in a read.
"""

from __future__ import annotations

import dataclasses
import gc
import importlib
import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from paretune.core.errors import UserError
from paretune.profiling.latency.deployment_worker import times
from paretune.profiling.latency.shared_images import mapped_images
from paretune.system.child_process import die_with_parent, private_stdout
from paretune.system.cpu_cores import passed, reading, watched
from paretune.system.process_memory import peak_bytes

FRESH_TURN = 1e-4
"""Seconds of sleep after an inference that lost its core.

Beside a busy process on Linux 6.18, 16 to 19 of 100 inferences of 4.3 ms were then undisturbed, with a median 4 % from
that on a quiet machine; without the sleep there were 1 and 27 in a measurement, the shortest ones, 10 % from it. On a
quiet machine the sleep is rare."""


def main() -> None:
    """Load the artefact of the first line, then run commands; a failure is answered and ends the process."""
    answers = private_stdout()
    try:
        request = json.loads(sys.stdin.readline())
        die_with_parent(request["parent"])
        runner, facts = _prepare(request)
        _answer(answers, {"facts": facts})
        for line in sys.stdin:
            command = json.loads(line)
            _answer(answers, getattr(runner, command.pop("do"))(**command))
    except Exception as error:  # noqa: BLE001 - whatever a runtime raises goes to the parent
        traceback.print_exc()
        _answer(answers, {"error": f"{type(error).__name__}: {error}", "kind": _kind(error)})
        sys.exit(1)


def _kind(error: Exception) -> str:
    """Return the name of the class that the parent raises: UserError, NotImplementedError or RuntimeError."""
    return next((kind.__name__ for kind in (UserError, NotImplementedError) if isinstance(error, kind)), "RuntimeError")


def _answer(answers: TextIO, body: dict[str, Any]) -> None:
    answers.write(json.dumps(body) + "\n")
    answers.flush()


def _prepare(request: dict[str, Any]) -> tuple[_Runner, dict[str, Any]]:
    """Pin the process to its cores, load the artefact and run it once.

    Returns:
        The runner, and facts: priority, cores and threads as read back, the runtime's own facts, and the two cold
        figures. ``load_ms`` begins when the interpreter is up, and includes imports of libraries.
    """
    facts = _settle(request["cores"])
    sys.path += [folder for folder in request["path"] if folder not in sys.path]
    start = time.perf_counter_ns()
    module, _, function = request["loader"].partition(":")
    import cv2

    from paretune.core.target import Target

    target = Target.model_validate(request["target"])
    cv2.setNumThreads(target.threads)
    predictor = getattr(importlib.import_module(module), function)(Path(request["artefact"]), target)
    loaded = time.perf_counter_ns()
    looked_at = watched(request["cores"], request["beside"])
    runner = _Runner(predictor, Path(request["images"]), looked_at, request["batch"])
    runner.run()
    gc.collect()
    gc.freeze()  # the libraries' objects are not scanned again: with torch that took 80 ms before each block
    facts |= {"opencv_threads": cv2.getNumThreads(), "images": runner.images, **predictor.facts}
    if facts.get("threads", target.threads) != target.threads:
        raise RuntimeError(f"the runtime uses {facts['threads']} threads, and {target.threads} were asked for")
    return runner, facts | {"load_ms": (loaded - start) / 1e6, "first_inference_ms": runner.rows[-1][5] / 1e6}


def _settle(cores: Sequence[int]) -> dict[str, Any]:
    """Pin this process to the cores with normal priority, and return both as read back.

    Raises:
        RuntimeError: the kernel gave other cores.
    """
    os.sched_setaffinity(0, cores)
    if (got := sorted(os.sched_getaffinity(0))) != sorted(cores):
        raise RuntimeError(f"asked to run on cores {sorted(cores)}, and the kernel gave {got}")
    if os.getpriority(os.PRIO_PROCESS, 0) > 0:  # a Ray worker runs at 15, which children inherit
        with suppress(PermissionError):  # only root may raise it; the result has a note then
            os.setpriority(os.PRIO_PROCESS, 0, 0)
    return {"cores": got, "nice": os.getpriority(os.PRIO_PROCESS, 0)}


class _Runner:
    """Runner of inferences over the images in turn, of one image or of a batch."""

    def __init__(self, predictor: Any, images: Path, watched: Collection[int], batch: int) -> None:
        self.run = self.once if batch == 1 else self.together
        self._predictor, self._batch = predictor, batch
        self._watched = watched
        self._peak_of_loading = peak_bytes()
        self._images, self._bytes = mapped_images(images)
        self.images = len(self._images)
        self._next = 0
        self._lost = 0
        """Number of times that the kernel took the core away during the last inference."""
        self.rows: list[tuple[int, ...]] = []
        """Samples with the columns ``samples.COLUMNS``, one row per inference."""

    def once(self) -> None:
        """Run one inference and time its stages."""
        index = self._next
        self._next = (index + 1) % len(self._images)
        self._stages(index, partial(self._predictor.preprocess, self._images[index]), self._predictor.postprocess)

    def together(self) -> None:
        """Run one inference of a batch and time its stages; pre- and postprocessing take image after image."""
        import numpy as np

        predictor, count = self._predictor, len(self._images)
        indices = [(self._next + number) % count for number in range(self._batch)]
        self._next = (indices[-1] + 1) % count

        def begin() -> tuple[Any, Sequence[Any]]:
            planes, placements = zip(*(predictor.preprocess(self._images[index]) for index in indices), strict=True)
            return np.concatenate(planes), placements

        def end(raw: Sequence[Any], placements: Sequence[Any]) -> None:
            for number, placement in enumerate(placements):
                predictor.postprocess(tuple(part[number : number + 1] for part in raw), placement)

        self._stages(indices[0], begin, end)

    def _stages(self, index: int, begin: Callable[[], tuple[Any, Any]], end: Callable[[Any, Any], Any]) -> None:
        clock, cpu = time.perf_counter_ns, time.process_time_ns
        if self._lost:  # after a sleep the process gets a whole turn of the scheduler
            time.sleep(FRESH_TURN)
        before, switches = self._lost, resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
        c0, t0 = cpu(), clock()
        batch, placed = begin()
        t1, c1 = clock(), cpu()
        raw = self._predictor.core(batch)
        t2, c2 = clock(), cpu()
        end(raw, placed)
        t3, c3 = clock(), cpu()
        self._lost = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw - switches
        times = (t1 - t0, t2 - t1, t3 - t2, t3 - t0, c1 - c0, c2 - c1, c3 - c2, c3 - c0)
        self.rows.append((t0, index, *times, self._lost, before))

    def sample(self, seconds: float, at_least: int, cap: float, lead_in: int, image: int | None) -> dict[str, Any]:
        """Run inferences and return their samples.

        Args:
            seconds: least time, also beyond the cap.
            at_least: fewest inferences.
            cap: seconds after which fewer inferences are enough.
            lead_in: inferences before the first that counts, which warm caches and threads up.
            image: index of the first image that counts, modulo their number; None goes on.

        Returns:
            The fields of a ``SampleBatch``: ``rows``, ``elsewhere``, ``peak_bytes`` and ``allocator_bytes``.
        """
        if image is not None:
            self._next = (image - lead_in) % len(self._images)
        gc.collect()
        gc.disable()
        try:
            for _ in range(lead_in):
                self.run()
            self.rows = []
            before, start = reading(self._watched, time.process_time()), time.monotonic()
            while (spent := time.monotonic() - start) < seconds or (spent < cap and len(self.rows) < at_least):
                self.run()
        finally:
            gc.enable()
        elsewhere = passed(before, reading(self._watched, time.process_time()))
        elsewhere["seconds"] = time.monotonic() - start
        peak = max(self._peak_of_loading, peak_bytes() - self._bytes)
        return {"rows": self.rows, "elsewhere": elsewhere, "peak_bytes": peak, "allocator_bytes": allocated_bytes()}

    def deploy(self, **order: Any) -> dict[str, Any]:
        """Return the times of a deployment's stages, with arguments and result of ``deployment_worker.times``."""
        return times(self._predictor, self._images, **order)

    def count(self, lead_in: int, inferences: int, cap: float, trace: str) -> dict[str, Any]:
        """Run a core that counts its operators (``runtimes.base.Counted``).

        Args:
            lead_in: inferences before the counted ones.
            inferences: number of counted inferences.
            cap: seconds after which fewer of either are enough.
            trace: file of the trace, which is written if the runtime makes one.

        Returns:
            The result of ``sample`` for the counted inferences, and ``operators``.
        """
        self.sample(0, lead_in, cap, 0, 0)
        self._predictor.core.reset()
        batch = self.sample(0, inferences, cap, 0, 0)
        operators = [dataclasses.asdict(operator) for operator in self._predictor.core.operators()]
        self._predictor.core.trace(Path(trace))
        return {**batch, "operators": operators}


def allocated_bytes() -> int | None:
    """Return the peak of torch's allocator on the GPU in bytes; None if this process has not used it."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    return int(cuda.max_memory_allocated()) or None if cuda is not None and cuda.is_initialized() else None


if __name__ == "__main__":
    main()
