"""The comparison of the front at the end of a sweep, which decides the front that is published."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paretune.core.baselines import BASELINES, EAGER, ONNXRUNTIME, base_name
from paretune.core.counts import counted
from paretune.core.errors import UserError, one_line, reason_of
from paretune.core.types import Split
from paretune.profiling.latency.shared_images import measuring_images
from paretune.results.advice_outcomes import pairs
from paretune.results.front_summary import comparison_of, judge_of, recorded
from paretune.results.sweep_folder import Sweep
from paretune.search.contenders import contenders
from paretune.search.latency_scale import on_one_scale
from paretune.storage.atomic_files import write_text
from paretune.storage.trial_events import EventLog, Unit
from paretune.storage.trial_record import Record
from paretune.workflows.sweep_reporter import SweepReporter
from paretune.workflows.trial_context import TrialContext, context_of, protocol_of

if TYPE_CHECKING:
    from paretune.profiling.latency.compare import Comparison

MOST_CONTENDERS = 20
"""Most trials, without the baselines, in a comparison: all of them are in memory at once."""
COMPARE = "compare"
"""Name of the comparison among the stages of a sweep."""
TEST = "test"
"""Split that no choice of a sweep depends on."""


@dataclass(frozen=True)
class FrontComparison:
    """Trials that are compared at the end of a sweep."""

    artefacts: Mapping[int, str]
    """Trial → its artefact's folder, relative to the sweep's, baselines included."""
    reference: int
    """Trial among them whose latency is the denominator of the ratios."""
    seen: Sequence[int]
    """All trials at the time of the choice."""
    pairs: Sequence[tuple[int, int]] = ()
    """Pairs among them that are also compared, the first with the second."""
    left_out: Mapping[int, str] = field(default_factory=dict)
    """Trial that may belong on the front and is not compared → reason."""
    tested: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    """Trial → its accuracy on ``test``, where the comparison on another target has evaluated it."""


MeasureFront = Callable[[TrialContext, FrontComparison], dict[str, Any]]
"""Measures the front, as ``compare_front`` does."""


def compare_front(context: TrialContext, finalists: FrontComparison) -> dict[str, Any]:
    """Measure artefacts interleaved in one run, and evaluate them on ``test`` if the data have it.

    Raw samples are kept in ``comparison.npz``.

    Returns:
        ``trials``: {trial: {"eager" | "onnxruntime" | "trial_N": {"speedup", "low", "high", "verdict",
        "network_speedup"}}}, where a speed-up is the latency of the named trial divided by the trial's.
        ``latencies``: {trial: ratios of latency and network latency to the ``reference``, with intervals}.
        ``verdicts``: {trial: {trial: "faster" | "slower" | "tied"}}. ``test``: {trial: metrics}, or None with the
        reason ``no_test``.
        Further keys: ``mode``, ``notes``, ``images``, ``reference_ms``, ``reference_network_ms``, ``calm``, ``seen``,
        ``left_out``, ``ended`` (seconds since 1970).

    Raises:
        RuntimeError: one of the measuring processes died or hung.
    """
    from paretune.profiling.latency.compare import compare
    from paretune.profiling.latency.samples import MeasurementProtocol

    numbers = sorted(finalists.artefacts)
    folders = [context.folder / finalists.artefacts[number] for number in numbers]
    images = measuring_images(context.data.splits["val"])
    place = numbers.index(finalists.reference)
    measuring = context.job.measuring
    protocol = replace(protocol_of(measuring), block_samples=MeasurementProtocol().block_samples)
    found = compare(
        folders,
        images,
        context.job.target,
        rounds=measuring.rounds,
        baseline=place,
        protocol=protocol,
        count=_counter(context, "rounds"),
    )
    found.save_samples(context.folder / f"{context.of_target('comparison')}.npz")
    return {
        "mode": found.mode,
        "notes": list(found.notes),
        "images": len(images),
        "rounds": found.latency.shape[0],
        "reference": finalists.reference,
        **_reference(found, place),
        "seen": sorted(finalists.seen),
        "left_out": {str(number): why for number, why in finalists.left_out.items()},
        "trials": _speedups(found, numbers, finalists.pairs),
        "latencies": {str(number): _latency(found, index) for index, number in enumerate(numbers)},
        "verdicts": {
            str(number): {
                str(other): found.ratio(index, against).verdict
                for against, other in enumerate(numbers)
                if other != number
            }
            for index, number in enumerate(numbers)
        },
        **_on_test(context, dict(zip(numbers, folders, strict=True)), finalists.tested),
        "ended": time.time(),
    }


def _counter(context: TrialContext, unit: Unit) -> Callable[[int, int], None]:
    """Return a function that notes how far the comparison is, for those who watch the sweep."""
    return partial(EventLog(context.folder).progress, COMPARE, unit=unit)


def _reference(found: Comparison, place: int) -> dict[str, Any]:
    """Return the latency of the reference in this run (ms), and whether it was undisturbed."""
    return {
        "reference_ms": float(np.nanmedian(found.latency[:, :, place])),
        "reference_network_ms": float(np.nanmedian(found.network[:, :, place])),
        "calm": not any(note.startswith("contended") for note in found.notes),
    }


def _latency(found: Comparison, index: int) -> dict[str, Any]:
    """Return the ratio of an artefact's latency to the reference's."""
    from paretune.profiling.latency.compare import ratio_figures

    whole = found.ratio(index)
    return {**ratio_figures(whole, found.ratio(index, network=True)), "unstable": whole.half > whole.tolerance}


def _speedups(found: Comparison, numbers: Sequence[int], pairs: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """Return the speed-ups of each trial over the baselines and over its pairs."""
    baselines = [n for n in range(len(BASELINES)) if n in numbers]
    trials: dict[str, Any] = {}
    for index, number in enumerate(numbers):
        rows = {}
        for base in dict.fromkeys([*baselines, *(other for one, other in pairs if one == number)]):
            place = numbers.index(base)
            ratio, network = found.ratio(index, place), found.ratio(index, place, network=True)
            rows[base_name(base)] = {
                "speedup": 1 / ratio.ratio,
                "low": 1 / ratio.high,
                "high": 1 / ratio.low,
                "verdict": ratio.verdict,
                "network_speedup": 1 / network.ratio,
            }
        trials[str(number)] = rows
    return trials


def _on_test(
    context: TrialContext, folders: Mapping[int, Path], tested: Mapping[int, Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the accuracy of each trial on ``test``, beside the eager baseline's, or why it is unknown."""
    split = context.data.splits.get(TEST)
    if split is None or not len(split):
        return {"test": None, "no_test": "the data has no split test"}
    found: dict[str, Any] = {}
    for number, folder in sorted(folders.items()):
        try:
            known = tested.get(number)
            found[str(number)] = known or _tested(context, folder, split, first=number == EAGER)
        except Exception as error:  # noqa: BLE001 - the latencies were measured at length, and stay
            return {"test": None, "no_test": f"trial {number} could not be evaluated: {reason_of(error)}"}
    return {"test": found}


def _tested(context: TrialContext, folder: Path, split: Split, *, first: bool) -> dict[str, Any]:
    """Return the accuracy of one trial on a split; others are compared with the first one's detections."""
    from paretune.evaluation.accuracy import detect
    from paretune.evaluation.baseline_difference import evaluate_beside
    from paretune.runtimes.predictor import load_predictor
    from paretune.system.device_lock import shared_device

    with shared_device(context.job.target.device):
        predictor, before = load_predictor(folder, context.job.target), context.folder / "detections-test.npz"
        limit = predictor.artefact.thresholds.limit
        found = detect(predictor, split, _counter(context, "images"))
        accuracy, change = evaluate_beside(found, split, before, first=first, limit=limit)
    figures = {**accuracy.metrics(), **change.figures}
    return {
        "images": len(split),
        "metrics": {name: float(value) for name, value in figures.items() if value is not None},
        "reasons": {**accuracy.reasons, **change.reasons},
    }


def compare_at_end(
    sweep: Sweep, reporter: SweepReporter, address: str | None = None, measure: MeasureFront = compare_front
) -> None:
    """Compare the front of each target, on that target; a failure becomes the reason in its file.

    Args:
        sweep: all of whose trials are done.
        reporter: prints what is compared.
        address: of the Ray cluster on whose node it is measured; None measures in this process.
        measure: measures the front.
    """
    tested: dict[int, Mapping[str, Any]] = {}
    numbers, several = sorted(record.number for record in recorded(sweep)), bool(sweep.job.further_targets)
    for view in sweep.each_target():
        comparison = comparison_of(view) or {}
        if not several or sorted(comparison.get("seen", ())) != numbers:  # else that on another target failed
            comparison = _compared(view, reporter, tested, address, measure)
            write_text(view.comparison, json.dumps(comparison))
        tested |= {int(number): figures for number, figures in (comparison.get("test") or {}).items()}


def comparison_failed(sweep: Sweep) -> bool:
    """Return whether the comparison on a target of a finished sweep failed, or its file was removed."""
    return any("reason" in (comparison_of(view) or {"reason": "no file"}) for view in sweep.each_target())


def _compared(
    sweep: Sweep,
    reporter: SweepReporter,
    tested: Mapping[int, Mapping[str, Any]],
    address: str | None,
    measure: MeasureFront,
) -> dict[str, Any]:
    """Measure every trial that may be on the front of a target, interleaved with the baselines; return the comparison.

    Args:
        sweep: as the target has it.
        reporter: prints what is compared.
        tested: trial → its known accuracy on ``test``.
        address: of the Ray cluster.
        measure: measures the front.
    """
    name = sweep.job.target_name
    finalists = replace(finalists_of(sweep), tested=tested)
    where = f" on {name}" if len(sweep.whole_job.targets) > 1 else ""
    reporter.say(
        f"comparing {counted(len(finalists.artefacts), 'trial')}{where}, interleaved in one run: it decides the front"
    )
    for number, why in finalists.left_out.items():
        reporter.say(f"trial {number} is not compared: {why}")
    place = Sweep(sweep.runs.resolve(), sweep.name)

    def measured() -> dict[str, Any]:
        return measure(context_of(place).on(name), finalists)

    try:
        found: dict[str, Any] = _placed(sweep, measured, address)
    except (RuntimeError, UserError) as error:  # no trial is lost by it
        return {"reason": one_line(error), "trials": {}}
    return found


def _placed(sweep: Sweep, work: Callable[[], Any], address: str | None) -> Any:
    """Call a function where a sweep's target is measured, and return its result."""
    from paretune.distributed import ray_session as session
    from paretune.distributed.node_tasks import NodeRequest, call_on_node

    job, target = sweep.job, sweep.job.target
    if not target.elsewhere:
        return session.on_a_node(work, job.resources.by_ray_name(), sweep.runs, address, job.resources.labels)
    with session.session(sweep.runs, address):
        limit = job.search.stage_hours * 3600
        return call_on_node(work, NodeRequest(target.labels, target.resources), seconds=limit or None)


def finalists_of(sweep: Sweep) -> FrontComparison:
    """Return the trials to compare: those that may be on the front, the baselines, and those of advice."""
    written = recorded(sweep)
    records, artefacts = on_one_scale(written), artefacts_on(written)
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


def artefacts_on(records: Sequence[Record]) -> dict[int, str]:
    """Return trial → artefact, relative to the sweep's folder, for those that were measured on a target.

    Args:
        records: as the target has them.
    """
    return {
        record.number: record.artefact
        for record in records
        if record.artefact is not None and (not record.targets or "duet" in record.facts)
    }
