"""``doctor``: what this machine can do."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from paretune.cli.options import INCOMPLETE, json_argument, runs_argument


def add(verbs: Any) -> None:
    """Add the verb to the parser."""
    doctor = verbs.add_parser(
        "doctor",
        help="check this machine: versions, disk, cores, GPUs, runtimes, leftovers; what fails has its remedy",
        epilog="every runtime runs a small layer, so it takes a minute or two; "
        "exit code: 0 usable, 1 something essential fails",
    )
    runs_argument(doctor)
    json_argument(doctor)
    doctor.set_defaults(run=_doctor)


def _doctor(given: argparse.Namespace) -> int:
    from paretune.workflows.doctor import examine, examined_text, examined_tree, is_usable

    found = examine(given.runs, lambda line: print(line, file=sys.stderr, flush=True))
    print(json.dumps(examined_tree(found), indent=1) if given.json else examined_text(found))
    return 0 if is_usable(found) else INCOMPLETE
