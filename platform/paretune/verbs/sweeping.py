"""``sweep`` and ``resume``: from a job to its front."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from paretune.verbs.arguments import job_arguments, overrides, sweep_arguments

INTERRUPTED = 130


def add(verbs: Any) -> None:
    """Add the verbs to the parser."""
    sweep = verbs.add_parser("sweep", help="train, compress, evaluate, measure: from a job to its front")
    job_arguments(sweep)
    sweep.add_argument("--address", help=argparse.SUPPRESS)
    sweep.set_defaults(run=_sweep)
    resume = verbs.add_parser("resume", help="go on with a sweep that was stopped or killed, or show a finished one")
    sweep_arguments(resume)
    resume.add_argument("--address", help=argparse.SUPPRESS)
    resume.set_defaults(run=_resume)


def _sweep(given: argparse.Namespace) -> int:
    from paretune.folders import new_sweep
    from paretune.job import read_plan

    plan = read_plan(given.job, overrides(given))
    return _run(new_sweep(plan, given.name or given.job.stem), given.address)


def _resume(given: argparse.Namespace) -> int:
    from paretune.folders import find_sweep

    return _run(find_sweep(given.runs, given.sweep), given.address)


def _run(sweep: Any, address: str | None) -> int:
    from paretune.sweep import run_sweep

    outcome = run_sweep(sweep, address=address)
    if outcome.finished:
        return 0
    where = "" if str(sweep.runs) == "runs" else f" --runs {sweep.runs}"
    print(f"\nstopped; nothing is lost. To go on: paretune resume {sweep.name}{where}", file=sys.stderr)
    return INTERRUPTED
