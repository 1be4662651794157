"""Confirm a sweep's winner: carry out its recipe with other seeds and ease it until the mean loss is allowed.

The fastest of many trials that just pass on ``val`` is partly lucky. The recipe is therefore chosen on ``val`` by the
mean of several seeds; ``test`` is evaluated once, at the end.
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
from paretune.core.baselines import BASELINES, EAGER
from paretune.core.errors import UserError, one_line
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
from paretune.results.front_summary import comparison_of, front_of, recorded, records_of
from paretune.results.sweep_folder import Sweep
from paretune.search.latency_scale import LATENCY
from paretune.workflows.accuracy_change import DECIDES, Reference
from paretune.workflows.compare_front import FrontComparison, artefacts_on, compare_front
from paretune.workflows.optimize import ACCURACY, OptimizationOptions, optimize
from paretune.workflows.recipe_source import RecipeImages, read_source
from paretune.workflows.trial_context import context_of

EASE = 0.05
"""Step by which a pruning ratio is lowered."""
LEAST_CUT = 0.05
"""Smallest pruning ratio that is tried."""
DROP = 0.01
"""Allowed loss if neither the user nor the job gives one."""
Progress = Callable[[str], None]


@dataclass(frozen=True)
class ConfirmationTools:
    """The functions that make, evaluate and compare artefacts."""

    repeat: Callable[[Mapping[str, Any], int, Path], float]
    """(recipe, seed, folder of the artefact) → loss on ``val``; an artefact that exists is used again."""
    compare: Callable[[Mapping[int, str]], dict[str, Any]]
    """Number → artefact's folder relative to the sweep's → what ``compare_front`` returns, or a ``reason``."""


def confirmation_request(
    sweep: Sweep, *, trial: int | None = None, seeds: int = 3, max_drop: float | None = None, metric: str = "map"
) -> ConfirmationRequest:
    """Return the checked request for a finished sweep.

    Args:
        sweep: found by ``find_sweep``, as the target has it for which the recipe is confirmed (`Sweep.on`).
        trial: number of the trial whose recipe is confirmed; None takes the best of the front.
        seeds: number of seeds to carry it out with.
        max_drop: largest allowed mean loss, 0 to 1; None takes the job's constraint, else ``DROP``.
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
    if sweep.job.target.elsewhere:
        place = f"measured on a node with {sweep.job.target.node}"
        raise UserError(f"--target {sweep.job.target_name}: it is {place}, and confirm measures on this machine")
    if not 0 <= max_drop <= 1:
        raise UserError(f"--max-drop {max_drop:g}: expected 0 to 1, in {metric}: 0.01 is one point")
    first = sweep.job.search.seed + 1
    return ConfirmationRequest(_chosen_trial(sweep, trial), tuple(range(first, first + seeds)), metric, max_drop)


def _chosen_trial(sweep: Sweep, number: int | None) -> int:
    """Return the number of a complete trial of a finished sweep, by default the best of its front.

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
    if (reason := records[number].stop_reason) is not None:
        raise UserError(f"--trial {number}: it was stopped early: {reason}")
    if records[number].state != "complete":
        raise UserError(f"--trial {number}: it failed: {records[number].failure}")
    if records[number].targets and "duet" not in records[number].facts:
        why = records[number].reasons.get(LATENCY, "it was not measured")
        raise UserError(f"--trial {number}: target {sweep.job.target_name!r} cannot run it: {why}")
    return number


def confirm(
    sweep: Sweep,
    asked: ConfirmationRequest,
    progress: Progress = lambda _: None,
    tools: ConfirmationTools | None = None,
) -> Confirmation:
    """Carry out a trial's recipe with several seeds, ease it until their mean holds on ``val``, and claim on ``test``.

    Artefacts of an earlier run are used again, so an interrupted confirmation continues.

    Args:
        sweep: finished.
        asked: made by ``confirmation_request``.
        progress: called with a line for each recipe, step and epoch.
        tools: the functions to use; None takes ``tools_of`` the sweep.

    Returns:
        The confirmation, which is also written into the sweep's folder.

    Raises:
        UserError: another process works on the sweep, or a seed's artefact cannot be made.
    """
    with sweep.lock():
        before = read_confirmation(sweep)
        if before is not None and before.asked == asked and "reason" not in before.comparison:
            return before
        tools = tools or tools_of(sweep, asked, progress)
        tried: list[RepeatedRecipe] = []

        def repeated(recipe: Mapping[str, Any]) -> float:
            folder = f"{sweep.of_target(FOLDER)}/{fingerprint(recipe)}"
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
        confirmation = Confirmation(asked, tuple(tried), chosen, tools.compare(artefacts))
        write_confirmation(sweep, confirmation)
        return confirmation


def settle_cut(
    recipe: Mapping[str, Any],
    lost: Callable[[Mapping[str, Any]], float],
    allowed: float,
    least: float = LEAST_CUT,
) -> Mapping[str, Any]:
    """Return the recipe with its pruning ratio lowered until the mean loss is allowed.

    The ratio is lowered in steps of ``EASE``; once the loss is allowed, half of the last step is taken back if it stays
    allowed.

    Args:
        recipe: as in a record.
        lost: recipe → mean loss of its repetitions; called once for each recipe that is tried.
        allowed: largest allowed loss.
        least: smallest ratio that is tried.

    Returns:
        The eased recipe, or the mildest one tried if all of them lose too much.
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
    """Return the pruning ratio of a recipe, or None without pruning."""
    return next((float(step["prune"]["ratio"]) for step in recipe["steps"] if "prune" in step), None)


def with_cut(recipe: Mapping[str, Any], ratio: float) -> dict[str, Any]:
    """Return a copy of a recipe with another pruning ratio."""
    changed = copy.deepcopy(dict(recipe))
    pruning = next(step["prune"] for step in changed["steps"] if "prune" in step)
    pruning["ratio"] = round(ratio, 3)
    return changed


def tools_of(sweep: Sweep, asked: ConfirmationRequest, progress: Progress) -> ConfirmationTools:
    """Return the functions that work with the baseline, dataset, training, target and measuring of a sweep.

    Raises:
        UserError: the eager baseline has no artefact.
    """
    job = sweep.job
    source = read_source(sweep.baseline)
    images = RecipeImages(job.dataset, sweep.cache, job.training)
    artefacts = artefacts_on(recorded(sweep))
    if EAGER not in artefacts:
        raise UserError(f"sweep {sweep.name!r}: trial 0, the eager baseline, has no artefact to compare with")
    reference = Reference(
        lambda: ("the eager baseline", _loaded(sweep.folder / artefacts[EAGER], sweep)),
        sweep.folder / sweep.of_target(FOLDER) / "eager",
        job.thresholds.thresholds.limit,
    )

    def repeat(recipe: Mapping[str, Any], seed: int, folder: Path) -> float:
        if not (folder / ACCURACY).is_file():
            shutil.rmtree(folder, ignore_errors=True)  # made, and stopped before it was evaluated
            options = OptimizationOptions(seed, job.target, against=reference, splits=(DECIDES,))
            optimize(source, Recipe.model_validate(recipe), images, folder, options, progress)
        return lost_in(folder, asked.metric)

    def compare(made: Mapping[int, str]) -> dict[str, Any]:
        context = context_of(Sweep(sweep.runs.resolve(), sweep.name)).on(job.target_name)
        baselines = {number: artefacts[number] for number in range(len(BASELINES)) if number in artefacts}
        inside = {number: f"../{folder}" for number, folder in {**baselines, **made}.items()}
        finalists = FrontComparison(inside, reference=max(baselines), seen=())
        (place := context.folder / sweep.of_target(FOLDER)).mkdir(exist_ok=True)
        try:
            return compare_front(replace(context, folder=place), finalists)
        except (RuntimeError, UserError) as error:  # the artefacts and their losses stay; the next run measures again
            return {"reason": one_line(error), "trials": {}}

    return ConfirmationTools(repeat, compare)


def lost_in(artefact: Path, metric: str) -> float:
    """Return the loss of a metric on ``val`` that was measured when the artefact was made.

    Raises:
        UserError: the artefact was not evaluated; with the reason.
    """
    accuracy = json.loads((artefact / ACCURACY).read_text())
    evaluated = accuracy["splits"].get(DECIDES)
    change = None if evaluated is None else change_in(evaluated["change"], metric)
    if change is None:
        why = accuracy["unknown"].get(DECIDES, "no reason is known")
        raise UserError(f"{artefact}: its accuracy on {DECIDES} is not known: {why}")
    return -change[1]


def _loaded(folder: Path, sweep: Sweep) -> Any:
    from paretune.runtimes.predictor import load_predictor

    return load_predictor(folder, sweep.job.target)
