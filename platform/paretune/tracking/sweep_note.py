"""The description of a sweep's run in MLflow: its answer in Markdown, without a click."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from paretune.core.baselines import EAGER
from paretune.core.counts import counted
from paretune.core.metrics import Metric, change_in, in_order, metric_of
from paretune.core.recipe_text import trial_title
from paretune.search.pareto_front import FrontRules, best_point
from paretune.storage.trial_record import Record
from paretune.tracking.mlflow_client import LONGEST

ROOM = LONGEST - 600
"""Most characters of verdict and table; the rest of the front is on its page."""
EXTRA = ("size_mib",)
"""Metrics in the table beside the objectives."""

SPACE = "&emsp;"
"""Space before a figure: MLflow's tables have none between columns."""


@dataclass(frozen=True)
class NoteLinks:
    """Addresses for the description, relative to the server's."""

    page: str
    """Page of the front."""
    trials: Mapping[int, str]
    """Trial → its run."""
    view: str | None = None
    """Charts of the sweep's trials."""


def sweep_note(
    front: Mapping[str, Any], records: Sequence[Record], judge: FrontRules, links: NoteLinks, *, ended: bool
) -> str:
    """Return the description of a sweep: verdict, front, cost, links.

    Args:
        front: result of ``front_object``.
        records: of all trials so far.
        judge: objectives and constraints.
        links: to trials and pages.
        ended: whether the search is over.
    """
    view = f" · [all trials as charts]({links.view})" if links.view else ""
    lines = [_verdict(front, judge, ended=ended), "", f"[The front as a page]({links.page}){view}", ""]
    names = [objective.metric for objective in (judge.quality, judge.cost)]
    rows = in_order([*names, *EXTRA])
    rows.sort(key=lambda row: [*names, *EXTRA].index(row.name))
    head = [
        "Trial",
        *(f"{SPACE}{row.column}{f' ({row.unit})' if row.unit not in ('', row.column) else ''}" for row in rows),
    ]
    lines += [_row(head), _row(["---"] * len(head))]
    cost = _cost(records)
    points, size = front["front"], _usual_size(front)
    for place, point in enumerate(points):
        row = _row([_trial(point, links, size), *(_cell(point, one) for one in rows)])
        if sum(map(len, lines)) + len(lines) + len(row) > ROOM:
            lines.append(f"\nand {len(points) - place} more points on the page")
            break
        lines.append(row)
    return "\n".join([*lines, "", cost])


def _verdict(front: Mapping[str, Any], judge: FrontRules, *, ended: bool) -> str:
    """Return the answer of a sweep in one sentence."""
    begin = "" if ended else "So far: "
    best = front["best"]
    if best is None:
        return f"{begin}no trial keeps the constraints."
    point = best_point(front)
    title = trial_title(point["trial"], point["recipe"], starred=False, usual_size=_usual_size(front))
    figures = [metric_of(judge.cost.metric).phrase(point["metrics"].get(judge.cost.metric))]
    if (times := _times_cheaper(front, point, judge)) is not None:
        figures.append(times)
    if judge.quality.metric != judge.cost.metric:
        figures.append(_quality(point, judge))
    note = f" {plain(best['note'][0].upper() + best['note'][1:])}." if best["note"] else ""
    return f"{begin}**{plain(title)}** is the {best['claim']}: {', '.join(figures)}.{note}"


def _times_cheaper(front: Mapping[str, Any], point: Mapping[str, Any], judge: FrontRules) -> str | None:
    """Return how much cheaper a point is than the eager baseline; None for the baseline, or if it is not known."""
    base = front["baseline"]
    if base is None or point["trial"] == EAGER or judge.cost.direction != "minimize":
        return None
    before, now = (one["metrics"].get(judge.cost.metric) for one in (base, point))
    if not before or not now:
        return None
    word = "as fast as" if metric_of(judge.cost.metric).unit == "ms" else "smaller than"
    return f"{before / now:.1f} times {word} the unchanged network in PyTorch"


def _quality(point: Mapping[str, Any], judge: FrontRules) -> str:
    """Return a point's quality, with its difference to the baseline's."""
    metric = judge.quality.metric
    text = metric_of(metric).phrase(point["metrics"].get(metric))
    change = change_in(point["metrics"], metric)
    if change is None or point["trial"] == EAGER:
        return text
    low, middle, high = change
    return f"{text} ({middle:+.3f} against the baseline, 95 % interval {low:+.3f} to {high:+.3f})"


def _trial(point: Mapping[str, Any], links: NoteLinks, size: Any) -> str:
    """Return a point's recipe as a link to its run, with its ties and doubts."""
    title = plain(trial_title(point["trial"], point["recipe"], starred=False, usual_size=size))
    address = links.trials.get(point["trial"])
    tied = f", tied with {', '.join(map(str, point['tied_with']))}" if point["tied_with"] else ""
    doubt = ", unstable" if point["unstable"] else ""
    return f"{title if address is None else f'[{title}]({address})'}{tied}{doubt}"


def _cell(point: Mapping[str, Any], row: Metric) -> str:
    return f"{SPACE}{row.text(point['metrics'].get(row.name))}"


def _cost(records: Sequence[Record]) -> str:
    """Return what a sweep has cost."""
    states = [record.state for record in records]
    others = [f"{states.count(state)} {state}" for state in ("failed", "stopped") if state in states]
    hours = sum(sum(record.seconds.values()) for record in records) / 3600
    apart = f" ({', '.join(others)})" if others else ""
    return f"Cost: {counted(len(records), 'trial')}{apart}, {hours:.2f} h of all trials together."


def _usual_size(front: Mapping[str, Any]) -> Any:
    """Return the input size of the eager baseline."""
    return None if front["baseline"] is None else front["baseline"]["recipe"]["input_size"]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def plain(text: str) -> str:
    """Return a text so that Markdown and HTML show it as it is."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*\[\]|])", r"\\\1", text)
