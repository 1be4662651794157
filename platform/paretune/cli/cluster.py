"""``submit``, ``status``, ``logs``, ``stop`` and ``cluster check``: sweeps on a Ray cluster."""

from __future__ import annotations

import argparse
import functools
import sys
from pathlib import Path
from typing import Any

from paretune.cli.options import INCOMPLETE, answering, first_argument, job_arguments, json_argument, overrides
from paretune.cli.remote import carried, carried_arguments, runs_of
from paretune.cli.resolve import tried_first
from paretune.config.output_folder import DEFAULT
from paretune.core.errors import UserError


def add(verbs: Any) -> None:
    """Add the verbs to the parser."""
    submit = verbs.add_parser("submit", help="run a sweep on a Ray cluster")
    job_arguments(submit)
    first_argument(submit)
    _address(submit)
    text = "print what the cluster has for the job, which stage runs where, and an estimate of time; submit nothing"
    submit.add_argument("--dry-run", action="store_true", help=text)
    submit.add_argument("--no-wait", action="store_true", help="do not follow the log")
    carried_arguments(submit)
    json_argument(submit, "one JSON object when it is submitted, or with the log, at its end")
    submit.set_defaults(run=answering(_submit))
    status = verbs.add_parser("status", help="show the sweeps submitted to a Ray cluster")
    text = "name of a sweep or of a submission: that one, with the end of its log"
    status.add_argument("submission", nargs="?", metavar="SWEEP|ID", help=text)
    _address(status)
    text = "output folder on the cluster: also list its sweeps that the head has forgotten"
    status.add_argument("--runs", type=Path, default=Path(DEFAULT), metavar="FOLDER", help=text)
    json_argument(status)
    status.set_defaults(run=answering(_status))
    logs = verbs.add_parser("logs", help="print the log of a sweep submitted to a Ray cluster")
    logs.add_argument("submission", metavar="SWEEP|ID")
    _address(logs)
    logs.add_argument("--follow", action="store_true", help="until the sweep ends")
    logs.set_defaults(run=_logs)
    stop = verbs.add_parser("stop", help="stop a sweep on a Ray cluster as Ctrl-C stops one; what is done is kept")
    stop.epilog = "exit code: 0 nothing runs it any more, 1 it was stopped, but its folder was not seen to be at rest"
    stop.add_argument("submission", metavar="SWEEP|ID")
    _address(stop)
    json_argument(stop)
    stop.set_defaults(run=answering(_stop))

    parts = verbs.add_parser("cluster", help="check a Ray cluster").add_subparsers(metavar="VERB", required=True)
    text = "compare what a cluster has with what a job needs: nodes, versions, folders, targets, clocks, locks"
    check = parts.add_parser("check", help=text, epilog="exit code: 0 ready, 1 something essential fails")
    check.add_argument("job", type=Path, nargs="?", metavar="JOB.yaml", help="(default: what every job needs)")
    check.add_argument("--set", action="append", default=[], metavar="a.b=value", help="change one field of the job")
    _address(check)
    json_argument(check)
    check.set_defaults(run=answering(_check), trials=None)


def _address(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--address", required=True, metavar="URL", help="of the cluster's head, such as http://HEAD:8265"
    )


def _submit(given: argparse.Namespace) -> int:
    from paretune.config.output_folder import new_sweep_name
    from paretune.config.plan import read_plan
    from paretune.distributed.ray_jobs import submit
    from paretune.workflows.machine_check import refuse_unfit_cluster

    changes, promises = tried_first(given)
    plan = read_plan(given.job, changes, here=False)
    if given.dry_run:
        return _dry_run(given, plan)
    name = new_sweep_name(given.job.stem if given.name is None else given.name)
    trees = [promise.tree() for promise in promises]
    refuse = functools.partial(refuse_unfit_cluster, plan.job)
    job, wait, along = plan.job.tree(), not given.no_wait, carried(given)
    code, submission = submit(job, plan.space_text, trees, name, given.address, refuse, wait=wait, carried=along)
    told = {"sweep": name, "submission": submission, "address": given.address}
    given.answer({**told, "followed": wait, "exit_code": code})
    return code


def _dry_run(given: argparse.Namespace, plan: Any) -> int:
    """Print the check of a cluster for a job, and an estimate of the sweep's time by the cluster."""
    from paretune.distributed.cluster_verbs import estimate_from

    code, told = _checked(given, plan.job)
    if code == 0:
        answer = estimate_from(
            given.address, plan.job.tree(), plan.space_text, given.job.stem if given.name is None else given.name
        )
        print(answer.out or answer.err, end="")
        told["estimate"] = answer.out.splitlines() if answer.code == 0 else None
        told["estimate_missing"] = None if answer.code == 0 else answer.err.strip()
    given.answer(told)
    return code


def _check(given: argparse.Namespace) -> int:
    from paretune.config.plan import read_plan

    job = None if given.job is None else read_plan(given.job, overrides(given), here=False).job
    code, told = _checked(given, job)
    given.answer(told)
    return code


def _checked(given: argparse.Namespace, job: Any) -> tuple[int, dict[str, Any]]:
    """Print the check of a cluster, and return the exit code and the results as plain data."""
    from paretune.workflows.cluster_check import examine_cluster
    from paretune.workflows.doctor import examined_text, examined_tree, is_usable

    found = examine_cluster(given.address, job)
    print(examined_text(found))
    return 0 if is_usable(found) else INCOMPLETE, {"address": given.address, **examined_tree(found)}


def _status(given: argparse.Namespace) -> int:
    from paretune.core.hints import command
    from paretune.distributed.cluster_verbs import forgotten_sweeps
    from paretune.distributed.ray_jobs import status, status_text

    if given.submission is not None and runs_of(given) is not None:
        raise UserError("--runs lists the sweeps of a folder: leave out the name of the sweep")

    submissions = status(given.address, given.submission)
    print(status_text(submissions))
    runs = runs_of(given)
    forgotten = [] if runs is None else forgotten_sweeps(given.address, runs, submissions)
    for one in forgotten:
        again = command("resume", one["name"], "--runs", runs, "--address", given.address)
        print(f"{one['name']}  {one['state']}  {one['done']} done; this head has not seen it begin; to go on: {again}")
    given.answer({"address": given.address, "submissions": submissions, "forgotten": forgotten})
    return 0


def _logs(given: argparse.Namespace) -> int:
    from paretune.distributed.ray_jobs import logs

    return logs(given.address, given.submission, wait=given.follow)


def _stop(given: argparse.Namespace) -> int:
    from paretune.core.hints import command
    from paretune.distributed.cluster_verbs import state_after_stop
    from paretune.distributed.ray_jobs import stop

    told = stop(given.address, given.submission)
    folder = state_after_stop(given.address, told["sweep"])
    again = command("resume", told["sweep"], "--address", given.address)
    print(f"{told['submission']} of sweep {told['sweep']!r}: {told['state']}; to go on: {again}")
    if "reason" in folder:
        print(f"its folder could not be looked at: {folder['reason']}", file=sys.stderr)
    else:
        print(f"its folder: {folder['state']}, {folder['done']} of {folder['budget']} trials are recorded")
    given.answer({"address": given.address, **told, "folder": folder})
    return 0 if folder.get("state") in ("stopped", "finished") else INCOMPLETE
