"""``promote``: one trial of a sweep as a version in MLflow's registry of models."""

from __future__ import annotations

import argparse
import json
from typing import Any

from paretune.cli.options import sweep_arguments


def add(verbs: Any) -> None:
    """Add the verb to the parser."""
    verb = verbs.add_parser(
        "promote",
        help="register the recommended point of a sweep, or another trial, as a model in MLflow",
        epilog="the version loads by mlflow.pyfunc.load_model in an environment without Paretune",
    )
    sweep_arguments(verb)
    verb.add_argument("--target", metavar="T", help="the target (default: the job's first)")
    verb.add_argument("--trial", type=int, metavar="N", help="the trial (default: the one that `front` recommends)")
    verb.add_argument("--json", action="store_true", help="one JSON object")
    verb.set_defaults(run=_promote)


def _promote(given: argparse.Namespace) -> int:
    from paretune.results.sweep_folder import find_sweep
    from paretune.workflows.promote import promote

    made = promote(find_sweep(given.runs, given.sweep), given.target, given.trial)
    if given.json:
        print(json.dumps({"model": made.name, "version": made.version, "alias": made.alias, "uri": made.uri}))
    else:
        begin = "registered" if made.new else "registered before"
        print(
            f"{begin}: version {made.version} of model {made.name!r}\nload it: mlflow.pyfunc.load_model({made.uri!r})"
        )
    return 0
