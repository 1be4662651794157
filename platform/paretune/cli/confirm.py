"""The verb ``confirm``."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from paretune.cli.optimize import TOO_MUCH
from paretune.cli.options import sweep_arguments


def add(verbs: Any) -> None:
    """Add the verb to the parser."""
    confirm = verbs.add_parser(
        "confirm",
        help="repeat a sweep's winner with other seeds, prune less until its loss is allowed, compare it with eager",
        epilog="the recipe is chosen on val, the claim is made on test, a stopped run continues; "
        "exit code: 0 the loss is allowed, 1 more is lost than --max-drop allows, 2 nothing was done",
    )
    sweep_arguments(confirm)
    confirm.add_argument("--trial", type=int, metavar="N", help="whose recipe (default: the front's best)")
    confirm.add_argument("--target", metavar="T", help="the target (default: the job's first)")
    confirm.add_argument("--seeds", type=int, default=3, metavar="N", help="number of seeds (default: 3)")
    text = "largest allowed mean loss against the eager baseline (default: the job's constraint, else 0.01)"
    confirm.add_argument("--max-drop", type=float, metavar="X", help=text)
    confirm.add_argument("--metric", default="map", metavar="METRIC", help="map or map50 (default: map)")
    confirm.add_argument("--json", action="store_true", help="one JSON object")
    confirm.set_defaults(run=_confirm)


def _confirm(given: argparse.Namespace) -> int:
    from paretune.results.sweep_folder import find_sweep

    sweep = find_sweep(given.runs, given.sweep).on(given.target)
    from paretune.workflows.confirm import confirm, confirmation_request

    asked = confirmation_request(
        sweep, trial=given.trial, seeds=given.seeds, max_drop=given.max_drop, metric=given.metric
    )
    confirmation = confirm(
        sweep, asked, lambda line: print(line, file=sys.stderr if given.json else sys.stdout, flush=True)
    )
    if given.json:
        import json

        print(json.dumps(confirmation.tree(), indent=1))
    else:
        from paretune.results.confirmation_text import confirmation_text

        print(confirmation_text(confirmation))
        print(f"artefact: {sweep.folder / confirmation.kept.artefact(confirmation.kept.best_seed)}")
    return 0 if confirmation.holds else TOO_MUCH
