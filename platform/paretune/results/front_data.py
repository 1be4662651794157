"""The data of a sweep's page and report, read from its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from paretune.core.baselines import BASELINES
from paretune.core.types import LeftOut
from paretune.data.left_out import left_out_line
from paretune.evaluation.worst_images import PICTURES
from paretune.results.front_summary import advice_of, comparison_of, front_of, records_of
from paretune.results.knob_importance import importance_of, importance_tree
from paretune.results.page_data import SweepState, TargetResults, page_data
from paretune.results.search_budget import budget_text, busy_seconds
from paretune.results.study_place import database_of
from paretune.results.sweep_folder import Sweep
from paretune.storage.atomic_files import write_text
from paretune.storage.trial_record import Record, trial_folder
from paretune.training.history import read_history

MOST_RANKED = 2000
"""Most trials for which the page holds the importance of knobs; that of 600 takes 10 s or more."""
MORE = 1.5
"""Growth of the number of trials after which the importance of an unfinished sweep is computed again."""


@dataclass(frozen=True)
class SweepView:
    """A sweep on disk as one of its targets has it."""

    sweep: Sweep
    front: Mapping[str, Any]
    """Result of ``front_summary.front_of``."""
    records: Sequence[Record]
    """Records of all trials, on one scale (`front_summary.records_of`)."""


def views_of(sweep: Sweep) -> list[SweepView]:
    """Return a sweep as each of its targets has it, the first one before the others."""
    views = []
    for one in sweep.each_target():
        records = records_of(one)
        views.append(SweepView(one, front_of(one, records), records))
    return views


def data_of(views: Sequence[SweepView]) -> dict[str, Any]:
    """Return the tree of a sweep on disk.

    Args:
        views: the sweep on each of its targets, first on the one whose page is made.
    """
    sweep, records = views[0].sweep, views[0].records
    importance = kept_importance(sweep, len(records))
    advice = [one.tree() for one in advice_of(sweep)]
    results = [results_of(view) for view in views]
    pictures = pictures_of(sweep, [view.front for view in views])
    return page_data(state_of(sweep, records), results, advice=advice, importance=importance, pictures=pictures)


def pictures_of(sweep: Sweep, fronts: Sequence[Mapping[str, Any]]) -> dict[int, Mapping[str, Any]]:
    """Return trial → pictures of its worst images, for the recommended trials, both baselines and the other front ones.

    Trials that kept none, such as those of older versions, are left out.
    """
    best = [front["best"]["trial"] for front in fronts if front["best"] is not None]
    chosen = dict.fromkeys(
        [*best, *range(len(BASELINES)), *(one["trial"] for front in fronts for one in front["front"])]
    )
    found = {}
    for number in chosen:
        with suppress(OSError, ValueError):
            found[number] = json.loads((trial_folder(sweep.folder, number) / PICTURES).read_text())
    return found


def kept_importance(sweep: Sweep, trials: int) -> list[dict[str, Any]]:
    """Return the importance of every knob from ``front/importance.json``, computed again if that is out of date.

    Args:
        sweep: whose knobs.
        trials: number of its trials. At the end of a sweep the importance is that of all trials; before, it is
            computed again only when there are half as many trials more, since it takes seconds.
    """
    file = sweep.folder / sweep.of_target("front") / "importance.json"
    kept: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        kept = json.loads(file.read_text())
    known = kept.get("trials", 0)
    if known == trials or (known and trials < MORE * known and not sweep.finished):
        return list(kept.get("knobs", ()))
    if trials > MOST_RANKED or not database_of(sweep).is_there:
        return list(kept.get("knobs", ()))
    knobs = importance_tree(importance_of(sweep))
    write_text(file, json.dumps({"trials": trials, "knobs": knobs}, indent=1))
    return knobs


def results_of(view: SweepView) -> TargetResults:
    """Return the results of a sweep on one target."""
    sweep, front, records = view.sweep, view.front, view.records
    return TargetResults(
        name=front["target"],
        description=str(sweep.job.target),
        records=records,
        front=front,
        comparison=comparison_of(sweep),
        floors=sweep.floors,
        ceilings=sweep.ceilings,
        violations={record.number: sweep.violations(record) for record in records if record.state == "complete"},
    )


def state_of(sweep: Sweep, records: Sequence[Record]) -> SweepState:
    """Return the facts of a sweep that are not in its records."""
    job = sweep.whole_job
    epochs = read_history(sweep.baseline).get("epochs") or []
    left_out = left_out_line([LeftOut(**entry) for entry in sweep.left_out])
    return SweepState(
        name=sweep.name,
        created=float(sweep.facts["created"]),
        finished=sweep.finished,
        ended=sweep.ended,
        planned=job.search.trials,
        about={
            "dataset": _words(job.tree()["dataset"]),
            "detector": _words(job.tree()["detector"]),
            "input size": str(job.input_size),
            "objectives": ", ".join(f"{direction} {metric}" for metric, direction in job.objectives.items()),
            "constraints": "; ".join(f"{metric} {limit}" for metric, limit in job.constraints.items()) or "none",
            "budget": budget_text(job.search),
            "sampler": _words(job.tree()["search"]["sampler"]),
            "knobs": ", ".join(sweep.space.parameters) if (sweep.folder / "space.yaml").is_file() else "unknown",
            "Paretune": str(sweep.facts.get("paretune", "unknown")),
        },
        training_seconds=sum(float(epoch.get("seconds", 0.0)) for epoch in epochs),
        clock_seconds=busy_seconds(records),
        notes=(left_out,) if left_out else (),
    )


def _words(tree: Mapping[str, Any] | str) -> str:
    """Return a plug-in and its fields as text, such as ``yolo (variant nano, width 0.125)``."""
    if isinstance(tree, str):
        return tree
    name, fields = next(iter(tree.items()))
    texts = [f"{key} {value}" for key, value in (fields or {}).items() if value not in (None, [], {})]
    return f"{name} ({', '.join(texts)})" if texts else str(name)
