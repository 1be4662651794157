"""Which trials of a sweep are compared at its end, and where: on a node that is the target."""

from __future__ import annotations

import json
from itertools import chain
from typing import Any

from paretune.core.baselines import EAGER, ONNXRUNTIME
from paretune.core.errors import UserError
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
"""Trials that are compared at the end besides the baselines: all are in memory at once."""


def context_of(sweep: Sweep) -> TrialContext:
    """Open what the trials of a sweep share."""
    return TrialContext(sweep.job, sweep.job.dataset.open(sweep.cache), sweep.folder, sweep.baseline)


def compare(sweep: Sweep, reporter: SweepReporter, address: str | None = None) -> None:
    """Measure every trial that may be on the front once more, interleaved, with the baselines; or note why not."""
    from paretune.distributed import ray_session as session

    finalists = finalists_of(sweep)
    reporter.say(f"comparing {len(finalists.artefacts)} trials, interleaved in one run: it decides the front")
    for number, why in finalists.left_out.items():
        reporter.say(f"trial {number} is not compared: {why}")
    place = Sweep(sweep.runs.resolve(), sweep.name)

    def measure() -> dict[str, Any]:
        return compare_front(context_of(place), finalists)

    try:
        found = session.on_a_node(measure, sweep.job.resources.by_ray_name(), sweep.runs, address)
    except (RuntimeError, UserError) as error:  # no trial is lost by it
        found = {"reason": " ".join(str(error).split()), "trials": {}}
    write_text(sweep.comparison, json.dumps(found))


def finalists_of(sweep: Sweep) -> FrontComparison:
    """Return what is to be compared: whatever may be on the front, the baselines, and what advice was tried on."""
    records = on_one_scale(read_records(sweep.folder))
    there = {record.number: record.artefact for record in records if record.artefact is not None}
    advised = pairs(sweep.promises, records)
    asked = dict.fromkeys([EAGER, ONNXRUNTIME, *chain(*advised)])
    hopeful = [number for number in contenders(records, judge_of(sweep)) if number not in asked]
    chosen = [*asked, *hopeful[:MOST_CONTENDERS]]
    why = f"{len(hopeful)} trials may be on the front, and {MOST_CONTENDERS} at most are compared, the likeliest"
    return FrontComparison(
        artefacts={number: there[number] for number in chosen if number in there},
        reference=next((number for number in (ONNXRUNTIME, EAGER) if number in there), chosen[0]),
        seen=[record.number for record in records],
        pairs=advised,
        left_out=dict.fromkeys(hopeful[MOST_CONTENDERS:], why),
    )
