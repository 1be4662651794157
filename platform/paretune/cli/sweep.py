"""``sweep`` and ``resume``: from a job to its front."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from paretune.cli.options import INTERRUPTED, first_argument, job_arguments, sweep_arguments
from paretune.cli.resolve import tried_first
from paretune.core.errors import UserError


def add(verbs: Any) -> None:
    """Add the verbs to the parser."""
    sweep = verbs.add_parser("sweep", help="train, compress, evaluate, measure: from a job to its front")
    job_arguments(sweep)
    first_argument(sweep)
    text = "print what would run, and estimate time and cost from an earlier sweep or a short probe; write nothing"
    sweep.add_argument("--dry-run", action="store_true", help=text)
    text = "with --dry-run: what an hour of the machine costs, in any currency"
    sweep.add_argument("--price", type=float, metavar="X", help=text)
    sweep.add_argument("--json", action="store_true", help="with --dry-run: one JSON object, in seconds")
    sweep.add_argument("--address", help=argparse.SUPPRESS)
    sweep.add_argument("--promises", type=Path, help=argparse.SUPPRESS)  # those of a submitted sweep
    sweep.set_defaults(run=_sweep)
    resume = verbs.add_parser("resume", help="go on with a sweep that was stopped or killed, or show a finished one")
    sweep_arguments(resume)
    resume.add_argument("--trials", type=int, metavar="N", help="let it try N in all, also where it is finished")
    resume.add_argument("--hours", type=float, metavar="H", help="let it search for H hours in all (search.hours)")
    text = "let its trials take H hours in all (search.device_hours)"
    resume.add_argument("--device-hours", type=float, metavar="H", help=text)
    resume.add_argument("--concurrent", type=int, metavar="N", help="from now on run N trials at once")
    resume.add_argument(
        "--accept-changes", action="store_true", help="go on although data, versions or machine have changed since"
    )
    text = "search although the trained network has not learned (search.allow_unlearned)"
    resume.add_argument("--allow-unlearned", action="store_true", default=None, help=text)
    resume.add_argument("--address", help=argparse.SUPPRESS)
    resume.set_defaults(run=_resume)


def _sweep(given: argparse.Namespace) -> int:
    if not given.dry_run and (given.json or given.price is not None):
        raise UserError("--json and --price are for --dry-run")
    from paretune.config.plan import read_plan
    from paretune.results.advice_outcomes import AdvicePrediction
    from paretune.results.sweep_folder import new_sweep

    changes, promises = tried_first(given)
    if given.promises is not None:
        promises = [AdvicePrediction(**told) for told in json.loads(given.promises.read_text())]
    plan = read_plan(given.job, changes)
    _check_machine(plan.job, given.address)
    if given.dry_run:
        return _print_estimate(plan, given)
    return _run(new_sweep(plan, given.name or given.job.stem, promises), given.address, new=True)


def _print_estimate(plan: Any, given: argparse.Namespace) -> int:
    """Print what a sweep would run and cost."""
    from paretune.results.sweep_cost import estimate_text
    from paretune.workflows.dry_run import dry_run

    expected = dry_run(plan, lambda line: print(line, file=sys.stderr))
    name = given.name or given.job.stem
    if given.json:
        print(json.dumps({"sweep": name, **expected.tree(), "price": given.price}))
    else:
        print(estimate_text(plan.job, name, expected, given.price))
    return 0


def _resume(given: argparse.Namespace) -> int:
    from paretune.results.sweep_changes import change_search
    from paretune.results.sweep_folder import find_sweep

    sweep = find_sweep(given.runs, given.sweep)
    fields = ("trials", "concurrent", "hours", "device_hours", "allow_unlearned")
    changes = {name: getattr(given, name) for name in fields}
    if any(value is not None for value in changes.values()):
        sweep = change_search(sweep, **changes)
    if not sweep.finished:
        _check_machine(sweep.job, given.address)
    return _run(sweep, given.address, accept_changes=given.accept_changes)


def _check_machine(job: Any, address: str | None) -> None:
    """Refuse what this machine cannot do, where no cluster is joined."""
    from paretune.workflows.machine_check import refuse_unfit_machine

    if address is None:
        refuse_unfit_machine(job)


def _run(sweep: Any, address: str | None, *, new: bool = False, accept_changes: bool = False) -> int:
    from paretune.workflows.sweep import run_sweep

    outcome = run_sweep(sweep, address=address, new=new, accept_changes=accept_changes)
    if outcome.finished:
        return 0
    print(f"\nstopped; nothing is lost. To go on: {sweep.command('resume')}", file=sys.stderr)
    return INTERRUPTED
