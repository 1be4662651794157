"""A place for one fault after the other: made once, and put back as it was before each of them."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import faults_forked as forked
from faults_checker import check, recorded
from faults_left import processes
from faults_sweep import NAME, Place, new_place

from paretune.distributed.ray_session import use_token
from paretune.storage.stage_store import StageStore

GRACE = 3.0
"""Seconds within which what a killed process has started must be gone."""


@dataclass
class Bench:
    """The place of all faults, and the dice."""

    folder: Path
    seed: int = 0
    trials: int = 6
    skip: int = 0
    """First moments of the kind that were tried in an earlier run."""
    steps: dict[str, list[str]] = field(default_factory=dict)
    """Role → its steps in a sweep without a fault."""

    def __post_init__(self) -> None:
        """Make the place: an empty log, the generated dataset, no sweep."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.place = new_place(self.folder / "place", trials=self.trials)
        self.place.runs.mkdir()
        use_token(self.place.runs)  # Ray reads it when it is imported
        forked.load_libraries()
        made = forked.run(self.place, "sweep", f"{NAME}.yaml", "--name", "before", prepare=self._log_only, limit=120)
        assert made.code == 3, made.text
        shutil.rmtree(self.place.runs / "before", ignore_errors=True)
        shutil.copytree(self.place.folder, self.folder / "fresh")

    def _log_only(self) -> None:
        """Make the log's database and the dataset, and end the process."""
        from paretune.config.plan import read_plan
        from paretune.tracking.mlflow_client import LogPlace

        job = read_plan(Path(f"{NAME}.yaml")).job
        job.dataset.open(self.place.runs / "datasets")
        place = LogPlace(Path("runs"), NAME, None, "paretune")
        place.experiment_id(place.connect())
        os._exit(3)

    def dice(self, *key: object) -> random.Random:
        """Return dice for one fault."""
        return random.Random(repr((self.seed, *key)))

    def fresh(self) -> Place:
        """Return the place as it was made."""
        end_processes(self.place)
        shutil.rmtree(self.place.folder)
        shutil.copytree(self.folder / "fresh", self.place.folder)
        return self.place

    def traced(self) -> dict[str, list[str]]:
        """Return the steps of a sweep without a fault, by role."""
        if not self.steps:
            trace = self.folder / "trace.txt"
            trace.unlink(missing_ok=True)
            place = self.fresh()
            ended = forked.run(place, "sweep", f"{NAME}.yaml", trace=trace)
            wrong = [] if ended.code == 0 else [ended.text]
            if wrong or (wrong := [*gone(place), *check(place, trials=self.trials)]):
                raise RuntimeError("\n".join(["the sweep without a fault:", *wrong]))
            self.steps = {role: [] for role in forked.ROLES}
            for line in trace.read_text().splitlines():
                role, _, what, name = line.split("\t")
                self.steps[role].append(f"{what} {name}")
        return self.steps

    def ended(
        self,
        place: Place,
        run: Callable[..., forked.Result] = forked.run,
        options: tuple[str, ...] = (),
        **checked: object,
    ) -> list[str]:
        """Resume a sweep as its user would, to its end, and return what is wrong then."""
        gone(place)  # Ray's agents outlive it
        wrong, seen = list[str](), recorded(place)
        words = ("resume", NAME) if (place.sweep / "sweep.json").exists() else ("sweep", f"{NAME}.yaml")
        result = run(place, *words, *options)
        if result.code != 0:
            wrong.append(f"C9: {words[0]} ended with {result.code}: {last(result.text)}")
        later = StageStore(str(place.runs / "store"), clock=lambda: time.time() + 7200)
        later.prune(2**60)  # as the first trial does that adds an entry in an hour
        return [*wrong, *gone(place), *check(place, **{"trials": self.trials, "seen": seen, **checked})]  # type: ignore[arg-type]


def last(text: str) -> str:
    """Return the last lines of a text."""
    return " | ".join(text.strip().splitlines()[-6:])


def gone(place: Place) -> list[str]:
    """Wait for the end of a place's processes, and return those that stay."""
    end = time.monotonic() + GRACE
    while (left := processes(place)) and time.monotonic() < end:
        time.sleep(0.05)
    return [f"C7: process {pid} is left: {text}" for pid, text in left.items()]


def end_processes(place: Place) -> None:
    """Kill the processes of a place that are left."""
    for pid in processes(place):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
