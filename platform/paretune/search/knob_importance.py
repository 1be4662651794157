"""Importance of every parameter of a search space for the results of a sweep."""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from paretune.core.counts import counted
from paretune.core.metrics import Direction
from paretune.search.study_database import StudyDatabase
from paretune.search.study_file import NUMBER

if TYPE_CHECKING:
    import optuna

    from paretune.storage.trial_record import Record

FRONT = "front"
"""Name of the importance for all objectives together: for being among the least dominated trials."""
LEAST_ACTIVE = 8
"""Fewest complete trials with a value of a parameter for which an importance is computed."""
TOP_SHARE, TOP_TRIALS = 0.25, 5
"""Best trials that PED-ANOVA compares with all trials: this share, but at least that number if it is at most half."""
SHUFFLES = 40
"""Number of random reassignments of results to trials, from which the importance by chance is known."""


@dataclass(frozen=True)
class KnobImportance:
    """Importance of one parameter of a search space."""

    knob: str
    active: int
    """Number of complete trials in which the parameter had a value."""
    shares: Mapping[str, float] | None
    """``front`` or an objective → share of the importance of all known parameters, 0 to 1; None if unknown."""
    above_chance: Mapping[str, bool] | None
    """``front`` or an objective → whether the importance exceeds that of 95 % of shuffled results; None if unknown."""
    reason: str | None = None
    """Why the importance is not known."""


def knob_importance(
    database: StudyDatabase,
    objectives: Mapping[str, Direction],
    records: Sequence[Record],
    parameters: Sequence[str] = (),
) -> list[KnobImportance]:
    """Return the importance of every parameter, the most important for the front first, unknown ones last.

    The method is conditional PED-ANOVA (Watanabe et al., arXiv:2304.10255; extended to conditional parameters in
    arXiv:2601.20800): how far the distribution of a parameter's values among the best trials differs from that among
    all trials. For a single objective the best trials are those with the best values; for the front they are the least
    dominated ones. Baselines and recipes from outside the space are not counted.

    Args:
        database: of the study.
        objectives: metric → direction.
        records: of all trials, with their latencies on one scale.
        parameters: names of all parameters of the space, also of those that no trial used.
    """
    trials = _scored(database, objectives, records)
    seen = [parameter for trial in trials for parameter in trial.distributions]
    counted = {parameter: seen.count(parameter) for parameter in dict.fromkeys([*parameters, *seen])}
    known = [parameter for parameter, active in counted.items() if active >= LEAST_ACTIVE]
    values = [list(trial.values) for trial in trials]
    measured = _divergences(trials, values, objectives, known)
    chance = _by_chance(trials, values, objectives, known)
    knobs = []
    for parameter, active in counted.items():
        if parameter not in known:
            knobs.append(KnobImportance(parameter, active, None, None, _too_few(active)))
            continue
        shares = {aim: row[parameter] / (sum(row.values()) or 1.0) for aim, row in measured.items()}
        above = {aim: row[parameter] > chance[aim][parameter] for aim, row in measured.items()}
        knobs.append(KnobImportance(parameter, active, shares, above))
    return sorted(knobs, key=lambda one: (one.shares is None, -(one.shares or {}).get(FRONT, 0.0), one.knob))


def _too_few(active: int) -> str:
    """Return why the importance of a parameter is not known."""
    count = "no complete trial" if not active else counted(active, "complete trial")
    return f"active in {count}; {LEAST_ACTIVE} are needed"


def _scored(
    database: StudyDatabase, objectives: Mapping[str, Direction], records: Sequence[Record]
) -> list[optuna.trial.FrozenTrial]:
    """Return the study's trials whose records are complete, with the records' values."""
    import optuna

    complete = {record.number: record.metrics for record in records if record.state == "complete"}
    trials = []
    for frozen in database.trials():
        metrics = complete.get(frozen.user_attrs.get(NUMBER, -1), {})
        values = [metrics.get(metric, math.nan) for metric in objectives]
        if all(map(math.isfinite, values)):
            trials.append(
                optuna.trial.create_trial(params=frozen.params, distributions=frozen.distributions, values=values)
            )
    return trials


def _divergences(
    trials: Sequence[optuna.trial.FrozenTrial],
    values: Sequence[Sequence[float]],
    objectives: Mapping[str, Direction],
    known: Sequence[str],
) -> dict[str, dict[str, float]]:
    """Return ``front`` or objective → parameter → divergence of its values among the best trials from all trials.

    Args:
        trials: with the parameters.
        values: of the objectives, a row for each trial.
        objectives: metric → direction.
        known: parameters with enough trials.
    """
    import optuna

    if not known:
        return {}
    study = optuna.create_study(directions=list(objectives.values()))
    study.add_trials(
        optuna.trial.create_trial(params=trial.params, distributions=trial.distributions, values=list(row))
        for trial, row in zip(trials, values, strict=True)
    )
    quantile = min(0.5, max(TOP_SHARE, TOP_TRIALS / len(trials)))
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=quantile)
    divergences = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # hints on small studies, which this module handles
        divergences[FRONT] = evaluator.evaluate(study, list(known))
        for place, (metric, direction) in enumerate(objectives.items()):
            target = _lower_is_better(place, -1.0 if direction == "maximize" else 1.0)
            divergences[metric] = evaluator.evaluate(study, list(known), target=target)
    return divergences


def _lower_is_better(place: int, sign: float) -> Callable[[optuna.trial.FrozenTrial], float]:
    """Return a function that reads one objective of a trial so that lower values are better."""
    return lambda trial: sign * trial.values[place]


def _by_chance(
    trials: Sequence[optuna.trial.FrozenTrial],
    values: Sequence[Sequence[float]],
    objectives: Mapping[str, Direction],
    known: Sequence[str],
) -> dict[str, dict[str, float]]:
    """Return ``front`` or objective → parameter → divergence that 95 % of shuffled results stay below."""
    shuffler, shuffled = random.Random(0), list[dict[str, dict[str, float]]]()
    for _ in range(SHUFFLES if known else 0):
        rows = list(values)
        shuffler.shuffle(rows)
        shuffled.append(_divergences(trials, rows, objectives, known))
    return {
        aim: {
            parameter: sorted(one[aim][parameter] for one in shuffled)[math.ceil(0.95 * SHUFFLES) - 1]
            for parameter in known
        }
        for aim in (FRONT, *objectives)
        if shuffled
    }
