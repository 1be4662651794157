"""``sync`` and ``mlflow rebuild``: the MLflow log of a sweep, from its records."""

from __future__ import annotations

import argparse
from typing import Any

from paretune.cli.options import INCOMPLETE, answering, json_argument, sweep_arguments


def add(verbs: Any) -> None:
    """Add the verbs to the parser."""
    codes = "exit code: 0 the log is complete, 1 it could not be written"
    sync = verbs.add_parser("sync", help="write into the MLflow log what it lacks of a sweep", epilog=codes)
    sweep_arguments(sync)
    json_argument(sync)
    sync.set_defaults(run=answering(_sync))
    mlflow = verbs.add_parser("mlflow", help="the MLflow log of a sweep: rebuild")
    parts = mlflow.add_subparsers(title="verbs", metavar="VERB", required=True)
    text = "delete the runs of a sweep and make all of them again from its records"
    rebuild = parts.add_parser("rebuild", help=text, epilog=codes)
    sweep_arguments(rebuild)
    json_argument(rebuild)
    rebuild.set_defaults(run=answering(_rebuild))


def _sync(given: argparse.Namespace) -> int:
    return _write(given, again=False)


def _rebuild(given: argparse.Namespace) -> int:
    return _write(given, again=True)


def _write(given: argparse.Namespace, *, again: bool) -> int:
    from paretune.results.sweep_folder import find_sweep
    from paretune.workflows.sweep_log import write_log

    complete = write_log(find_sweep(given.runs, given.sweep), again=again)
    given.answer({"sweep": given.sweep, "complete": complete})
    return 0 if complete else INCOMPLETE
