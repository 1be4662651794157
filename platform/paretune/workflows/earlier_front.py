"""The front of an earlier sweep as the first trials of a new one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from paretune.config.job import Job
from paretune.config.output_folder import SWEEP_FILE
from paretune.config.recipe import Recipe, present_names
from paretune.core.errors import UserError
from paretune.results.front_summary import front_of, judge_of, records_of
from paretune.results.study_place import database_of
from paretune.results.sweep_folder import Sweep, find_sweep
from paretune.search.recipe_point import by_expected_gain, point_of
from paretune.search.study_file import points_in
from paretune.workflows.sweep_identity import KEY

AUTO, NONE = "auto", "none"
FACT = "earlier"
"""Key of the sweep's file that holds the points."""
SHARE = 1 / 3
"""Largest share of a sweep's trials that an earlier front takes."""


@dataclass(frozen=True)
class EarlierFront:
    """Points of a space that were on the front of another sweep."""

    sweep: str
    """Name of the other sweep."""
    points: Sequence[Mapping[str, Any]]
    """Points of the space, that of the largest expected gain first."""
    gains: Sequence[float | None]
    """Hypervolume that each point is expected to add to those before it, by the figures of the other sweep."""
    left_out: int
    """Versions on the other front that do not lie in the space, or that the job cannot carry out."""


def earlier_points(sweep: Sweep, say: Callable[[str], None]) -> Sequence[Mapping[str, Any]]:
    """Return the points that a sweep takes from an earlier one, print where they come from, and record them.

    A resumed sweep has the points that it began with.

    Args:
        sweep: whose lock is held.
        say: prints a line.

    Raises:
        UserError: the job names a sweep that does not exist, is not finished, or has another detector or other classes.
    """
    if FACT in sweep.facts:
        known: Mapping[str, Any] | None = sweep.facts[FACT]
        return [] if known is None else list(known["points"])
    front = earlier_front(sweep) if not _searched(sweep) else None
    sweep.note(**{FACT: None if front is None else asdict(front)})
    if front is None:
        return []
    gains = ", ".join("?" if gain is None else f"{gain:.3f}" for gain in front.gains)
    rest = f"; {front.left_out} of it do not fit this space" if front.left_out else ""
    say(
        f"first trials: {len(front.points)} from the front of sweep {front.sweep!r}, each expected to add "
        f"{gains} to the hypervolume{rest} (search.earlier: none begins without them)"
    )
    return front.points


def _searched(sweep: Sweep) -> bool:
    """Return whether a sweep has trials from its space, from a version that took nothing from other sweeps."""
    return database_of(sweep).is_there


def earlier_front(sweep: Sweep) -> EarlierFront | None:
    """Return the front from which a sweep begins; None without one.

    Of all finished sweeps with the classes and detector of this one the one is taken of whose front most versions lie
    in the space, and of these the newest.

    Raises:
        UserError: the job names a sweep that does not exist, is not finished, or has another detector or other classes.
    """
    named = sweep.job.search.earlier
    if named == NONE:
        return None
    if named != AUTO:
        other = find_sweep(sweep.runs, named)
        if (reason := _unlike(other, sweep)) is not None:
            raise UserError(f"search.earlier: sweep {named!r} {reason}")
        return _front(other, sweep)
    candidates: list[tuple[int, float, EarlierFront]] = []
    for file in sorted(sweep.runs.glob(f"*/{SWEEP_FILE}")):
        other = Sweep(sweep.runs, file.parent.name)
        try:
            if _unlike(other, sweep) is None and (front := _front(other, sweep)) is not None:
                candidates.append((len(front.points), other.facts["created"], front))
        except (UserError, OSError, KeyError, TypeError, ValueError):
            continue  # a sweep that this version cannot read
    return max(candidates, key=lambda one: one[:2])[2] if candidates else None


def _unlike(other: Sweep, sweep: Sweep) -> str | None:
    """Return why a sweep's front says nothing for another sweep; None if it does."""
    if other.name == sweep.name or not other.finished:
        return "is not finished"
    if other.job.detector.tree() != sweep.job.detector.tree():
        return "has another detector"
    if _classes(other) is None or _classes(other) != _classes(sweep):
        return "has other classes, or its classes are not known"
    return None


def _classes(sweep: Sweep) -> Sequence[str] | None:
    """Return the classes of a sweep's data, as recorded when it began."""
    data: Mapping[str, Any] = (sweep.facts.get(KEY) or {}).get("data") or {}
    return data.get("classes")


def _front(other: Sweep, sweep: Sweep) -> EarlierFront | None:
    """Return the front of one sweep in the space of another; None if no version of it lies there."""
    records = {record.number: record for record in records_of(other)}
    shown = front_of(other, list(records.values()))
    front = [records[point["trial"]] for point in shown["front"]]
    front = [record for record in front if record.origin != "baseline"]
    known, points = (
        points_in(database_of(other)),
        list[tuple[Mapping[str, Any], Mapping[str, Any]]](),
    )
    for record in front:
        point = _fitting(sweep, present_names(record.recipe), known.get(record.number, {}))
        if point is not None:
            points.append((point, record.metrics))
    if not points:
        return None
    base = dict((shown["baseline"] or {}).get("metrics", {}))
    order = by_expected_gain([metrics for _, metrics in points], judge_of(other).objectives, base)
    order = order[: max(1, int(SHARE * sweep.job.search.trials))]
    chosen = [points[index][0] for index, _ in order]
    return EarlierFront(other.name, chosen, [gain for _, gain in order], len(front) - len(points))


def _fitting(sweep: Sweep, recipe: Mapping[str, Any], hints: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the point of a sweep's space with a recipe that its job can carry out; None if there is none."""
    job: Job = sweep.job

    def normal(raw: Mapping[str, Any]) -> Mapping[str, Any]:
        return Recipe.model_validate(raw).tree()

    if job.recipe_unsupported_reason(Recipe.model_validate(recipe)) is not None:
        return None
    return point_of(sweep.space, recipe, normal, hints)
