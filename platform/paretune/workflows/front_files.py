"""The pictures and tables of a front in its sweep's folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from paretune.core.errors import UserError
from paretune.results.front_summary import advice_of, comparison_of, front_of, judge_of, records_of
from paretune.results.sweep_folder import Sweep
from paretune.search.hypervolume_series import series_csv
from paretune.storage.atomic_files import draft_of
from paretune.storage.trial_record import Record, recorded_trials
from paretune.system.device_lock import shared_device

NAMES = ("front.csv", "front.html", "front.json", "front.png", "hypervolume.csv")
PATIENCE = 60.0
"""Seconds for which drawing waits for a measurement on the target's device."""


def write_front(sweep: Sweep, front: dict[str, Any], records: Sequence[Record]) -> list[Path]:
    """Write the front's pictures and tables into the sweep's folder, and return the files."""
    from paretune.reports.front_page import FrontView, front_csv, front_html, front_png

    advice = [one.tree() for one in advice_of(sweep)]
    violations = {record.number: sweep.violations(record) for record in records if record.state == "complete"}
    aims = judge_of(sweep).objectives
    picture = FrontView(front, records, aims, comparison_of(sweep), sweep.floors, advice, violations, sweep.ceilings)
    folder = sweep.folder / sweep.of_target("front")
    folder.mkdir(exist_ok=True)
    drafts = {name: draft_of(folder / name) for name in NAMES}  # another process may draw at the same time
    drafts["front.csv"].write_text(front_csv(picture))
    drafts["front.html"].write_text(front_html(picture))
    drafts["front.json"].write_text(json.dumps(front, indent=1))
    drafts["hypervolume.csv"].write_text(series_csv(front["hypervolume_series"]))
    front_png(picture, drafts["front.png"])
    return [draft.replace(folder / name) for name, draft in drafts.items()]


def refresh_front(sweep: Sweep) -> None:
    """Write each target's pictures and tables if they are older than a record; a folder that is read only stays so."""
    for one in sweep.each_target():
        newest = [file.stat().st_mtime for file in (*recorded_trials(one.folder), one.comparison) if file.exists()]
        drawn = one.folder / one.of_target("front") / "front.json"
        if drawn.exists() and drawn.stat().st_mtime >= max(newest, default=0.0):
            continue
        records = records_of(one)
        with suppress(OSError, UserError), shared_device(one.job.target.device, patience=PATIENCE):
            write_front(one, front_of(one, records), records)
