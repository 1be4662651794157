"""What a recipe loses of accuracy over several trainings: that of one alone is worth a point of map, up or down."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressed import FOLDER, TUNING, lost_on_test, maps, optimized
from pruning import made
from training import SEEDS, Case, trained

GAIN = 0.5
"""Points on `val` that a network wins by being trained on if it was not at its plateau."""


@dataclass(frozen=True)
class Repeated:
    """A recipe carried out from the network of one seed."""

    seed: int
    source: Path
    against: Path
    """The better on `val` of the network that it began with, and of the same trained on for as long."""
    artefact: Path

    def lost(self) -> tuple[float, float, float]:
        """Return the points lost on `test`: lower end of the 95 % interval, what was measured, upper end."""
        low, lost, high = lost_on_test(self.against, self.artefact, self.source)
        before, after = (maps(folder, self.source) for folder in (self.against, self.artefact))
        told = ", ".join(f"{split} {before[split]:.1f} to {after[split]:.1f}" for split in ("val", "test"))
        name = self.against.name
        print(f"seed {self.seed}, against {name}: map on {told}; lost {lost:.1f} ({low:.1f} to {high:.1f})", flush=True)
        return low, lost, high


def repeated(case: Case, seed: int, recipe: dict[str, Any], root: Path) -> Repeated:
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
    artefact = make("again", start, recipe["steps"], recipe["runtime"], recipe["input_size"])
    return Repeated(seed, source, max((start, control), key=on_val), artefact)


def repeats(case: Case, recipe: dict[str, Any], root: Path) -> list[Repeated]:
    """Carry out a recipe from the networks of all seeds, as many at once as there are cores."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(lambda seed: repeated(case, seed, recipe, root), SEEDS))
