"""Settings of a study and its proposals."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from paretune.search.samplers import Sampler
from paretune.search.space import Space

if TYPE_CHECKING:
    from paretune.storage.trial_record import Record


@dataclass(frozen=True)
class Proposal:
    """A trial to be run: its number in the sweep, its recipe, and the source of the recipe."""

    number: int
    recipe: Mapping[str, Any]
    origin: str


class SpaceExhausted(Exception):  # noqa: N818 - nothing went wrong
    """Raised when no recipe is found that has not been run."""


@dataclass(frozen=True)
class StudySettings:
    """Settings of a study."""

    space: Space
    objectives: Mapping[str, Literal["maximize", "minimize"]]
    """Metric → "maximize" or "minimize"."""
    violations: Callable[[Record], Mapping[str, float]]
    """Function of a record: constraint → by how much it is broken; 0 or less is feasible."""
    sampler: Sampler
    seed: int
    """Seed of the sampler."""
    normal: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    """Function that fills in every field of a drawn recipe, as records have it."""
    fixed: Sequence[tuple[Mapping[str, Any], str]]
    """(recipe, origin) of the first trials, the baselines first; their numbers count from 0."""
    earlier: Sequence[Mapping[str, Any]] = ()
    """Points of the space that were on the front of another sweep, to be tried before the space's own first points."""
    paused: Collection[int] = ()
    """Trials that were paused, and are not to go on by themselves."""
    siblings: int = 0
    """Siblings that are tried of each trial on the front whose recipe trains."""
    view: Callable[[Record], Record] = lambda record: record
    """Function of a record as read from disk: the record with the metrics of all objectives."""
    targets: Sequence[Sequence[str]] = ()
    """Objectives of each target that has some of its own; empty for one target."""
    trains: Callable[[Mapping[str, Any]], bool] = lambda _: False
    """Whether a recipe trains."""
