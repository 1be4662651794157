"""Two trials side by side: recipes, stages, metrics, and which is faster and more accurate as far as that is sure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from paretune.core.baselines import EAGER, base_name
from paretune.core.console import filled
from paretune.core.hints import command
from paretune.core.metrics import METRICS, UNKNOWN, change_in
from paretune.core.recipe_text import recipe_line
from paretune.reports.tables import Table
from paretune.results.front_summary import comparison_of
from paretune.results.trial_details import TrialDetails, figure_text


@dataclass(frozen=True)
class Verdict:
    """What is known of the first trial against the second in one respect."""

    verdict: str | None
    """``faster``, ``slower`` or ``tied``; ``more accurate``, ``less accurate`` or ``not sure``; None if not known."""
    difference: float | None = None
    """Times as fast, or map more."""
    low: float | None = None
    """Ends of the 95 % interval of the difference; None if it was not kept."""
    high: float | None = None
    reason: str | None = None
    """Why it is not known, or not sure, and what tells it."""

    def tree(self) -> dict[str, Any]:
        """Return plain data."""
        return dict(vars(self))


def latency_verdict(one: TrialDetails, other: TrialDetails) -> Verdict:
    """Return which trial is faster, if both were measured interleaved in one run at the end of their sweep."""
    numbers = [trial.record.number for trial in (one, other)]
    missing = [f"trial {trial.record.number} has no artefact" for trial in (one, other) if trial.artefact is None]
    if missing:
        return Verdict(None, reason=missing[0])
    both = command("profile", *(trial.artefact for trial in (one, other)))
    if one.sweep.folder != other.sweep.folder:
        return Verdict(None, reason=f"two sweeps were not measured in one run; `{both}` does that")
    found = comparison_of(one.sweep) or {}
    latencies, verdicts = found.get("latencies") or {}, found.get("verdicts") or {}
    first, second = map(str, numbers)
    if first not in latencies or second not in latencies or second not in verdicts.get(first, {}):
        what = "the front is not compared yet" if not found else "not both are in the comparison of the front"
        return Verdict(None, reason=f"not measured in one run: {what}; `{both}` does that")
    times = latencies[second]["ratio"] / latencies[first]["ratio"]
    row = (found.get("trials") or {}).get(first, {}).get(base_name(numbers[1])) or {}
    back = (found.get("trials") or {}).get(second, {}).get(base_name(numbers[0])) or {}
    low, high = row.get("low"), row.get("high")
    if back and not row:
        low, high = 1 / back["high"], 1 / back["low"]
    return Verdict(verdicts[first][second], times, low, high)


def accuracy_verdict(one: TrialDetails, other: TrialDetails) -> Verdict:
    """Return which trial is more accurate, by the differences of both to the eager baseline on the same images."""
    if one.sweep.folder != other.sweep.folder:
        return Verdict(None, reason="two sweeps: their differences are to different baselines")
    found = [change_in(trial.row["metrics"], "map") for trial in (one, other)]
    known = [
        (0.0, 0.0, 0.0) if trial.record.number == EAGER else change
        for trial, change in zip((one, other), found, strict=True)
    ]
    if known[0] is None or known[1] is None:
        return Verdict(None, reason="the difference to the eager baseline is not known of both")
    (low, middle, high), (other_low, other_middle, other_high) = known[0], known[1]
    difference = middle - other_middle
    if EAGER in (one.record.number, other.record.number):
        ends = (low - other_high, high - other_low)
        sure = "more accurate" if ends[0] > 0 else "less accurate" if ends[1] < 0 else "not sure"
        return Verdict(sure, difference, *ends)
    if low > other_high or high < other_low:
        return Verdict("more accurate" if low > other_high else "less accurate", difference)
    hint = command("evaluate", one.artefact, "--against", other.artefact)
    reason = f"the intervals against the eager baseline overlap; `{hint}` tells more"
    return Verdict("not sure", difference, reason=reason)


def compare_tree(one: TrialDetails, other: TrialDetails) -> dict[str, Any]:
    """Return two trials side by side as plain data; a list has the first trial's value before the second's."""
    trials = (one, other)
    params = [dict(trial.record.params) for trial in trials]
    stages = [{entry["stage"]: entry for entry in trial.stages} for trial in trials]
    classes = [trial.row["classes"] for trial in trials]
    figures = [trial.figures for trial in trials]
    return {
        "trials": [
            {
                "sweep": trial.sweep.name,
                "trial": trial.record.number,
                "target": trial.row["target"],
                "state": trial.record.state,
                "recipe": dict(trial.record.recipe),
                "artefact": None if trial.artefact is None else str(trial.artefact),
            }
            for trial in trials
        ],
        "latency": latency_verdict(one, other).tree(),
        "accuracy": accuracy_verdict(one, other).tree(),
        "recipe": {name: pair for name, pair in _pairs(*params).items() if pair[0] != pair[1]},
        "stages": _pairs(*stages),
        "metrics": _pairs(*figures),
        "classes": _pairs(*classes),
    }


def _pairs(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return each key of two mappings with both values, None where one lacks it."""
    return {name: [one.get(name), other.get(name)] for name in dict.fromkeys([*one, *other])}


def compare_text(tree: Mapping[str, Any]) -> str:
    """Return the result of ``compare_tree`` as text."""
    heads = [f"{trial['sweep']}/{trial['trial']}" for trial in tree["trials"]]
    lines = [
        f"{head}: {recipe_line(trial['recipe'])}" + ("" if trial["state"] == "complete" else f" ({trial['state']})")
        for head, trial in zip(heads, tree["trials"], strict=True)
    ]
    lines += [f"latency: {_latency_words(tree['latency'], heads)}", f"map: {_accuracy_words(tree['accuracy'], heads)}"]
    recipe = [(name, *map(_word, pair)) for name, pair in tree["recipe"].items()]
    stages = [(name, *map(_stage, pair)) for name, pair in tree["stages"].items()]
    metrics = [
        (name, *(figure_text(name, figure) for figure in pair), _difference(name, pair))
        for name, pair in tree["metrics"].items()
    ]
    classes = [
        (name, *(UNKNOWN if value is None else f"{value:.3f}" for value in pair), _change(pair))
        for name, pair in tree["classes"].items()
    ]
    tables = [
        Table("recipe", ("field", *heads), tuple(recipe), words=("field", *heads)),
        Table("stages", ("stage", *heads), tuple(stages), words=("stage",)),
        Table("metrics", ("metric", *heads, "difference"), tuple(metrics), words=("metric", *heads)),
        Table("map by class", ("class", *heads, "difference"), tuple(classes), words=("class",)),
    ]
    lines += ["the recipes are the same"] if not recipe else []
    return "\n".join(
        [*(filled(line, "  ") for line in lines), *(f"\n{table.text()}" for table in tables if table.rows)]
    )


def _latency_words(found: Mapping[str, Any], heads: list[str]) -> str:
    if found["verdict"] is None:
        return f"not known which is faster, {found['reason']}"
    ends = "" if found["low"] is None else f" [{found['low']:.2f}, {found['high']:.2f}]"
    words = f"{heads[0]} is {found['difference']:.2f}{ends} times as fast as {heads[1]}"
    sure = "a tie: it is not sure which is faster" if found["verdict"] == "tied" else "sure"
    return f"{words}, interleaved in one run: {sure}"


def _accuracy_words(found: Mapping[str, Any], heads: list[str]) -> str:
    if found["verdict"] is None:
        return f"not known which is more accurate, {found['reason']}"
    ends = "" if found["low"] is None else f" [{found['low']:+.3f}, {found['high']:+.3f}]"
    words = f"{heads[0]} has {found['difference']:+.3f}{ends} against {heads[1]}"
    if found["verdict"] == "not sure":
        return ", ".join([f"{words}: not sure which is more accurate", *filter(None, [found["reason"]])])
    return f"{words}: surely {found['verdict']}"


def _word(value: Any) -> str:
    return UNKNOWN if value is None else str(value)


def _stage(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return UNKNOWN
    return "stored" if entry["reused"] else f"{entry['seconds']:.1f} s"


def _difference(name: str, pair: list[Any]) -> str:
    """Return how much more the first trial has of a metric; latencies of two runs have no difference."""
    values = [None if figure is None else figure["value"] for figure in pair]
    if values[0] is None or values[1] is None or METRICS.get(name) is None or METRICS[name].group in _OF_ONE_RUN:
        return UNKNOWN
    row, more = METRICS[name], values[0] - values[1]
    return f"{'+' if more >= 0 else ''}{row.text(more)}"


_OF_ONE_RUN = frozenset({"latency", "energy"})
"""Groups of metrics that differ between two runs of the same trial."""


def _change(pair: list[Any]) -> str:
    return UNKNOWN if None in pair else f"{pair[0] - pair[1]:+.3f}"
