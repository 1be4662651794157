"""What a sweep's winner keeps when it is made again with other seeds: ``confirm.json`` in the sweep's folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from paretune.core.metrics import change_in
from paretune.results.sweep_folder import Sweep
from paretune.storage.atomic_files import write_text

FILE = "confirm.json"
FOLDER = "confirm"
"""Folder in the sweep's of what is made: ``confirm/RECIPE/seed-N`` is an artefact."""
SLACK = 1e-9
"""What floating-point sums may be above a limit."""


@dataclass(frozen=True)
class ConfirmationRequest:
    """What is to be confirmed."""

    trial: int
    seeds: tuple[int, ...]
    """With which the recipe is carried out; the trial's own is none of them."""
    metric: str
    """``map`` or ``map50``."""
    max_drop: float
    """The most that the mean over the seeds may be lower than the eager baseline's, 0 to 1."""


@dataclass(frozen=True)
class RepeatedRecipe:
    """One recipe, carried out with every seed."""

    recipe: Mapping[str, Any]
    """Every field with its value."""
    folder: str
    """Relative to the sweep's; each seed's artefact lies in ``seed-N`` in it."""
    lost: Mapping[int, float]
    """Seed → what was lost of the metric on ``val``, 0 to 1; below 0 where it was gained."""

    @property
    def mean_lost(self) -> float:
        """Return the mean loss."""
        return mean(self.lost.values())

    @property
    def best_seed(self) -> int:
        """Return the seed that lost least."""
        return min(self.lost, key=lambda seed: self.lost[seed])

    def artefact(self, seed: int) -> str:
        """Return the folder of one seed's artefact, relative to the sweep's."""
        return f"{self.folder}/seed-{seed}"


@dataclass(frozen=True)
class Confirmation:
    """The recipe that is left after easing, and what it claims."""

    asked: ConfirmationRequest
    tried: tuple[RepeatedRecipe, ...]
    """In the order in which they were tried."""
    chosen: int
    """Position in ``tried``: chosen on ``val``."""
    comparison: Mapping[str, Any] = field(default_factory=dict)
    """`compare_front` of the baselines and the chosen artefacts, under the numbers of ``numbers``; or a ``reason``."""

    @property
    def kept(self) -> RepeatedRecipe:
        """Return the chosen recipe with its losses."""
        return self.tried[self.chosen]

    @property
    def lost_on_test(self) -> dict[int, tuple[float, float, float]]:
        """Return seed → what was lost on ``test``: (low end of the 95 % interval, loss, high end); {} where unknown."""
        tested = self.comparison.get("test") or {}
        found = {}
        for seed, number in numbers(self.asked.seeds).items():
            change = change_in(tested.get(str(number), {}).get("metrics", {}), self.asked.metric)
            if change is not None:
                found[seed] = (-change[2], -change[1], -change[0])
        return found

    @property
    def claimed(self) -> tuple[str, float]:
        """Return the split that the claim is made on, and the mean loss there: ``test``, or ``val`` without one."""
        on_test = self.lost_on_test
        if len(on_test) == len(self.asked.seeds):
            return "test", mean(lost for _, lost, _ in on_test.values())
        return "val", self.kept.mean_lost

    @property
    def holds(self) -> bool:
        """Tell whether the claimed mean loss is allowed."""
        return self.claimed[1] <= self.asked.max_drop + SLACK

    def speedups(self, baseline: str) -> dict[int, Mapping[str, Any]]:
        """Return seed → speed-up against a baseline (``eager``, ``onnxruntime``) with its interval."""
        rows = self.comparison.get("trials") or {}
        known = {seed: rows.get(str(number), {}).get(baseline) for seed, number in numbers(self.asked.seeds).items()}
        return {seed: row for seed, row in known.items() if row is not None}

    def tree(self) -> dict[str, Any]:
        """Return all of it as plain data; what can be computed from the rest is in ``claim``."""
        split, lost = self.claimed
        return {
            **asdict(self),
            "claim": {
                "split": split,
                "lost": lost,
                "holds": self.holds,
                "artefact": self.kept.artefact(self.kept.best_seed),
                "lost_by_seed": {str(seed): list(ends) for seed, ends in self.lost_on_test.items()},
                "speedups": {name: self.speedups(name) for name in ("eager", "onnxruntime")},
            },
        }


def numbers(seeds: tuple[int, ...]) -> dict[int, int]:
    """Return seed → the number of its artefact in the comparison, where 0 and 1 are the baselines."""
    return {seed: 2 + index for index, seed in enumerate(seeds)}


def write_confirmation(sweep: Sweep, found: Confirmation) -> None:
    """Write what was confirmed."""
    write_text(sweep.folder / FILE, json.dumps(found.tree(), indent=1))


def read_confirmation(sweep: Sweep) -> Confirmation | None:
    """Read what was confirmed last; None where nothing was, or the file is not readable."""
    file: Path = sweep.folder / FILE
    if not file.is_file():
        return None
    try:
        body = json.loads(file.read_text())
        asked = ConfirmationRequest(**{**body["asked"], "seeds": tuple(body["asked"]["seeds"])})
        tried = tuple(
            RepeatedRecipe(one["recipe"], one["folder"], {int(seed): lost for seed, lost in one["lost"].items()})
            for one in body["tried"]
        )
        return Confirmation(asked, tried, body["chosen"], body["comparison"])
    except (KeyError, TypeError, ValueError):
        return None
