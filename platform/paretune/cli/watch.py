"""``watch``: a sweep while it runs, from another terminal."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from paretune.cli.options import INCOMPLETE, INTERRUPTED, sweep_arguments
from paretune.cli.remote import address_argument, answered_there


def add(verbs: Any) -> None:
    """Add the verb to the parser."""
    text = "show a sweep while it runs, or as it was left; exit code: 0 finished or running, 1 nothing runs it"
    watch = verbs.add_parser("watch", help="show a sweep while it runs, from any terminal", epilog=text)
    sweep_arguments(watch)
    watch.add_argument("--once", action="store_true", help="show its present state and end")
    watch.add_argument("--json", action="store_true", help="one JSON object, with its present state")
    address_argument(watch, "of a Ray cluster's head: show the log of the sweep there, with --once or --json its state")
    watch.set_defaults(run=_watch)


def _watch(given: argparse.Namespace) -> int:
    if given.address is None:
        return _watch_here(given)
    if given.once or given.json:
        return answered_there(_watch_here)(given)
    from paretune.distributed.ray_jobs import logs

    return logs(given.address, given.sweep, wait=True)


def _watch_here(given: argparse.Namespace) -> int:
    from paretune.core.console import live_console
    from paretune.reports.sweep_view import print_sweep
    from paretune.results.sweep_folder import find_sweep
    from paretune.results.sweep_reader import SweepReader
    from paretune.workflows.live_view import LiveView, watch

    look = SweepReader(find_sweep(given.runs, given.sweep)).look
    if given.json:
        snapshot = look()
        print(json.dumps(snapshot.tree()))
    elif given.once:
        snapshot = look()
        print_sweep(snapshot)
    else:
        view = LiveView(look, lambda line: print(line, flush=True), live_console())
        try:
            snapshot = watch(look, view)
        except KeyboardInterrupt:
            print("\nno longer watched; the sweep goes on", file=sys.stderr)
            return INTERRUPTED
        print_sweep(snapshot)
    return INCOMPLETE if snapshot.state == "stopped" else 0
