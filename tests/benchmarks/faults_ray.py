"""Processes of a sweep on Ray that are killed or stopped at random moments."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import faults_forked as forked
from faults_checker import recorded
from faults_kinds import Kind, Outcome
from faults_left import processes, session_folders
from faults_place import Bench, last
from faults_sweep import NAME, Place, on_ray

PACE = 0.15
"""Mean seconds of each stage of a trial."""
STARTING = 60.0
WORKERS = ("ray::",)
PARTS: dict[str, Callable[[str], bool]] = {
    "worker": lambda line: line.startswith("ray::") and "ImplicitFunc" in line,
    "profiler": lambda line: "faults-measuring" in line,
    "raylet": lambda line: "/raylet/raylet" in line,
    "head": lambda line: "gcs_server" in line,
}
"""Process that is killed → whether a command line is its."""
ON_RAY = partial(forked.run, tuner=on_ray, pace=PACE, limit=180)


def pids_of(place: Place, part: str) -> list[int]:
    """Return the processes of a part of a sweep that runs."""
    return [pid for pid, line in processes(place).items() if PARTS[part](line)]


def hit(place: Place, part: str, number: int, moment: float, driver: int) -> str:
    """Send a signal to a part of a sweep some time after its first trial began, and return when.

    Args:
        place: of the sweep.
        part: "driver" or one of `PARTS`.
        number: of the signal.
        moment: seconds after the first stage of a trial has begun.
        driver: number of the driver's process.
    """
    end = time.monotonic() + STARTING
    while not any(place.sweep.glob("trials/*/events.jsonl")):
        if time.monotonic() > end or not Path(f"/proc/{driver}").exists():
            return "no trial has begun"
        time.sleep(0.01)
    time.sleep(moment)
    end = time.monotonic() + 10
    while not (pids := [driver] if part == "driver" else pids_of(place, part)) and time.monotonic() < end:
        time.sleep(0.005)
    for pid in pids[:1]:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
    return f"{moment:.2f} s after the first trial began" + ("" if pids else ", and there was none")


def killed(part: str, codes: tuple[int, ...], bench: Bench, count: int | None) -> Iterator[Outcome]:
    """Kill a part of a sweep on Ray at random moments, resume, and yield what is wrong."""
    span = bench.trials * 4 * PACE * (1 if part == "driver" else 0.7)
    dice, count = bench.dice(part), count or 20
    moments = [span * (number + dice.random()) / count for number in range(count)]
    for moment in moments[bench.skip :]:
        yield hit_once(bench, part, signal.SIGKILL, moment, codes)


def hit_once(bench: Bench, part: str, number: int, moment: float, codes: tuple[int, ...]) -> Outcome:
    """Run a sweep on Ray, send one signal, resume, and return what is wrong."""
    place, before, said = bench.fresh(), session_folders(), []
    ended = ON_RAY(
        place, "sweep", f"{NAME}.yaml", meanwhile=lambda pid: said.append(hit(place, part, number, moment, pid))
    )
    wrong = [] if ended.code in codes else [f"C9: the sweep ended with {ended.code}: {last(ended.text)}"]
    resumed = bench.ended(place, ON_RAY if ended.code != 0 else forked.run)
    left = [f"C7: {name} is left in the folder of temporary files" for name in session_folders() - before]
    return Outcome(f"{said[0]}, exit code {ended.code}", [*wrong, *resumed, *left])


def chain(bench: Bench, count: int | None) -> Iterator[Outcome]:
    """Hit one sweep five times: worker, measuring process and driver, then raylet and head of its resumption."""
    place, said, before = bench.fresh(), list[str](), session_folders()
    for parts in (("worker", "profiler", "driver"), ("raylet", "head"))[:count]:
        seen = recorded(place)

        def meanwhile(driver: int, parts: tuple[str, ...] = parts, known: int = len(seen)) -> None:
            _await_records(place, known, driver)
            said.extend(f"{part}: {hit(place, part, signal.SIGKILL, 0.2, driver)}" for part in parts)

        words = ("resume", NAME) if place.sweep.exists() else ("sweep", f"{NAME}.yaml")
        ended = ON_RAY(place, *words, meanwhile=meanwhile, prepare=_notice_soon)
        lost = [name for name, body in seen.items() if recorded(place).get(name) != body]
        wrong = [f"C1: the record of trial {name} has changed" for name in lost]
        wrong += [] if ended.code in (-9, 0, 1, 2) else [f"C9: exit code {ended.code}: {last(ended.text)}"]
        yield Outcome(f"{', '.join(parts)} killed, exit code {ended.code}", wrong)
    resumed = bench.ended(place, ON_RAY)
    left = [f"C7: {name} is left in the folder of temporary files" for name in session_folders() - before]
    yield Outcome("; ".join(said), [*resumed, *left])


def _await_records(place: Place, known: int, driver: int) -> None:
    """Wait for the first trial that begins in this run."""
    end = time.monotonic() + STARTING
    while time.monotonic() < end and Path(f"/proc/{driver}").exists():
        if pids_of(place, "worker") and (known or list(place.sweep.glob("trials/*/events.jsonl"))):
            return
        time.sleep(0.01)


def _notice_soon() -> None:
    """Let Ray notice within seconds that its head is dead."""
    os.environ |= {"RAY_gcs_rpc_server_reconnect_timeout_s": "3"}


def failing_calls(bench: Bench, count: int | None) -> Iterator[Outcome]:
    """Let one in twenty of Ray's calls fail: a small sweep ends as ever."""
    for _ in range(bench.skip, min(count or 1, 1)):
        place = bench.fresh()
        ended = ON_RAY(place, "sweep", f"{NAME}.yaml", prepare=_fail_calls)
        wrong = [] if ended.code == 0 else [f"C9: the sweep ended with {ended.code}: {last(ended.text)}"]
        yield Outcome("calls and their answers", [*wrong, *bench.ended(place)])


def _fail_calls() -> None:
    chances = {"num_failures": -1, "req_failure_prob": 5, "resp_failure_prob": 5}
    os.environ |= {"RAY_testing_rpc_failure": json.dumps({"*": chances})}


CHAIN = Kind("F1-F4", "one sweep on Ray, hit five times", chain, 2)
KINDS = [
    Kind("F1", "driver killed on Ray", partial(killed, "driver", (-9, 0))),
    Kind("F2", "worker killed on Ray", partial(killed, "worker", (0,))),
    Kind("F2", "measuring process killed on Ray", partial(killed, "profiler", (0,))),
    Kind("F3", "raylet killed", partial(killed, "raylet", (0, 1, 2))),
    Kind("F22", "calls of Ray's that fail", failing_calls, 1),
    Kind("F4", "head killed", partial(killed, "head", (0, 1, 2))),
]
