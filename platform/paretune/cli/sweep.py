"""``sweep`` and ``resume``: from a job to its front."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from paretune.cli.options import (
    INTERRUPTED,
    answering,
    first_argument,
    job_arguments,
    json_argument,
    sweep_arguments,
)
from paretune.cli.remote import address_argument, carried, carried_arguments, runs_of, without
from paretune.cli.resolve import tried_first
from paretune.core.errors import UserError
from paretune.distributed import forwarded_env

ON_CLUSTER = "auto"
"""Address by which a submitted job joins the cluster that it runs on."""
LOCAL, FLAGS = ("--address", "--runs", "--env", "--pip"), ("--no-wait", "--json")
"""Options of `resume` that are not for the command on the cluster: with a value, and without."""
AT_END = "one JSON object at the end, the front; what goes on is printed on stderr"


def add(verbs: Any) -> None:
    """Add the verbs to the parser."""
    sweep = verbs.add_parser("sweep", help="train, compress, evaluate, measure: from a job to its front")
    job_arguments(sweep)
    first_argument(sweep)
    text = "print what would run, and estimate time and cost from an earlier sweep or a short probe; write nothing"
    sweep.add_argument("--dry-run", action="store_true", help=text)
    text = "with --dry-run: what an hour of the machine costs, in any currency"
    sweep.add_argument("--price", type=float, metavar="X", help=text)
    json_argument(sweep, f"{AT_END}; with --dry-run the estimate in seconds")
    sweep.add_argument("--address", help=argparse.SUPPRESS)
    sweep.add_argument("--promises", type=Path, help=argparse.SUPPRESS)  # those of a submitted sweep
    sweep.set_defaults(run=answering(_sweep))
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
    address_argument(resume, "of a Ray cluster's head, such as http://HEAD:8265: go on there")
    resume.add_argument("--no-wait", action="store_true", help="with --address: do not follow the log")
    carried_arguments(resume)
    json_argument(resume, AT_END)
    resume.set_defaults(run=answering(_resume))


def _sweep(given: argparse.Namespace) -> int:
    if not given.dry_run and given.price is not None:
        raise UserError("--price is for --dry-run")
    if given.address is not None:
        forwarded_env.load()
    from paretune.api.running import begin_sweep
    from paretune.config.plan import read_plan
    from paretune.results.advice_outcomes import AdvicePrediction

    changes, promises = tried_first(given)
    if given.promises is not None:
        promises = [AdvicePrediction(**told) for told in json.loads(given.promises.read_text())]
    plan = read_plan(given.job, changes)
    if given.dry_run:
        return _print_estimate(plan, given)
    name = given.job.stem if given.name is None else given.name
    return _run(lambda reporter: begin_sweep(plan, name, reporter, promises, address=given.address), given)


def _print_estimate(plan: Any, given: argparse.Namespace) -> int:
    """Print what a sweep would run and cost."""
    from paretune.results.sweep_cost import estimate_text
    from paretune.workflows.dry_run import dry_run
    from paretune.workflows.machine_check import refuse_unfit_machine

    if given.address is None:
        refuse_unfit_machine(plan.job)
    expected = dry_run(plan, lambda line: print(line, file=sys.stderr))
    name = given.job.stem if given.name is None else given.name
    if given.json:
        given.answer({"sweep": name, **expected.tree(), "price": given.price})
    else:
        print(estimate_text(plan.job, name, expected, given.price))
    return 0


def _resume(given: argparse.Namespace) -> int:
    if given.address not in (None, ON_CLUSTER):
        return _resume_there(given)
    if given.address is None and (given.no_wait or given.env or given.pip):
        raise UserError("--no-wait, --env and --pip are for --address")
    if given.address is not None:
        forwarded_env.load()
    from paretune.api.running import changed_sweep, finish_sweep

    fields = ("trials", "concurrent", "hours", "device_hours", "allow_unlearned")
    limits = {name: getattr(given, name) for name in fields}
    sweep = changed_sweep(given.runs, given.sweep, address=given.address, **limits)
    changes = given.accept_changes
    return _run(lambda reporter: finish_sweep(sweep, reporter, address=given.address, accept_changes=changes), given)


def _resume_there(given: argparse.Namespace) -> int:
    """Go on with a sweep on a Ray cluster."""
    from paretune.distributed.ray_jobs import resume

    options = without(given.words[1:], *LOCAL, *FLAGS, flags=FLAGS)
    options.remove(given.sweep)
    wait = not given.no_wait
    code, submission = resume(given.sweep, runs_of(given), given.address, options, wait=wait, carried=carried(given))
    told = {"sweep": given.sweep, "submission": submission, "address": given.address}
    given.answer({**told, "followed": wait, "exit_code": code})
    return code


def _run(begin: Callable[[Any], Any], given: argparse.Namespace) -> int:
    """Run a sweep to its end, and print how to go on with one that is stopped."""
    from paretune.api.running import Stopped
    from paretune.core.console import live_console
    from paretune.workflows.sweep_reporter import SweepReporter

    stopped = None
    try:
        sweep = begin(lambda made: SweepReporter(made, None if given.json else live_console()))
    except Stopped as stop:
        stopped, sweep = stop, stop.sweep
    if given.json:
        from paretune.results.front_summary import front_tree

        given.answer({"finished": stopped is None, "folder": str(sweep.folder), **front_tree(sweep)})
    if stopped is None:
        return 0
    print(f"\nstopped; nothing is lost. To go on: {stopped}", file=sys.stderr)
    return INTERRUPTED
