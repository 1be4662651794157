"""The pictures and tables of a front in its sweep's folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from paretune.core.errors import UserError
from paretune.results.front_data import SweepView, data_of, views_of
from paretune.results.front_report import report_html, report_markdown, report_parts
from paretune.results.sweep_folder import Sweep
from paretune.search.hypervolume_series import series_csv
from paretune.storage.atomic_files import draft_of
from paretune.storage.trial_record import recorded_trials
from paretune.system.device_lock import shared_device

NAMES = (
    *("front.csv", "front.html", "front.json", "front.png", "front.svg", "hypervolume.csv"),
    *("report.html", "report.md", "trials.csv", "trials.json"),
)
PATIENCE = 60.0
"""Seconds for which drawing waits for a measurement on the target's device."""


def write_front(views: Sequence[SweepView]) -> list[Path]:
    """Write the page, the report, the pictures and the tables of a target's front, and return the files.

    Args:
        views: the sweep on each of its targets, first on the one whose front it is.
    """
    from paretune.reports.front_csv import front_csv, trials_csv
    from paretune.reports.front_page import front_html
    from paretune.reports.front_plot import front_pictures

    sweep, front = views[0].sweep, views[0].front
    folder = sweep.folder / sweep.of_target("front")
    folder.mkdir(exist_ok=True)
    data = data_of(views)
    report = report_parts(data)
    texts = {
        "front.csv": front_csv(front),
        "front.html": front_html(data),
        "front.json": json.dumps(front, indent=1),
        "hypervolume.csv": series_csv(front["hypervolume_series"]),
        "report.html": report_html(data, report),
        "report.md": report_markdown(data, report),
        "trials.csv": trials_csv(data["trials"]),
        "trials.json": "[\n" + ",\n".join(map(json.dumps, data["trials"])) + "\n]\n",
    }
    drafts = {name: draft_of(folder / name) for name in NAMES}  # another process may draw at the same time
    for name, text in texts.items():
        drafts[name].write_text(text, encoding="utf-8", errors="backslashreplace")
    front_pictures(data, data["targets"][0], {form: drafts[f"front.{form}"] for form in ("png", "svg")})
    return [draft.replace(folder / name) for name, draft in drafts.items()]


def refresh_front(sweep: Sweep) -> None:
    """Write each target's pictures and tables if they are older than a record; a folder that is read only stays so."""
    outdated = [one.further for one in sweep.each_target() if _is_outdated(one)]
    views = views_of(sweep) if outdated else []
    for view in views:
        if view.sweep.further in outdated:
            with suppress(OSError, UserError), shared_device(view.sweep.job.target.device, patience=PATIENCE):
                write_front(with_first(view, views))


def with_first(view: SweepView, views: Sequence[SweepView]) -> list[SweepView]:
    """Return views with one of them before the others."""
    return [view, *(other for other in views if other is not view)]


def _is_outdated(sweep: Sweep) -> bool:
    """Return whether the files of a target's front are older than a record, or than what decides the front."""
    files = (*recorded_trials(sweep.folder), sweep.comparison, sweep.folder / "finished")
    newest = [file.stat().st_mtime for file in files if file.exists()]
    drawn = sweep.folder / sweep.of_target("front") / "front.json"
    return not drawn.exists() or drawn.stat().st_mtime < max(newest, default=0.0)
