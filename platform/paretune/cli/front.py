"""``front`` and ``ui``: the results of a sweep."""

from __future__ import annotations

import argparse
import json
from typing import Any

from paretune.cli.options import answering, json_argument, runs_argument, sweep_arguments
from paretune.cli.remote import address_argument, answered_there


def add(verbs: Any) -> None:
    """Add the verbs to the parser."""
    front = verbs.add_parser("front", help="print the Pareto front of a sweep")
    sweep_arguments(front)
    front.add_argument(
        "--target", metavar="T", help="one of the job's targets (default: each; JSON: the first, all below `targets`)"
    )
    front.add_argument("--importance", action="store_true", help="how much each knob of the space matters, too")
    address_argument(front)
    json_argument(front)
    front.set_defaults(run=answered_there(_front))
    text = "serve the MLflow UI, and print the addresses of its experiment and of a sweep's front"
    ui = verbs.add_parser("ui", help=text)
    ui.add_argument("sweep", metavar="SWEEP", nargs="?", help="(default: the newest one)")
    runs_argument(ui)
    ui.add_argument("--open", action="store_true", help="open the front in the browser")
    ui.add_argument("--port", type=int, default=5000)
    json_argument(ui, "one JSON object with the addresses when they are there; it goes on serving")
    ui.set_defaults(run=answering(_ui))


def _front(given: argparse.Namespace) -> int:
    from paretune.api.front import Front
    from paretune.workflows.front_files import refresh_front

    front = Front(given.sweep, given.runs, target=given.target)
    shown = front.json(given.target) if given.json else front.text(given.target)
    if given.importance:
        shown = _with_importance(front.sweep, shown, as_json=given.json)
    print(shown, flush=True)
    if not given.json:
        refresh_front(front.sweep.on(None))
    return 0


def _with_importance(sweep: Any, front: str, *, as_json: bool) -> str:
    """Return a printed front with the importance of every knob."""
    from paretune.results.knob_importance import importance_of, importance_text, importance_tree

    knobs = importance_of(sweep)
    if as_json:
        return json.dumps({**json.loads(front), "importance": importance_tree(knobs)})
    return f"{front}\n\n{importance_text(sweep, knobs)}"


def _ui(given: argparse.Namespace) -> int:
    from paretune.tracking.ui_server import open_ui, show_server

    if given.sweep is None:
        open_ui(given.runs, given.port, browser=given.open, answer=given.answer)
        return 0
    from paretune.results.sweep_folder import find_sweep
    from paretune.tracking.mlflow_client import LogPlace

    sweep = find_sweep(given.runs, given.sweep)
    tracking = sweep.job.tracking
    place = LogPlace.of(sweep.runs, sweep.name, tracking.uri, tracking.experiment)
    if place.server is not None:
        show_server(place, sweep.facts["created"], browser=given.open, answer=given.answer)
    else:
        open_ui(given.runs, given.port, sweep.name, sweep.facts["created"], browser=given.open, answer=given.answer)
    return 0
