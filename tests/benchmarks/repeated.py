"""What a recipe loses of accuracy over several trainings: that of one alone is worth a point of map, up or down.

The winner of a sweep was partly lucky on `val`: where the mean of all seeds does not bear it out there, it is repeated
with less pruned away.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from compressed import FOLDER, TUNING, lost_on_test, maps, optimized
from pruning import made
from training import SEEDS, Case, trained

from paretune.workflows.confirm import cut_of, settle_cut

GAIN = 0.5
"""Points on `val` that a network wins by being trained on if it was not at its plateau."""
LEAST = 0.5
"""Ratio below which no pruning is tried."""


@dataclass(frozen=True)
class Repeated:
    """A recipe carried out from the network of one seed."""

    source: Path
    against: Path
    """The better on `val` of the network that it began with, and of the same trained on for as long."""
    artefact: Path

    def lost_on_val(self) -> float:
        """Return the points lost on `val`, on which is chosen."""
        before, after = (maps(folder, self.source)["val"] for folder in (self.against, self.artefact))
        return before - after

    def lost(self) -> tuple[float, float, float]:
        """Return the points lost on `test`: lower end of the 95 % interval, what was measured, upper end."""
        return lost_on_test(self.against, self.artefact, self.source)


def confirmed(case: Case, recipe: dict[str, Any], root: Path, most: float) -> list[Repeated]:
    """Repeat a recipe from the networks of all seeds, with less pruned away until the mean keeps `most` on `val`."""
    tried: dict[str, list[Repeated]] = {}

    def lost(given: Mapping[str, Any]) -> float:
        tried[_named(given)], points = _repeats(case, given, root)
        return points

    return tried[_named(settle_cut(recipe, lost, most, LEAST))]


def _repeated(case: Case, seed: int, recipe: Mapping[str, Any], root: Path) -> Repeated:
    """Carry out a recipe from the network of a seed: from the one trained on, if the training had not ended yet.

    Raises:
        RuntimeError: something cannot be made; says why.
    """
    source = trained(case, seed, root).folder

    def make(name: str, start: Path, steps: list[dict[str, Any]], runtime: Any, size: str | None = None) -> Path:
        folder = FOLDER / case.job / f"{name}-{seed}"
        if reason := optimized(start, steps, runtime, folder, source, size):
            raise RuntimeError(f"{case.name}, {name}, seed {seed}: {reason}")
        return folder

    def on_val(folder: Path) -> float:
        return maps(folder, source)["val"]

    start, control = made(case, seed, "dense", root), made(case, seed, "control", root)
    if on_val(control) >= on_val(start) + GAIN:
        start, control = control, make("control-twice", control, [{"finetune": TUNING[case.job]}], "eager")
    artefact = make(_named(recipe), start, taught_by(start, recipe["steps"]), recipe["runtime"], recipe["input_size"])
    return Repeated(source, max((start, control), key=on_val), artefact)


def taught_by(start: Path, steps: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return steps whose teacher is the network that they begin with, where they have a teacher and name none."""
    found = copy.deepcopy(list(steps))
    for step in found:
        for fields in step.values():
            if fields.get("distill") is not None and fields["distill"].get("teacher") is None:
                fields["distill"]["teacher"] = str(start)
    return found


def _repeats(case: Case, recipe: Mapping[str, Any], root: Path) -> tuple[list[Repeated], float]:
    """Carry out a recipe from the networks of all seeds, as many at once as there are cores; tell the mean loss too."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        found = list(pool.map(lambda seed: _repeated(case, seed, recipe, root), SEEDS))
    lost = [one.lost_on_val() for one in found]
    told = ", ".join(f"{points:.1f}" for points in lost)
    print(f"{case.name}, {_named(recipe)}: points lost on val {told}, mean {mean(lost):.2f}", flush=True)
    return found, mean(lost)


def _named(recipe: Mapping[str, Any]) -> str:
    ratio = cut_of(recipe)
    return "again" if ratio is None else f"again-{ratio:g}"
