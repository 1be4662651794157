"""The comparison of the front at the end of a sweep, which decides the front that is published."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paretune.core.baselines import BASELINES, EAGER, base_name
from paretune.core.errors import UserError, one_line
from paretune.core.types import Split
from paretune.profiling.latency.shared_images import measuring_images
from paretune.workflows.trial_context import TrialContext, protocol_of

if TYPE_CHECKING:
    from paretune.profiling.latency.compare import Comparison

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
    found = compare(folders, images, context.job.target, rounds=measuring.rounds, baseline=place, protocol=protocol)
    found.save_samples(context.folder / "comparison.npz")
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
        **_on_test(context, dict(zip(numbers, folders, strict=True))),
        "ended": time.time(),
    }


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


def _on_test(context: TrialContext, folders: Mapping[int, Path]) -> dict[str, Any]:
    """Return the accuracy of each trial on ``test``, beside the eager baseline's, or why it is unknown."""
    split = context.data.splits.get(TEST)
    if split is None or not len(split):
        return {"test": None, "no_test": "the data has no split test"}
    found: dict[str, Any] = {}
    for number, folder in sorted(folders.items()):
        try:
            found[str(number)] = _tested(context, folder, split, first=number == EAGER)
        except Exception as error:  # noqa: BLE001 - the latencies were measured at length, and stay
            return {"test": None, "no_test": f"trial {number} could not be evaluated: {_line(error)}"}
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
        accuracy, change = evaluate_beside(detect(predictor, split), split, before, first=first, limit=limit)
    figures = {**accuracy.metrics(), **change.figures}
    return {
        "images": len(split),
        "metrics": {name: float(value) for name, value in figures.items() if value is not None},
        "reasons": {**accuracy.reasons, **change.reasons},
    }


def _line(error: Exception) -> str:
    """Return an error as one line, with its class unless it is a mistake of the user."""
    text = one_line(error)
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"
