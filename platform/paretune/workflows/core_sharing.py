"""Whether the trials of a sweep may train while another one is measured, found out once at its start."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

from paretune.config.job import Job
from paretune.config.recipe import Recipe
from paretune.core.errors import UserError, one_line
from paretune.profiling.environment import environment
from paretune.profiling.latency.shared_images import measuring_images
from paretune.profiling.latency.sharing import RatioShift, measure_shift, sharing_facts
from paretune.profiling.latency.worker_client import surroundings
from paretune.results.sweep_folder import Sweep
from paretune.storage.trial_record import recorded_trials
from paretune.system.cpu_cores import separate_cores
from paretune.system.device_lock import SharedCores, shared_device, sharing_cores
from paretune.workflows.baseline import baseline_recipes
from paretune.workflows.build_artefact import build
from paretune.workflows.recipe_source import RecipeImages
from paretune.workflows.step_chain import InitialArtefactNetwork
from paretune.workflows.trial_context import SHARING, context_of, protocol_of, step_context, with_threads

LEAST_TRIALS = 40
"""Fewest trials that are left for a probe to pay: it takes 1.5 minutes, and saves 15 seconds a trial at most."""

Probe = Callable[[Sweep, SharedCores], RatioShift]


def decide_sharing(sweep: Sweep, say: Callable[[str], None], *, elsewhere: bool, probe: Probe | None = None) -> None:
    """Find out whether trials may train beside measurements, and note it in the sweep's file.

    A decision that was made on this machine for as many threads is kept.

    Args:
        sweep: whose baseline is trained, and whose trials begin now.
        say: prints a line.
        elsewhere: whether the trials run on other machines.
        probe: measures the shift of a ratio by a training beside; None is that of the sweep's own training.
    """
    job = sweep.job
    if job.search.concurrent < 2:
        return
    machine, known = environment(job.target)["machine"], sweep.facts.get(SHARING, {})
    if known.get("machine") == machine and job.measuring.beside_training == known.get("asked"):
        return
    threads = max((target.threads for target in job.targets.values() if target.device == "cpu"), default=1)
    cores = separate_cores(threads)
    why = _refusal(job, elsewhere=elsewhere) or (cores if isinstance(cores, str) else None)
    facts: dict[str, Any] = {"allowed": False, "machine": machine, "asked": job.measuring.beside_training}
    if why is None and not isinstance(cores, str):
        if job.search.trials - len(recorded_trials(sweep.folder)) < LEAST_TRIALS:
            say(f"trials wait while another one is measured: fewer than {LEAST_TRIALS} are left, a probe does not pay")
            return
        division = SharedCores(*map(tuple, cores))
        say("probing whether a training on other cores disturbs measurements")
        try:
            facts |= sharing_facts((probe or training_shift)(sweep, division))
        except (UserError, RuntimeError, OSError) as error:
            facts |= {"reason": f"the probe failed: {one_line(error)}", "machine": None}  # a resume probes again
        facts |= {"measuring": list(division.measuring), "working": list(division.working)}
    else:
        facts["reason"] = why
    sweep.note(**{SHARING: facts})
    allowed = "trials train while another one is measured" if facts["allowed"] else "trials wait while one is measured"
    say(f"{allowed}: {facts['reason']}")


def _refusal(job: Job, *, elsewhere: bool) -> str | None:
    """Return why nothing is measured beside trainings whatever a probe would show; None if it is to be probed."""
    if job.measuring.beside_training == "never":
        return "measuring.beside_training is never"
    if elsewhere:
        return "trials run on other machines"
    if any(target.elsewhere or target.device != "cpu" for target in job.targets.values()):
        return "a target is no CPU of this machine"
    return "trainings have workers of their own" if job.training.by_ray else None


def cores_of(facts: Mapping[str, Any] | None) -> AbstractContextManager[None]:
    """Return the context of a trial under a decision that ``decide_sharing`` noted; None if there is none."""
    if not facts or not facts["allowed"]:
        return nullcontext()
    return sharing_cores(SharedCores(tuple(facts["measuring"]), tuple(facts["working"])))


def training_shift(sweep: Sweep, cores: SharedCores) -> RatioShift:
    """Return the shift of the ratio of both baselines' latencies by trainings of the sweep beside them.

    Raises:
        UserError: the data cannot be read, or a runtime is missing.
        RuntimeError: a process died, or the trainings mostly slept.
    """
    context, job = context_of(sweep), sweep.job
    images = RecipeImages(job.dataset, context.cache, with_threads(job.training))
    with TemporaryDirectory(prefix="paretune-sharing-") as place:
        folders = []
        for number, tree in enumerate(baseline_recipes(job)):
            recipe, folder = Recipe.model_validate(tree), Path(place) / str(number)
            folder.mkdir()
            tools = step_context(
                recipe,
                images,
                context.data,
                detector=job.detector,
                baseline=sweep.baseline,
                target=job.target,
                thresholds=job.thresholds.thresholds,
                workdir=folder,
            )
            with shared_device("cpu"):
                start = InitialArtefactNetwork(sweep.baseline)
                folders.append(build(start, recipe, tools, folder / "artefact").artefact.folder)
        count = min(job.search.concurrent - 1, len(cores.working))
        with TrainingLoad(sweep, cores.working, count) as load:
            val = measuring_images(context.data.splits["val"])
            return measure_shift(folders, val, job.target, cores.measuring, load, protocol_of(job.measuring))


class TrainingLoad:
    """Processes that train as the trials of a sweep do, and stand still unless they are to run.

    Args:
        sweep: whose data, detector and settings.
        cores: that they run on.
        count: number of processes.
    """

    def __init__(self, sweep: Sweep, cores: Sequence[int], count: int) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []
        request = {"parent": os.getpid(), "path": sys.path, "cores": list(cores)}
        request |= {"runs": str(sweep.runs.resolve()), "name": sweep.name}
        self._request = (json.dumps(request) + "\n").encode()
        self._count, self._threads = count, max(1, len(cores) // count)

    def __enter__(self) -> Self:
        """Start the processes, and stop each after its first pass over the images.

        Raises:
            RuntimeError: a process died.
        """
        try:
            for _ in range(self._count):
                self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self) -> None:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "paretune.workflows.beside_load"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=surroundings(self._threads),
        )
        self._processes.append(process)
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the training beside has no pipes")
        process.stdin.write(self._request)
        process.stdin.flush()
        if process.stdout.readline().strip() != b"ready":
            raise RuntimeError("the training beside died before its first step")
        _stop(process)

    def __exit__(self, *_: object) -> None:
        """End the processes."""
        for process in self._processes:
            process.kill()
            process.communicate()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let the processes run while the block does."""
        for process in self._processes:
            process.send_signal(signal.SIGCONT)
        try:
            yield
        finally:
            for process in self._processes:
                _stop(process)

    def cpu_seconds(self) -> float:
        """Return the CPU time of the processes so far.

        Raises:
            RuntimeError: one of them died.
        """
        total = 0.0
        for process in self._processes:
            try:
                fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            except FileNotFoundError:
                raise RuntimeError("the training beside died") from None
            if fields[0] in "ZX":
                raise RuntimeError("the training beside died")
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return total


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Stop a child process, and return when it stands still or has died."""
    process.send_signal(signal.SIGSTOP)
    if process.returncode is None:
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
