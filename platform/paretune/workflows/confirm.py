"""Whether a sweep's winner was lucky: its recipe carried out again with other seeds, and eased until it holds.

The fastest of many trials that just pass on ``val`` owes that partly to luck. What is chosen here is chosen on ``val``
by the mean of several seeds; ``test`` is looked at once, at the end.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from paretune.config.recipe import Recipe
from paretune.core.baselines import BASELINES
from paretune.core.errors import UserError
from paretune.core.metrics import CHANGED, change_in
from paretune.core.recipe_text import recipe_line
from paretune.core.spec import fingerprint
from paretune.results.confirmation import (
    FOLDER,
    SLACK,
    Confirmation,
    ConfirmationRequest,
    RepeatedRecipe,
    numbers,
    read_confirmation,
    write_confirmation,
)
from paretune.results.front_summary import comparison_of, front_of, records_of
from paretune.results.sweep_folder import Sweep
from paretune.workflows.accuracy_change import DECIDES, Reference
from paretune.workflows.compare_front import FrontComparison, compare_front
from paretune.workflows.front_comparison import context_of
from paretune.workflows.optimize import ACCURACY, OptimizationOptions, optimize
from paretune.workflows.recipe_source import RecipeImages, read_source

EASE = 0.05
"""Step by which the ratio of a pruning that loses too much is lowered; half of it is tried back in the end."""
LEAST_CUT = 0.05
"""Ratio below which no pruning is tried."""
DROP = 0.01
"""Loss that is allowed where neither the user nor the sweep's job gives one."""
Progress = Callable[[str], None]


@dataclass(frozen=True)
class ConfirmationTools:
    """What does the work."""

    repeat: Callable[[Mapping[str, Any], int, Path], float]
    """(recipe, seed, folder of the artefact) → what was lost on ``val``; an artefact that is there is used."""
    compare: Callable[[Mapping[int, str]], dict[str, Any]]
    """Number → artefact's folder relative to the sweep's → what ``compare_front`` returns, or a ``reason``."""


def confirmation_request(
    sweep: Sweep, *, trial: int | None = None, seeds: int = 3, max_drop: float | None = None, metric: str = "map"
) -> ConfirmationRequest:
    """Return what is to be confirmed of a finished sweep.

    Args:
        sweep: found by ``find_sweep``.
        trial: whose recipe; None takes the one that the front calls best.
        seeds: how often it is carried out.
        max_drop: the most that the mean may lose; None takes what the job's constraint allows, or a point.
        metric: one of ``CHANGED``.

    Raises:
        UserError: the sweep has no finished front, or no such trial, or a number is out of its range.
    """
    if seeds < 1:
        raise UserError(f"--seeds {seeds}: expected at least 1")
    if metric not in CHANGED:
        raise UserError(f"--metric {metric}: expected {' or '.join(CHANGED)}")
    if max_drop is None:
        constraint = sweep.job.constraints.get(metric)
        max_drop = DROP if constraint is None or constraint.max_drop is None else constraint.max_drop
    if not 0 <= max_drop <= 1:
        raise UserError(f"--max-drop {max_drop:g}: expected 0 to 1, in {metric}: 0.01 is one point")
    first = sweep.job.search.seed + 1
    return ConfirmationRequest(_chosen_trial(sweep, trial), tuple(range(first, first + seeds)), metric, max_drop)


def _chosen_trial(sweep: Sweep, number: int | None) -> int:
    """Return the trial of a finished sweep that is asked for, by default the one that its front calls best.

    Raises:
        UserError: there is no finished front, nothing on it, or no such trial that is complete.
    """
    comparison = comparison_of(sweep)
    if not sweep.finished or comparison is None or "reason" in comparison:
        raise UserError(f"sweep {sweep.name!r} has no finished front yet; to go on: {sweep.command('resume')}")
    records = {record.number: record for record in records_of(sweep)}
    if number is None:
        best = front_of(sweep, list(records.values()))["best"]
        if best is None:
            raise UserError(f"sweep {sweep.name!r}: no trial keeps the constraints; name one with --trial N")
        return int(best["trial"])
    if number not in records:
        raise UserError(f"--trial {number}: sweep {sweep.name!r} has trials 0 to {max(records)}")
    if records[number].state != "complete":
        raise UserError(f"--trial {number}: it failed: {records[number].failure}")
    return number


def confirm(
    sweep: Sweep,
    asked: ConfirmationRequest,
    progress: Progress = lambda _: None,
    tools: ConfirmationTools | None = None,
) -> Confirmation:
    """Carry out a trial's recipe with several seeds, ease it until their mean holds on ``val``, and claim on ``test``.

    Artefacts that an earlier run has made are used, so that what was interrupted goes on.

    Args:
        sweep: finished.
        asked: made by ``confirmation_request``.
        progress: called with a line for each recipe, step and epoch.
        tools: what does the work; None for what a sweep does it with.

    Returns:
        What was confirmed; it is in the sweep's folder too.

    Raises:
        UserError: somebody else works on the sweep, or the recipe cannot be carried out with one of the seeds.
    """
    with sweep.lock():
        before = read_confirmation(sweep)
        if before is not None and before.asked == asked and "reason" not in before.comparison:
            return before
        tools = tools or tools_of(sweep, asked, progress)
        tried: list[RepeatedRecipe] = []

        def repeated(recipe: Mapping[str, Any]) -> float:
            folder = f"{FOLDER}/{fingerprint(recipe)}"
            progress(f"{recipe_line(recipe)}, {len(asked.seeds)} seeds")
            lost = {seed: tools.repeat(recipe, seed, sweep.folder / folder / f"seed-{seed}") for seed in asked.seeds}
            tried.append(RepeatedRecipe(recipe, folder, lost))
            each = ", ".join(f"{value:.4f}" for value in lost.values())
            progress(f"lost of {asked.metric} on {DECIDES}: {each}, mean {tried[-1].mean_lost:.4f}")
            return tried[-1].mean_lost

        recipe = next(record.recipe for record in records_of(sweep) if record.number == asked.trial)
        settled = settle_cut(recipe, repeated, asked.max_drop)
        chosen = next(index for index, one in enumerate(tried) if one.recipe == settled)
        artefacts = {number: tried[chosen].artefact(seed) for seed, number in numbers(asked.seeds).items()}
        progress("comparing with the baselines, interleaved in one run; evaluating on test")
        found = Confirmation(asked, tuple(tried), chosen, tools.compare(artefacts))
        write_confirmation(sweep, found)
        return found


def settle_cut(
    recipe: Mapping[str, Any],
    lost: Callable[[Mapping[str, Any]], float],
    allowed: float,
    least: float = LEAST_CUT,
) -> Mapping[str, Any]:
    """Return a recipe with so much less pruned away that no more is lost than is allowed.

    The ratio is lowered step by step; where that helped, half of the last step is tried back.

    Args:
        recipe: as in a record.
        lost: recipe → what its repetitions lose on average; called once for each recipe that is tried.
        allowed: the most that may be lost.
        least: ratio below which no pruning is tried.

    Returns:
        The recipe; the mildest that was tried where every one loses too much.
    """
    now, eased = lost(recipe), False
    while now > allowed + SLACK:
        ratio = cut_of(recipe)
        if ratio is None or ratio - EASE < least - SLACK:
            return recipe
        recipe, eased = with_cut(recipe, ratio - EASE), True
        now = lost(recipe)
    if not eased:
        return recipe
    deeper = with_cut(recipe, (cut_of(recipe) or 0) + EASE / 2)
    return deeper if lost(deeper) <= allowed + SLACK else recipe


def cut_of(recipe: Mapping[str, Any]) -> float | None:
    """Return the ratio of a recipe's pruning; None where nothing is pruned."""
    return next((float(step["prune"]["ratio"]) for step in recipe["steps"] if "prune" in step), None)


def with_cut(recipe: Mapping[str, Any], ratio: float) -> dict[str, Any]:
    """Return a recipe whose pruning has another ratio."""
    changed = copy.deepcopy(dict(recipe))
    pruning = next(step["prune"] for step in changed["steps"] if "prune" in step)
    pruning["ratio"] = round(ratio, 3)
    return changed


def tools_of(sweep: Sweep, asked: ConfirmationRequest, progress: Progress) -> ConfirmationTools:
    """Return what a sweep is confirmed with: its own baseline, dataset, training, target and measuring.

    Raises:
        UserError: its eager baseline has no artefact any more.
    """
    job = sweep.job
    source = read_source(sweep.baseline)
    images = RecipeImages(job.dataset, sweep.cache, job.training)
    artefacts = {record.number: record.artefact for record in records_of(sweep) if record.artefact is not None}
    if 0 not in artefacts:
        raise UserError(f"sweep {sweep.name!r}: trial 0, the eager baseline, has no artefact to compare with")
    reference = Reference(
        lambda: ("the eager baseline", _loaded(sweep.folder / artefacts[0], sweep)),
        sweep.folder / FOLDER / "eager",
        job.thresholds.thresholds.limit,
    )

    def repeat(recipe: Mapping[str, Any], seed: int, folder: Path) -> float:
        if not (folder / ACCURACY).is_file():
            shutil.rmtree(folder, ignore_errors=True)  # made, and stopped before it was evaluated
            options = OptimizationOptions(seed, job.target, against=reference, splits=(DECIDES,))
            optimize(source, Recipe.model_validate(recipe), images, folder, options, progress)
        return lost_in(folder, asked.metric)

    def compare(made: Mapping[int, str]) -> dict[str, Any]:
        bench = context_of(Sweep(sweep.runs.resolve(), sweep.name))
        baselines = {number: artefacts[number] for number in range(len(BASELINES)) if number in artefacts}
        inside = {number: f"../{folder}" for number, folder in {**baselines, **made}.items()}
        finalists = FrontComparison(inside, reference=max(baselines), seen=())
        (place := bench.folder / FOLDER).mkdir(exist_ok=True)
        try:
            return compare_front(replace(bench, folder=place), finalists)
        except (RuntimeError, UserError) as error:  # the artefacts and their losses stay; the next run measures again
            return {"reason": " ".join(str(error).split()), "trials": {}}

    return ConfirmationTools(repeat, compare)


def lost_in(artefact: Path, metric: str) -> float:
    """Return what an artefact has lost of a metric on ``val``, as it was evaluated when it was made.

    Raises:
        UserError: nothing was evaluated; says why.
    """
    told = json.loads((artefact / ACCURACY).read_text())
    found = told["splits"].get(DECIDES)
    change = None if found is None else change_in(found["change"], metric)
    if change is None:
        why = told["unknown"].get(DECIDES, "no reason is known")
        raise UserError(f"{artefact}: its accuracy on {DECIDES} is not known: {why}")
    return -change[1]


def _loaded(folder: Path, sweep: Sweep) -> Any:
    from paretune.runtimes.predictor import load_predictor

    return load_predictor(folder, sweep.job.target)
