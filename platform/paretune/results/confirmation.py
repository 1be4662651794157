"""The confirmation of a sweep's winner with other seeds, kept as ``confirm.json`` in the sweep's folder."""

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

FOLDER = "confirm"
"""Folder of the artefacts in the sweep's folder: ``confirm/RECIPE/seed-N``."""
SLACK = 1e-9
"""Tolerance for the rounding of floating-point sums."""


@dataclass(frozen=True)
class ConfirmationRequest:
    """The trial to confirm, and how."""

    trial: int
    seeds: tuple[int, ...]
    """Seeds to carry out the recipe with; the trial's own seed is not among them."""
    metric: str
    """``map`` or ``map50``."""
    max_drop: float
    """Largest allowed mean loss against the eager baseline, 0 to 1."""


@dataclass(frozen=True)
class RepeatedRecipe:
    """A recipe and its losses with every seed."""

    recipe: Mapping[str, Any]
    """Every field with its value."""
    folder: str
    """Folder relative to the sweep's; each seed's artefact lies in ``seed-N`` in it."""
    lost: Mapping[int, float]
    """Seed → loss of the metric on ``val``; negative for a gain."""

    @property
    def mean_lost(self) -> float:
        """Return the mean loss."""
        return mean(self.lost.values())

    @property
    def best_seed(self) -> int:
        """Return the seed with the smallest loss."""
        return min(self.lost, key=lambda seed: self.lost[seed])

    def artefact(self, seed: int) -> str:
        """Return the folder of one seed's artefact, relative to the sweep's."""
        return f"{self.folder}/seed-{seed}"


@dataclass(frozen=True)
class Confirmation:
    """The chosen recipe with its losses and latencies."""

    asked: ConfirmationRequest
    tried: tuple[RepeatedRecipe, ...]
    """Recipes in the order in which they were tried."""
    chosen: int
    """Position in ``tried`` of the recipe that was chosen on ``val``."""
    comparison: Mapping[str, Any] = field(default_factory=dict)
    """`compare_front` of the baselines and the chosen artefacts, under the numbers of ``numbers``; or a ``reason``."""

    @property
    def kept(self) -> RepeatedRecipe:
        """Return the chosen recipe with its losses."""
        return self.tried[self.chosen]

    @property
    def lost_on_test(self) -> dict[int, tuple[float, float, float]]:
        """Return seed → loss on ``test`` as (low end of the 95 % interval, loss, high end); {} if unknown."""
        tested = self.comparison.get("test") or {}
        losses = {}
        for seed, number in numbers(self.asked.seeds).items():
            change = change_in(tested.get(str(number), {}).get("metrics", {}), self.asked.metric)
            if change is not None:
                losses[seed] = (-change[2], -change[1], -change[0])
        return losses

    @property
    def claimed(self) -> tuple[str, float]:
        """Return the split of the claim, ``test`` or ``val`` without one, and the mean loss on it."""
        on_test = self.lost_on_test
        if len(on_test) == len(self.asked.seeds):
            return "test", mean(lost for _, lost, _ in on_test.values())
        return "val", self.kept.mean_lost

    @property
    def holds(self) -> bool:
        """Return whether the claimed mean loss is allowed."""
        return self.claimed[1] <= self.asked.max_drop + SLACK

    def speedups(self, baseline: str) -> dict[int, Mapping[str, Any]]:
        """Return seed → speed-up against a baseline (``eager``, ``onnxruntime``) with its interval."""
        rows = self.comparison.get("trials") or {}
        known = {seed: rows.get(str(number), {}).get(baseline) for seed, number in numbers(self.asked.seeds).items()}
        return {seed: row for seed, row in known.items() if row is not None}

    def tree(self) -> dict[str, Any]:
        """Return the confirmation as plain data; ``claim`` holds what is computed from the rest."""
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


def _file(sweep: Sweep) -> Path:
    """Return the file of a target's confirmation."""
    return sweep.folder / f"{sweep.of_target(FOLDER)}.json"


def write_confirmation(sweep: Sweep, confirmation: Confirmation) -> None:
    """Write ``confirm.json``; that of a further target has its name."""
    write_text(_file(sweep), json.dumps(confirmation.tree(), indent=1))


def read_confirmation(sweep: Sweep) -> Confirmation | None:
    """Read ``confirm.json``; return None if there is none, or it is not readable."""
    file = _file(sweep)
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
