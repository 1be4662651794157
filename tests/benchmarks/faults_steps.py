"""Faults at the steps of a sweep: of its driver, of its trials and of its log, in forked processes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import faults_forked as forked
from faults_forked import DRIVER, FULL, KILL, LOG, TORN, TRIAL, Fault
from faults_kinds import Kind, Outcome
from faults_place import Bench, last
from faults_sweep import NAME

EXPECTED = {DRIVER: (-9, 0), TRIAL: (0,), LOG: (0,)}
"""Exit codes of a sweep in which a process is killed; 0 of a driver that was done before so many steps."""


def kinds_of_steps(steps: list[str]) -> list[int]:
    """Return the first step of each kind: the same change of a file of the same name, or the same statement."""
    first: dict[str, int] = {}
    for number, step in enumerate(steps):
        what, _, name = step.partition(" ")
        words = "".join(letter for letter in name.rsplit("/", 1)[-1] if not letter.isdigit())
        first.setdefault(f"{what} {words[:24]}", number)
    return list(first.values())


def moments(bench: Bench, role: str, what: str, count: int | None) -> list[int]:
    """Return the steps at which a fault is tried, drawn evenly over all of them.

    Args:
        bench: of the faults.
        role: of the process.
        what: the fault; torn files are only where one is opened.
        count: number of steps; None takes all.
    """
    steps = bench.traced()[role]
    numbers = [n for n, step in enumerate(steps) if what == KILL or not step.startswith(("sql", "commit"))]
    numbers = [n for n in numbers if what != TORN or steps[n].startswith("open")]
    if count is None or count >= len(numbers):
        return numbers
    dice, size = bench.dice(role, what), len(numbers) / count
    return [numbers[min(int((part + dice.random()) * size), len(numbers) - 1)] for part in range(count)]


def at_steps(role: str, what: str, bench: Bench, count: int | None) -> Iterator[Outcome]:
    """Try a fault at steps of a role, and yield each outcome."""
    for step in moments(bench, role, what, count)[bench.skip :]:
        yield at_step(bench, Fault(role, step, what))


def at_step(bench: Bench, fault: Fault) -> Outcome:
    """Try a fault at one step, resume, and return what is wrong."""
    name = bench.traced()[fault.role]
    where = name[fault.step][-70:] if fault.step < len(name) else ""
    place = bench.fresh()
    ended = forked.run(place, "sweep", f"{NAME}.yaml", fault=fault)
    wrong = []
    expected = EXPECTED[fault.role] if fault.what != FULL else (0, 2)
    if ended.code not in expected:
        wrong.append(f"C9: the sweep ended with {ended.code}: {last(ended.text)}")
    if "Traceback" in ended.text and fault.what != KILL:
        wrong.append(f"C9: a traceback: {last(ended.text)}")
    return Outcome(f"step {fault.step}: {where}", [*wrong, *bench.ended(place)])


NAMED = (
    (DRIVER, "open /runs/cheap/proposed.jsonl", TORN),
    (DRIVER, "sql INSERT INTO trials", KILL),
    (DRIVER, "comparison.json", TORN),
    (DRIVER, "rename /runs/cheap/.finished", KILL),
    (TRIAL, "stage.json", TORN),
    (TRIAL, "rename /runs/cheap/trials/0002/.artefact", KILL),
    (TRIAL, "open /runs/cheap/trials/0001/.record.json", TORN),
    (TRIAL, "rmdir /runs/cheap/trials/0003/work", KILL),
    (LOG, "sql INSERT INTO runs", KILL),
    (LOG, "sql INSERT INTO metrics", KILL),
    (LOG, "rename /runs/cheap/front/.front.png", KILL),
)
"""Each step of finishing a trial, once: proposed, built, stored, recorded, told to study and log, drawn, finished."""


def at_named(bench: Bench, count: int | None) -> Iterator[Outcome]:
    """Try a fault at each of the named steps."""
    for role, name, what in NAMED[bench.skip : count]:
        text = name.replace(" /", f" {bench.place.folder}/")
        place = bench.fresh()
        ended = forked.run(place, "sweep", f"{NAME}.yaml", fault=Fault(role, -1, what, text))
        wrong = [] if ended.code in EXPECTED[role] else [f"C9: the sweep ended with {ended.code}: {last(ended.text)}"]
        if role == DRIVER and ended.code == 0:
            wrong.append("C9: there was no such step")
        yield Outcome(f"{role} {what}: {name}", [*wrong, *bench.ended(place)])


KINDS = [
    Kind("F27", "each step of finishing a trial", at_named, len(NAMED)),
    Kind("F1", "driver killed at a step", partial(at_steps, DRIVER, KILL)),
    Kind("F2", "trial killed at a step", partial(at_steps, TRIAL, KILL)),
    Kind("F7", "log killed at a step", partial(at_steps, LOG, KILL)),
    Kind("F11", "driver killed, half of a file written", partial(at_steps, DRIVER, TORN)),
    Kind("F27", "trial killed, half of a file written", partial(at_steps, TRIAL, TORN)),
    Kind("F24", "log killed, half of a file written", partial(at_steps, LOG, TORN)),
    Kind("F9", "disk full at a step of the driver", partial(at_steps, DRIVER, FULL)),
    Kind("F9", "disk full at a step of a trial", partial(at_steps, TRIAL, FULL)),
    Kind("F9", "disk full at a step of the log", partial(at_steps, LOG, FULL)),
]
