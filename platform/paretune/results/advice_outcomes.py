"""Predictions of `paretune advise` beside what a sweep that tries its recipes has measured."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from paretune.config.recipe import Recipe, present_names
from paretune.core.baselines import base_name
from paretune.core.errors import UserError, one_line
from paretune.core.spec import fingerprint
from paretune.core.types import InputSize
from paretune.storage.trial_record import Record

FILE = "advice.json"


@dataclass(frozen=True)
class AdvicePrediction:
    """Predicted gain of one recipe."""

    knob: str
    """Name of the change."""
    predicted: float
    """Predicted speed-up, from image to boxes, over the artefact that the advice was for."""
    recipe: Mapping[str, Any]
    """Recipe with every field."""
    before: Mapping[str, Any]
    """Recipe of the artefact that the advice was for."""

    def tree(self) -> dict[str, Any]:
        """Return the prediction as plain data."""
        return asdict(self)


@dataclass(frozen=True)
class AdviceOutcome:
    """Result of one prediction."""

    promise: AdvicePrediction
    trial: int | None = None
    """Trial of the recipe."""
    against: int | None = None
    """Trial of the recipe that the advice was for."""
    measured: Mapping[str, Any] | None = None
    """``speedup``, ``low``, ``high`` and ``verdict`` of one trial against the other, measured interleaved."""
    reason: str | None = None
    """Why the speed-up is not measured."""

    @property
    def helped(self) -> bool | None:
        """Return whether the trial is significantly faster; None if it is not measured."""
        return None if self.measured is None else self.measured["verdict"] == "faster"

    def tree(self) -> dict[str, Any]:
        """Return the outcome as plain data."""
        prediction = {"knob": self.promise.knob, "predicted": self.promise.predicted}
        measured = {name: (self.measured or {}).get(name) for name in ("speedup", "low", "high", "verdict")}
        more = {"trial": self.trial, "against": self.against, "helped": self.helped, "reason": self.reason}
        return {**prediction, **measured, **more}


def read_promises(recipes: Sequence[Recipe], folders: Iterable[Path]) -> list[AdvicePrediction]:
    """Return the predictions in folders of advice for unchanged recipes.

    Raises:
        UserError: a file of predictions cannot be read.
    """
    wanted = {_key(_normal(recipe)) for recipe in recipes}
    found: list[AdvicePrediction] = []
    for file in dict.fromkeys(folder / FILE for folder in folders):
        if not file.is_file():
            continue
        try:
            told = json.loads(file.read_text())
            before = _normal(told["recipe"])
            made = [
                AdvicePrediction(str(one["knob"]), float(one["predicted"]), _normal(one["recipe"]), before)
                for one in told["advice"]
            ]
        except (KeyError, TypeError, ValueError) as error:
            said = one_line(error)
            raise UserError(f"{file}: cannot be read ({said}); without the file recipes are only tried") from error
        found += [promise for promise in made if _key(promise.recipe) in wanted]
    return found


def pairs(promises: Sequence[AdvicePrediction], records: Sequence[Record]) -> list[tuple[int, int]]:
    """Return (trial of a recipe, trial that it is compared with) for each prediction that can be measured."""
    found = [(_trial(one.recipe, records), _trial(one.before, records)) for one in promises]
    return [(tried.number, base.number) for tried, base in found if tried and base and _usable(tried, base)]


def outcomes(
    promises: Sequence[AdvicePrediction], records: Sequence[Record], comparison: Mapping[str, Any] | None
) -> list[AdviceOutcome]:
    """Return the outcome of each prediction.

    Args:
        promises: predictions of a sweep.
        records: of its trials.
        comparison: as ``compare_front`` returns it; None before the end of the sweep.
    """
    return [_outcome(one, records, comparison) for one in promises]


def _outcome(
    promise: AdvicePrediction, records: Sequence[Record], comparison: Mapping[str, Any] | None
) -> AdviceOutcome:
    tried, base = _trial(promise.recipe, records), _trial(promise.before, records)
    if tried is None or base is None:
        what = "its recipe" if tried is None else "what the advice was for"
        return AdviceOutcome(promise, _number(tried), _number(base), reason=f"{what} was not tried")
    known = AdviceOutcome(promise, tried.number, base.number)
    for record in (tried, base):
        if record.state == "failed":
            said = next(iter((record.failure or "").splitlines()), "unknown reason")
            return replace(known, reason=f"trial {record.number} failed: {said}")
        if record.state == "stopped":
            return replace(known, reason=f"trial {record.number} was stopped early: {record.stop_reason}")
    if comparison is None:
        return replace(known, reason="compared at the end of the sweep")
    row = comparison["trials"].get(str(tried.number), {}).get(base_name(base.number))
    return replace(known, measured=row, reason=None if row else "not compared")


def _trial(recipe: Mapping[str, Any], records: Sequence[Record]) -> Record | None:
    """Return the record of the trial of a recipe."""
    key = _key(recipe)
    return next((record for record in records if _key(record.recipe) == key), None)


def _number(record: Record | None) -> int | None:
    return None if record is None else record.number


def _usable(*records: Record) -> bool:
    return all(record.artefact is not None for record in records)


def _normal(recipe: Any) -> dict[str, Any]:
    """Return a recipe with every field filled in."""
    return Recipe.model_validate(recipe).tree()


def _key(recipe: Mapping[str, Any]) -> str:
    """Return a hash that equal recipes share, however their fields are named and their sizes written."""
    return fingerprint({**present_names(recipe), "input_size": str(InputSize.parse(recipe["input_size"]))})
