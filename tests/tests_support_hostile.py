"""A finished sweep whose names are markup, links and commands of a terminal."""

from __future__ import annotations

import json
from pathlib import Path

from paretune.config.job import Job
from paretune.results.sweep_folder import Sweep
from paretune.workflows.front_files import refresh_front
from tests_support_browser import BrowserPage
from tests_support_records import changed, fake_records, write_sweep

EVIL = (
    "</script><script>window.harmed = 1; alert(1)</script>\"><img src=x onerror='window.harmed = 2'>"
    "[link](javascript:alert(3)) ![](http://127.0.0.1:9/pixel) `a` $\\frac$ |x|\x1b[2J\x1b]0;evil\x07\nsecond line"
)
"""A name that does harm wherever it is taken for more than text."""


def hostile_sweep(runs: Path) -> Sweep:
    """Return a finished sweep, drawn, with such names of classes, images, data, target, notes and failures."""
    sweep = Sweep(runs, "demo")
    sweep.folder.mkdir()
    job = {"dataset": {"yolo": {"root": EVIL}}, "detector": "yolo", "space": "none.yaml", "input_size": 160}
    tree = Job.model_validate({**job, "targets": {EVIL: {}}}).tree()
    facts = {"paretune": EVIL, "name": "demo", "created": 5.0, "job": tree, "promises": [], "data": {}}
    (sweep.folder / "sweep.json").write_text(json.dumps(facts))
    records = []
    for record in fake_records():
        hostile = {EVIL: 0.5, "other": None}
        worst = [{"image": EVIL, "wrong": 1, "missed": 1}]
        told = {"facts": {**record.facts, "classes": hostile, "worst_images": worst}, "notes": (EVIL,)}
        failure = None if record.failure is None else f"RuntimeError: {EVIL}"
        records.append(changed(record, failure=failure, reasons={"energy_mj_image": EVIL}, **told))
    write_sweep(sweep.folder, records)
    sweep.mark_finished()
    refresh_front(sweep)
    return sweep


def harm(page: BrowserPage) -> list[str]:
    """Return what a name has done to the page that is open: scripts that ran, elements, dialogs, requests elsewhere."""
    found = [] if page.run("window.harmed") is None else ["a script ran"]
    count = page.run('document.querySelectorAll(\'img[onerror], img[src="x"], a[href^="javascript"]\').length')
    found += [f"{count} injected elements"] if count else []
    for event in page.events:
        if event.get("method") == "Page.javascriptDialogOpening":
            found.append("a dialog")
        if event.get("method") == "Network.requestWillBeSent" and ":9/pixel" in event["params"]["request"]["url"]:
            found.append("a request")
    return found
