"""Choice of the trials that are compared at the end of a sweep, and their comparison on the target."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import chain
from typing import Any

from paretune.core.baselines import EAGER, ONNXRUNTIME
from paretune.core.errors import UserError, one_line
from paretune.results.advice_outcomes import pairs
from paretune.results.front_summary import judge_of
from paretune.results.sweep_folder import Sweep
from paretune.search.latency_scale import on_one_scale
from paretune.search.pareto_front import contenders
from paretune.storage.atomic_files import write_text
from paretune.storage.trial_record import read_records
from paretune.workflows.compare_front import FrontComparison, compare_front
from paretune.workflows.sweep_reporter import SweepReporter
from paretune.workflows.trial_context import TrialContext

MOST_CONTENDERS = 20
"""Most trials, without the baselines, in a comparison: all of them are in memory at once."""
MeasureFront = Callable[[TrialContext, FrontComparison], dict[str, Any]]
"""Measures the front, as ``compare_front`` does."""


def context_of(sweep: Sweep) -> TrialContext:
    """Open and return what the trials of a sweep share."""
    return TrialContext(sweep.job, sweep.job.dataset.open(sweep.cache), sweep.folder, sweep.baseline)


def compare(
    sweep: Sweep, reporter: SweepReporter, address: str | None = None, measure: MeasureFront = compare_front
) -> None:
    """Measure every trial that may be on the front, interleaved with the baselines; a failure becomes its reason.

    Args:
        sweep: all of whose trials are done.
        reporter: prints what is compared.
        address: of the Ray cluster on whose node it is measured; None measures in this process.
        measure: measures the front.
    """
    from paretune.distributed import ray_session as session

    finalists = finalists_of(sweep)
    reporter.say(f"comparing {len(finalists.artefacts)} trials, interleaved in one run: it decides the front")
    for number, why in finalists.left_out.items():
        reporter.say(f"trial {number} is not compared: {why}")
    place = Sweep(sweep.runs.resolve(), sweep.name)

    def measured() -> dict[str, Any]:
        return measure(context_of(place), finalists)

    try:
        comparison = session.on_a_node(measured, sweep.job.resources.by_ray_name(), sweep.runs, address)
    except (RuntimeError, UserError) as error:  # no trial is lost by it
        comparison = {"reason": one_line(error), "trials": {}}
    write_text(sweep.comparison, json.dumps(comparison))


def finalists_of(sweep: Sweep) -> FrontComparison:
    """Return the trials to compare: those that may be on the front, the baselines, and those of advice."""
    records = on_one_scale(read_records(sweep.folder))
    artefacts = {record.number: record.artefact for record in records if record.artefact is not None}
    advised = pairs(sweep.promises, records)
    asked = dict.fromkeys([EAGER, ONNXRUNTIME, *chain(*advised)])
    hopeful = [number for number in contenders(records, judge_of(sweep)) if number not in asked]
    chosen = [*asked, *hopeful[:MOST_CONTENDERS]]
    why = f"{len(hopeful)} trials may be on the front, and {MOST_CONTENDERS} at most are compared, the likeliest"
    return FrontComparison(
        artefacts={number: artefacts[number] for number in chosen if number in artefacts},
        reference=next((number for number in (ONNXRUNTIME, EAGER) if number in artefacts), chosen[0]),
        seen=[record.number for record in records],
        pairs=advised,
        left_out=dict.fromkeys(hopeful[MOST_CONTENDERS:], why),
    )
