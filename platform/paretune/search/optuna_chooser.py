"""Decisions of a draw made by Optuna, and the key of the recipe that was drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from paretune.core.spec import fingerprint
from paretune.core.types import InputSize
from paretune.search.space import Choices, Range, Scalar

if TYPE_CHECKING:
    import optuna


def recipe_key(recipe: Mapping[str, Any]) -> str:
    """Return a hash that equal recipes share, however their input sizes are written."""
    size = recipe.get("input_size")
    return fingerprint(recipe if size is None else {**recipe, "input_size": str(InputSize.parse(size))})


class OptunaChooser:
    """A chooser that asks Optuna."""

    def __init__(self, trial: optuna.Trial, integers: frozenset[str] = frozenset()) -> None:
        self._trial = trial
        self._integers = integers

    def number(self, space: Range) -> float:
        """Return one number of the range, a whole one if the study has stored integers for it."""
        if space.whole or space.name in self._integers:
            step = 1 if space.log or space.step is None else int(space.step)
            return self._trial.suggest_int(space.name, int(space.low), int(space.high), step=step, log=space.log)
        value = self._trial.suggest_float(space.name, space.low, space.high, step=space.step, log=space.log)
        return float(f"{value:.12g}")  # a step of 0.05 yields 0.15000000000000002

    def option(self, space: Choices) -> Scalar:
        """Return one label."""
        chosen: Scalar = self._trial.suggest_categorical(space.name, list(space.options))
        return chosen
